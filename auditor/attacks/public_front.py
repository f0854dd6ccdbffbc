"""The attacker who knows the public weights a model was fine-tuned from.

Transfer learning that freezes the early layers (TL-DMI: Ho et al., CVPR 2024, arXiv 2405.05588) leaves a front that is
public: whoever has the public weights knows it to the last bit, may run it without asking anybody, and finds what was
learned in private in the rest alone. Here the rest is attacked first, over features that keep to what the front makes
of public pictures; then a picture is sought whose features those are. The TL-DMI paper leaves this attacker out; the
construction is this project's own.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from auditor.attacks.base import KeyedContext, Rows
from auditor.attacks.gradient import Adam, cosine, descend
from auditor.attacks.objectives import Scene, Term, cross_entropy
from auditor.attacks.rows import Chunks
from auditor.components import principal_components
from auditor.targets.views import WhiteBoxView

COMPONENTS = 256
"""Directions in which the features may differ from their public mean, at most."""
_LEARNED_FROM = 2000
"""Public images whose features are looked at, at most."""
_TYPICAL = 1.0
"""Weight of the squared coordinates, per coordinate: how strongly features are held to what public pictures give."""


class PublicFront(nn.Module):
    """Coordinates of the front's features: along the principal components of public pictures' features, unit variance.

    Attributes:
        mean: (F,) mean public feature.
        directions: (F, D) orthonormal.
        deviations: (D,) standard deviation of the public features along each.
    """

    mean: Tensor
    directions: Tensor
    deviations: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(0))
        self.register_buffer("directions", torch.zeros(0, 0))
        self.register_buffer("deviations", torch.zeros(0))
        self.register_load_state_dict_pre_hook(_take_sizes)

    @torch.no_grad()
    def measure(self, view: WhiteBoxView, images: Tensor, ctx: KeyedContext, *, stage: str) -> None:
        """Fill the buffers from (N, C, H, W) public images; the target is not asked."""
        images = images[torch.randperm(len(images), generator=ctx.rng("front", "images"))[:_LEARNED_FROM]]

        def features(rows: slice) -> Tensor:
            ctx.tick(stage, rows.stop, len(images))
            return view.front(images[rows].to(ctx.device)).flatten(1).cpu()

        seen = torch.cat(Chunks(ctx).map(len(images), features))
        found = principal_components(seen, min(COMPONENTS, len(seen) - 1), ctx.rng("front", "components"))
        self.mean, self.directions = found.mean, found.directions
        self.deviations = found.deviations.clamp_min(1e-3 * float(found.deviations[0]) + 1e-12)
        self.to(ctx.device)

    def coordinates(self, features: Tensor) -> Tensor:
        """(B, ...) features to (B, D) float32."""
        return (features.flatten(1).float() - self.mean) @ self.directions / self.deviations

    def features(self, coordinates: Tensor) -> Tensor:
        """(B, D) to (B, F): the features of these coordinates, with nothing outside the components."""
        return self.mean + (coordinates * self.deviations) @ self.directions.T


def blank_front() -> nn.ModuleDict:
    """The helper network of an attack that uses the public front, before `measure_front`."""
    return nn.ModuleDict({"front": PublicFront()})


def measure_front(aids: nn.ModuleDict, view: WhiteBoxView, public: Tensor, ctx: KeyedContext, *, stage: str) -> None:
    """Fill `blank_front()` from (N, C, H, W) public images; the target is not asked."""
    cast(PublicFront, aids["front"]).measure(view, public, ctx, stage=stage)


def _take_sizes(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Sizes are known only once the front was seen: take them from what is loaded."""
    for name, buffer in list(module.named_buffers()):
        setattr(module, name, torch.empty_like(state.get(f"{prefix}{name}", buffer)))


class _BehindTheFront:
    """Cross-entropy over coordinates of features, sent through the part of the target behind its front.

    It fades as the class becomes certain, so that features stay as ordinary as they can.
    """

    queries_per_row = 1

    def __init__(self, view: WhiteBoxView, front: PublicFront, labels: Tensor, ctx: KeyedContext) -> None:
        self._view, self._front, self._ctx = view, front, ctx
        self._labels = labels.to(ctx.device)

    def __call__(self, latents: Tensor, index: Tensor, step: int) -> Tensor:
        """(B, D) coordinates of rows `index` to (B,) losses."""
        features = self._front.features(latents).unflatten(1, self._view.front_shape)
        with self._ctx.autocast():
            logits = self._view.behind_front(features)
        typical = (latents.square().mean(dim=1) - 1).clamp_min(0)
        return cross_entropy(logits.float(), self._labels[index.to(self._labels.device)]) + _TYPICAL * typical


def wanted_features(
    view: WhiteBoxView,
    front: PublicFront,
    pictures: Tensor,
    rows: Rows,
    *,
    steps: int,
    lr: float,
    chunks: Chunks,
    ctx: KeyedContext,
    stage: str,
) -> tuple[Tensor, list[str]]:
    """(N, D) coordinates that the private part of the target takes for each row's class, and remarks.

    Costs one query a row and step, which goes through the part behind the front alone.

    Args:
        view: the target.
        front: measured.
        pictures: (N, C, H, W) in [0, 1], from whose features the descent starts.
        rows: the rows.
        steps: of Adam.
        lr: its step size, annealed to zero by a cosine.
        chunks: rows per pass.
        ctx: device, progress.
        stage: name for progress.
    """

    @torch.no_grad()
    def start(part: slice) -> Tensor:
        return front.coordinates(view.front(pictures[part].to(ctx.device)))

    end = descend(
        torch.cat(chunks.map(len(pictures), start)),
        _BehindTheFront(view, front, rows.labels, ctx),
        Adam(lr, (0.9, 0.99)),
        steps=steps,
        view=view,
        chunks=chunks,
        ctx=ctx,
        stage=stage,
        schedule=cosine,
    )
    return end.latents, end.notes


def draws_features(view: WhiteBoxView, front: PublicFront, wanted: Tensor) -> Term:
    """Mean squared distance of the picture's coordinates, before augmentation, from (N, D) `wanted` ones."""

    def term(scene: Scene) -> Tensor:
        goal = wanted.to(scene.images.device)[scene.index.to(wanted.device)]
        return (front.coordinates(view.front(scene.images)) - goal).square().mean(dim=1)

    return term


def pull_behind_front(
    view: WhiteBoxView,
    pictures: Tensor,
    rows: Rows,
    *,
    steps: int,
    lr: float,
    chunks: Chunks,
    ctx: KeyedContext,
    stage: str,
) -> tuple[Term, list[str]]:
    """The pull to the features that the private part likes best, and remarks; arguments as for `wanted_features`.

    Raises:
        ValueError: `ctx.aids` hold no front.
    """
    if ctx.aids is None:
        raise ValueError("the attack was not given its public front")
    front = cast(PublicFront, ctx.aids["front"])
    wanted, notes = wanted_features(
        view, front, pictures, rows, steps=steps, lr=lr, chunks=chunks, ctx=ctx, stage=f"{stage} behind the front"
    )
    return draws_features(view, front, wanted), notes
