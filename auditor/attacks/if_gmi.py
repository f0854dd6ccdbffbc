"""IF-GMI: what PPA finds, improved further in the feature maps between the parts of the generator."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from auditor.attacks.base import KeyedContext, Rows
from auditor.attacks.gradient import Adam, Descent, cosine, descend
from auditor.attacks.objectives import Objective
from auditor.attacks.ppa import Drawing, Optimised, Ppa, PpaConfig
from auditor.attacks.rows import Chunks
from auditor.contracts.access import Access
from auditor.contracts.cost import Cost
from auditor.priors.base import Prior, Trait
from auditor.targets.views import WhiteBoxView


class IfGmiConfig(PpaConfig):
    """Parameters of IF-GMI: PPA's for the latent, and those of the features."""

    steps: int = Field(default=100, ge=1)
    """On the latent, before the features."""
    candidates: int = Field(default=1, ge=1)
    """Latents optimised per wanted sample; above 1 the most robust are kept, as PPA does (the paper keeps all)."""
    loss: Literal["auto", "max-margin", "poincare", "cross-entropy"] = "auto"
    """`auto`: cross-entropy below 50 classes, else Poincaré, as the paper has it."""
    stages: int = Field(default=3, ge=1)
    """Later parts of the generator whose input is optimised, at most, beginning with the one next to the latent."""
    stage_steps: int = Field(default=20, ge=1)
    """Updates per part (paper: 10)."""
    stage_lr: float = Field(default=0.05, gt=0)
    """Step size of a part's Adam, in units of the features' mean magnitude; annealed to zero by a cosine."""
    radius: float = Field(default=0.15, ge=0)
    """Largest L1 distance of the features from where they began, as a share of their L1 norm; 0 leaves them."""


class IfGmi(Ppa):
    """PPA's search and descent, then the same loss over the features that enter each later part of the generator.

    The latent cannot reach every picture the generator's later parts could draw; features can, and stay near what the
    generator makes of a latent as long as they stay in an L1 ball around it. Part after part, each starts from what the
    one before it left, with a fresh Adam, and the last one's pictures are the result.

    Departures: radii are a share of the features' own norm (the paper's are set by hand for one StyleGAN2, and grow
    from part to part); only features are moved, as the priors here hand everything on in them, where StyleGAN2 also
    feeds w to every layer and hands an RGB sum past them (which the paper's code drops); the features' Adam works in
    units of their magnitude. The latent's departures are PPA's, and the adaptive options too, but not the loss for few
    classes: max-margin never fades, nothing holds features back but the ball, and on five digits of MNIST it led them
    away from the classes (mean squared distance to the nearest real picture in an evaluator's features 388 to 458 with
    a DCGAN), where cross-entropy brought them nearer (382 to 358; 318 to 304 with a VAE).
    """

    name = "if-gmi"
    access = Access.WHITE_BOX
    paper = "Qiu, Fang, Yu, Chen, Qiu and Xia, ECCV 2024, arXiv 2407.13863"
    Config = IfGmiConfig
    config: IfGmiConfig
    needs = frozenset({Trait.STAGES})
    few_classes_loss: Literal["max-margin", "cross-entropy"] = "cross-entropy"

    def cost(self, attacked: int, samples_per_class: int, n_classes: int) -> Cost:
        """PPA's, and that of all `stages`, of which a prior may have fewer."""
        config, base = self.config, super().cost(attacked, samples_per_class, n_classes)
        steps = attacked * samples_per_class * config.candidates * config.stages * config.stage_steps
        return base.model_copy(
            update={
                "forward": base.forward + steps * config.averaged,
                "backward": base.backward + steps * config.averaged,
                "gradient_decodes": base.gradient_decodes + steps,
                "bound": True,
            }
        )

    def _optimise(
        self,
        view: WhiteBoxView,
        prior: Prior,
        start: Tensor,
        tried: Rows,
        chunks: Chunks,
        ctx: KeyedContext,
        fracs: tuple[float, ...],
    ) -> Optimised:
        """PPA's descent, then one for each later part."""
        config, parts = self.config, prior.stages
        n_later = min(config.stages, len(parts) - 1)
        spans = _spans(fracs, [config.steps] + n_later * [config.stage_steps])
        done = super()._optimise(view, prior, start, tried, chunks, ctx, tuple(spans[0].values()))
        drawn = dict(zip(spans[0], (draw for _, draw in done.path), strict=True))
        x = done.latents
        for number in range(1, n_later + 1):
            if not done.complete:
                break
            features = Features(_through(parts[number - 1], x, chunks), parts[number:])
            end = self._descend(view, prior, features, tried, chunks, ctx, number, tuple(spans[number].values()))
            drawn |= zip(spans[number], (features.drawing(change, chunks) for _, change in end.path), strict=True)
            x = features.changed(end.latents, torch.arange(len(tried)))
            done.draw, done.complete = features.drawing(end.latents, chunks), end.complete
            done.loss = done.loss if end.loss is None else end.loss
            done.notes += end.notes
        done.path = tuple((frac, drawn.get(frac, done.draw)) for frac in fracs)
        return done

    def _descend(
        self,
        view: WhiteBoxView,
        prior: Prior,
        features: Features,
        tried: Rows,
        chunks: Chunks,
        ctx: KeyedContext,
        number: int,
        fracs: tuple[float, ...],
    ) -> Descent:
        """Change the features that enter part `number`."""
        config = self.config
        radius = config.radius * features.size
        objective = Objective(
            view,
            prior,
            tried.labels,
            ((1.0, self._identity(view, tried)),),
            ctx,
            augmenter=self._augmenter(tried, ctx, f" {number}"),
            channels_last=config.channels_last,
            draw=features.images,
        )
        return descend(
            torch.zeros(len(tried), features.size),
            objective,
            Adam(config.stage_lr, config.betas),
            steps=config.stage_steps,
            view=view,
            chunks=chunks,
            ctx=ctx,
            stage=f"{self.name} part {number}",
            constrain=lambda change: project_l1(change, radius),
            schedule=cosine,
            fracs=fracs,
        )


