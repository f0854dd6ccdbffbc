"""What an attack minimises: identity losses, prior losses, and their weighted sum; everything is per sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from auditor.attacks.augment import Augmenter
from auditor.attacks.base import KeyedContext
from auditor.priors.base import Prior
from auditor.targets.views import WhiteBoxView


@dataclass(frozen=True)
class Scene:
    """What one forward pass of a chunk of rows shows to the terms.

    Attributes:
        latents: (B, D) float32.
        images: (B, C, H, W) float32 in [0, 1], before augmentation.
        logits: (A, B, K) float32, one per augmented copy.
        labels: (B,) int64.
        prior: whose pictures these are.
        index: (B,) int64 on the CPU, which rows these are.
    """

    latents: Tensor
    images: Tensor
    logits: Tensor
    labels: Tensor
    prior: Prior
    index: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))


IdentityLoss = Callable[[Tensor, Tensor], Tensor]
"""(B, K) float32 logits and (B,) labels to (B,)."""
Term = Callable[[Scene], Tensor]
"""A scene to (B,)."""
WeightedTerms = tuple[tuple[float, Term], ...]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """`logsumexp(o) - o_y`; its gradient fades as the class becomes certain."""
    return torch.logsumexp(logits, dim=1) - logits.gather(1, labels[:, None]).squeeze(1)


def max_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """`max_{j != y} o_j - o_y` (Yuan et al., AAAI 2023, arXiv 2302.09814); unbounded, does not fade."""
    wanted = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    return others - wanted


def poincare(logits: Tensor, labels: Tensor) -> Tensor:
    """Poincaré distance of the L1-normalised logits to the class (Struppek et al., ICML 2022, arXiv 2201.12179).

    Made for many classes: below about fifty it misleads. Logits are centred first, so that log-probabilities, which are
    logits up to a shift, give the same loss; the paper takes them as they are. Denominators and the argument of arccosh
    are kept off their singularities, where the gradient is infinite.
    """
    logits = logits - logits.mean(dim=1, keepdim=True)
    u = logits / logits.abs().sum(dim=1, keepdim=True).clamp_min(1e-7)
    v = (one_hot(labels, logits.shape[1]).to(u.dtype) - 1e-4).clamp(0, 1)
    below = (1 - u.square().sum(dim=1)).clamp_min(1e-7) * (1 - v.square().sum(dim=1)).clamp_min(1e-7)
    return torch.acosh((1 + 2 * (u - v).square().sum(dim=1) / below).clamp_min(1 + 1e-7))


IDENTITY_LOSSES: dict[str, IdentityLoss] = {
    "cross-entropy": cross_entropy,
    "max-margin": max_margin,
    "poincare": poincare,
}


def identity(loss: IdentityLoss) -> Term:
    """The mean of `loss` over the augmented copies."""

    def term(scene: Scene) -> Tensor:
        copies = scene.logits.shape[0]
        labels = scene.labels.repeat(copies)
        return loss(scene.logits.flatten(0, 1), labels).view(copies, -1).mean(dim=0)

    return term


def towards(confidence: Tensor) -> Term:
    """`|log p_y - log p*|`, averaged over the copies: certainty up to a point, and away from it again beyond.

    A defense may cap the confidence of real pictures, or plant shortcuts to full confidence, so that whoever pushes it
    higher leaves the data behind: confidence adaptation (Yu et al., arXiv 2410.05814) caps it at exp(-1/8) = 0.88,
    trapdoors (Liu and Chen, NeurIPS 2024, arXiv 2411.08460) make the shortcuts. At p* = 1 this is the cross-entropy.

    Args:
        confidence: (N,) in (0, 1], the p* of every row.
    """

    def term(scene: Scene) -> Tensor:
        goal = confidence[scene.index].log().to(scene.logits.device).repeat(len(scene.logits))
        return identity(lambda logits, labels: (cross_entropy(logits, labels) + goal).abs())(scene)

    return term


def unreal(scene: Scene) -> Tensor:
    """Minus the prior's critic score: how fake the picture looks (Zhang et al., CVPR 2020, arXiv 1911.07135)."""
    score = scene.prior.critic(scene.images)
    if score is None:
        raise ValueError(f"prior '{scene.prior.name}' has no critic")
    return -score.float()


def latent_energy(scene: Scene) -> Tensor:
    """Half the mean squared latent: minus the log-density of N(0, I) per coordinate, up to a constant."""
    return 0.5 * scene.latents.square().mean(dim=1)


def latent_shell(scene: Scene) -> Tensor:
    """Squared excess of the latent's norm over the typical one, sqrt(D); zero inside the shell where N(0, I) lives."""
    radius = scene.latents.square().mean(dim=1).clamp_min(1e-12).sqrt()
    return (radius - 1).clamp_min(0).square()


class Objective:
    """A weighted sum of terms over pictures of latents, as the target sees them.

    Args:
        view: the target.
        prior: paints the latents.
        labels: (N,) int64, the class each row is aimed at.
        terms: weights and terms; zero weights are left out.
        ctx: device and autocast policy; networks run under it, losses in float32.
        augmenter: random transforms between picture and target; None: none.
        draw: (B, D) latents of rows `index` (B,) to their pictures in [0, 1]; None: the prior's `decode`.
        channels_last: memory layout of the pictures given to the target.
    """

    def __init__(
        self,
        view: WhiteBoxView,
        prior: Prior,
        labels: Tensor,
        terms: WeightedTerms,
        ctx: KeyedContext,
        *,
        augmenter: Augmenter | None = None,
        draw: Callable[[Tensor, Tensor], Tensor] | None = None,
        channels_last: bool = True,
    ) -> None:
        self._draw = draw
        self._view, self._prior, self._ctx, self._augmenter = view, prior, ctx, augmenter
        self._labels = labels.to(ctx.device)
        self._terms = tuple((weight, term) for weight, term in terms if weight)
        self._layout = torch.channels_last if channels_last else torch.contiguous_format

    @property
    def queries_per_row(self) -> int:
        """Images one evaluation of one row sends through the target."""
        return self._augmenter.copies if self._augmenter else 1

    def __call__(self, latents: Tensor, index: Tensor, step: int) -> Tensor:
        """Loss of each row.

        Args:
            latents: (B, D) on the context's device.
            index: (B,) int64 on the CPU: which rows these are.
            step: of the optimisation, for the augmentations.

        Returns:
            (B,) float32; row i depends on row i alone.
        """
        labels = self._labels[index.to(self._labels.device)]
        with self._ctx.autocast():
            images = self._draw(latents, index) if self._draw else self._prior.decode(latents, labels)
            seen = self._augmenter(images, index, step) if self._augmenter else images
            logits = self._view.logits(seen.contiguous(memory_format=self._layout))
        scene = Scene(
            latents=latents,
            images=images.float(),
            logits=logits.float().unflatten(0, (self.queries_per_row, -1)),
            labels=labels,
            prior=self._prior,
            index=index,
        )
        total = torch.zeros(len(latents), device=latents.device)
        for weight, term in self._terms:
            total = total + weight * term(scene)
        return total
