"""rMLE: the image whose features are those that were seen, found by gradient, with total variation as the prior."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from auditor.attacks.base import AttackConfig, Inversion, KeyedContext, Rows
from auditor.attacks.gradient import Adam, cosine, descend
from auditor.attacks.rows import Chunks
from auditor.attacks.split.base import Shape, SplitAttack
from auditor.attacks.split.inverse_network import blank_decoder, decode, decoder_recipe, train_decoder
from auditor.attacks.split.matching import FeatureMatch, in_range
from auditor.attacks.split.training import DecoderConfig
from auditor.targets.views import Knowledge, SplitView
from auditor.tensors import RunContext


class RmleConfig(AttackConfig):
    """Parameters of rMLE."""

    start: Literal["decoder", "grey"] = "decoder"
    """`decoder`: what an inverse network draws; `grey`: a blank picture, for who owns no public images."""
    steps: int = Field(default=400, ge=1)
    """Updates (the paper: 5,000)."""
    lr: float = Field(default=0.02, gt=0)
    """Of Adam, in units of the pixel range, falling to zero along half a cosine."""
    tv_weight: float = Field(default=0.05, ge=0)
    """Weight of the total variation beside the relative feature error."""
    decoder: DecoderConfig = Field(default_factory=DecoderConfig)
    """Used by `start: decoder`; with the inverse network's own parameters the two share one decoder."""


class Rmle(SplitAttack[RmleConfig]):
    """Regularised maximum likelihood: descend the relative feature error plus total variation over the pixels.

    Departures: the paper starts from a blank picture, where dead units give no gradient; by default this starts from
    the inverse network's picture. The feature error is divided by the features' own square, so that one weight of the
    total variation serves every layer; no term on the picture's square. Pixels are kept in [0, 1]. Plain Adam with a
    falling step size in place of AMSGrad.
    """

    name = "rmle"
    knowledge = Knowledge.ENCODER
    paper = "He, Zhang and Lee, ACSAC 2019"
    Config = RmleConfig

    def aids(self, image_shape: Shape, feature_shape: Shape) -> nn.ModuleDict | None:
        """The decoder to start from."""
        if self.config.start == "grey":
            return None
        return blank_decoder(self.config.decoder, image_shape, feature_shape)

    @property
    def recipe(self) -> dict[str, Any]:
        """The decoder's parameters."""
        return decoder_recipe(self.config.decoder)

    def train_aids(self, aids: nn.ModuleDict, view: SplitView, public: Tensor, ctx: RunContext) -> None:
        """As the inverse network."""
        train_decoder(aids, self.config.decoder, view, public, ctx)

    def rebuild(self, view: Any, activations: Tensor, rows: Rows, ctx: KeyedContext) -> Inversion:
        """One picture per row; `steps` queries each. The start may be the decoder's picture: no find of its own."""
        config, chunks = self.config, Chunks(ctx)
        if config.start == "decoder":
            start, _ = decode(ctx, activations, chunks)
        else:
            start = torch.full((len(rows), *view.image_shape), 0.5)
        end = descend(
            start.flatten(1),
            FeatureMatch(view.encode, activations, view.image_shape, config.tv_weight, ctx),
            Adam(config.lr),
            steps=config.steps,
            view=view,
            chunks=chunks,
            ctx=ctx,
            stage=self.name,
            constrain=in_range,
            schedule=cosine,
        )
        return Inversion(
            start=start,
            images=end.latents.unflatten(1, view.image_shape),
            notes=end.notes + chunks.notes,
            complete=end.complete,
        )