class Features:
    """What enters a part of the generator, row by row, and the pictures of changes of it.

    A change is (B, size), in units of the row's mean magnitude: its L1 norm over `size` is the share of the features'.

    Args:
        values: (N, ...) the features.
        parts: the part they enter, and those after it.
    """

    def __init__(self, values: Tensor, parts: tuple[nn.Module, ...]) -> None:
        self._flat, self._shape, self._parts = values.flatten(1), values.shape[1:], parts
        self._unit = self._flat.abs().mean(dim=1, keepdim=True)
        last = values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last)
        self._layout = torch.channels_last if last else torch.contiguous_format
        self.size = self._flat.shape[1]

    def changed(self, change: Tensor, index: Tensor) -> Tensor:
        """(B, ...) the features of rows `index` (B,) after the change, in the layout they came in."""
        index = index.to(self._flat.device)
        flat = self._flat[index] + self._unit[index] * change
        values: Tensor = flat.unflatten(1, self._shape).contiguous(memory_format=self._layout)
        return values

    def images(self, change: Tensor, index: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1]; differentiable."""
        images = self.changed(change, index)
        for part in self._parts:
            images = part(images)
        return images.float()

    def drawing(self, change: Tensor, chunks: Chunks) -> Drawing:
        """Draws any of the rows after the changes (N, size)."""

        @torch.no_grad()
        def draw(index: Tensor) -> Tensor:
            parts = chunks.map(len(index), lambda rows: self.images(change[index[rows]], index[rows]).cpu())
            return torch.cat(parts)

        return draw


def project_l1(x: Tensor, radius: float) -> Tensor:
    """The nearest rows of L1 norm at most `radius` (Duchi et al., ICML 2008): all coordinates shrink by one threshold.

    (B, D) to the same; rows inside, up to rounding, are left as they are, so that projecting twice changes nothing.
    """
    size = x.double().abs()
    ordered = size.sort(dim=1, descending=True).values
    excess = (ordered.cumsum(dim=1) - radius) / torch.arange(1, x.shape[1] + 1, device=x.device)
    last = (ordered > excess).sum(dim=1, keepdim=True).clamp_min(1) - 1  # of the coordinates that stay
    shrunk = (size - excess.gather(1, last)).clamp_min(0).to(x.dtype) * x.sign()
    outside = size.sum(dim=1, keepdim=True) > radius * (1 + 1e-6)
    return torch.where(outside, shrunk, x)


@torch.no_grad()
def _through(part: nn.Module, x: Tensor, chunks: Chunks) -> Tensor:
    """All rows of `x` (N, ...) through `part`, in float32 whatever the autocast policy."""
    return torch.cat(chunks.map(len(x), lambda rows: part(x[rows])))


def _spans(fracs: tuple[float, ...], steps: list[int]) -> list[dict[float, float]]:
    """For every stretch of `steps`: the fractions of the whole that fall into it, and which of the stretch they are."""
    spans, begin = [], 0
    for length in steps:
        places = {frac: frac * sum(steps) - begin for frac in fracs}
        spans.append(
            {frac: place / length for frac, place in places.items() if 0 < place <= length or frac == begin == 0}
        )
        begin += length
    return spans
