"""The query-free attack: a shadow of the device's part, learned from the server's part alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from auditor.attacks.base import AttackConfig, Inversion, KeyedContext, Rows
from auditor.attacks.gradient import Adam, cosine, descend
from auditor.attacks.rows import Chunks
from auditor.attacks.split.base import Shape, SplitAttack
from auditor.attacks.split.matching import FeatureMatch, in_range, standardised_error
from auditor.attacks.split.networks import Shadow
from auditor.attacks.split.training import fit_network
from auditor.targets.views import Knowledge, QueryCounter, SplitView
from auditor.tensors import RunContext


class QueryFreeConfig(AttackConfig):
    """Parameters of the query-free attack."""

    width: int = Field(default=48, ge=4)
    """Channels of the shadow."""
    shadow_steps: int = Field(default=2000, ge=1)
    """Updates of the shadow."""
    batch: int = Field(default=32, ge=2)
    shadow_lr: float = Field(default=1e-3, gt=0)
    steps: int = Field(default=400, ge=1)
    """Updates of the pictures (the paper: 500)."""
    lr: float = Field(default=0.05, gt=0)
    """In units of the pixel range (the paper: 0.1)."""
    tv_weight: float = Field(default=5.0, ge=0)
    """Weight of the total variation beside the feature error; larger than for rMLE, since the shadow is only like."""


@dataclass(frozen=True)
class _Unmetered:
    """What the engine asks for a budget: the shadow is the attacker's own."""

    counter: QueryCounter = field(default_factory=QueryCounter)


class QueryFree(SplitAttack[QueryFreeConfig]):
    """Train a shadow that makes the server's part sure of itself on public images, then rMLE against the shadow.

    The attacker owns the server's part and saw activations pass; the device's part is never asked anything.

    Departures: the paper labels auxiliary images with the target's own classes and minimises the cross-entropy. Public
    images here show other classes, so no such labels exist; the shadow is trained by information maximisation instead
    (each answer of the server's part sure, all classes alike in number: Liang, Hu and Feng, ICML 2020, arXiv
    2002.08546). Nothing fixes the scale of a shadow's features, so they are compared up to scale and offset. Without
    labels little ties the shadow's features to the device's: expect far less than the paper reports, often no more
    than the mean public image.
    """

    name = "query-free"
    knowledge = Knowledge.TAIL
    paper = "He, Zhang and Lee, ACSAC 2019; Liang, Hu and Feng, ICML 2020, arXiv 2002.08546 (without labels)"
    Config = QueryFreeConfig

    def aids(self, image_shape: Shape, feature_shape: Shape) -> nn.ModuleDict:
        """The shadow."""
        return nn.ModuleDict({"shadow": Shadow(image_shape, feature_shape, width=self.config.width)})

    @property
    def recipe(self) -> dict[str, Any]:
        """The shadow's parameters."""
        names = ("width", "shadow_steps", "batch", "shadow_lr")
        return {"shadow": {name: getattr(self.config, name) for name in names}}

    def train_aids(self, aids: nn.ModuleDict, view: SplitView, public: Tensor, ctx: RunContext) -> None:
        """Information maximisation through the frozen server's part."""
        shadow: Any = aids["shadow"]
        shadow.mean_image.copy_(public.mean(dim=0))
        fit_network(
            shadow,
            lambda images: uninformative(view.tail(shadow(images)).float()),
            public,
            ctx,
            steps=self.config.shadow_steps,
            batch=self.config.batch,
            lr=self.config.shadow_lr,
            stage="shadow",
        )

    def rebuild(self, view: Any, activations: Tensor, rows: Rows, ctx: KeyedContext) -> Inversion:
        """From the mean public image; no query to the device's part."""
        if ctx.aids is None:
            raise ValueError("the shadow was not trained")
        shadow: Any = ctx.aids["shadow"]
        config, chunks = self.config, Chunks(ctx)
        start = shadow.mean_image.cpu().expand(len(rows), *view.image_shape).clone()
        unmetered: Any = _Unmetered()
        end = descend(
            start.flatten(1),
            FeatureMatch(shadow, activations, view.image_shape, config.tv_weight, ctx, distance=standardised_error),
            Adam(config.lr),
            steps=config.steps,
            view=unmetered,
            chunks=chunks,
            ctx=ctx,
            stage=self.name,
            constrain=in_range,
            schedule=cosine,
        )
        return Inversion(start=start, images=end.latents.unflatten(1, view.image_shape), notes=end.notes + chunks.notes)


def uninformative(logits: Tensor) -> Tensor:
    """Mean entropy of the answers minus the entropy of the mean answer; (B, K) to a scalar in nats, at least -ln K."""
    logs = log_softmax(logits, dim=1)
    single = -(logs.exp() * logs).sum(dim=1).mean()
    mean = logs.exp().mean(dim=0)
    return single + (mean * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()).sum()
