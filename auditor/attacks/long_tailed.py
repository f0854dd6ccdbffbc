"""A stand-in for the target learned from few answers, most of them about few classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, nll_loss

from auditor.attacks.base import KeyedContext
from auditor.priors.base import Prior

EXPERTS = 3
TEMPERATURE = 0.5
"""At which target and experts are compared."""
RARITY = 0.9
"""Base b of the class weights (1 - b) / (1 - b^(n + 1)): how soon another sample of a class counts for nothing."""


@dataclass(frozen=True)
class Imitation:
    """How experts are trained on the target's answers (SMILE, Li et al., CVPR 2025, arXiv 2503.16266).

    Attributes:
        epochs: passes over the samples.
        batch_size: samples per update.
        lr: step size of Adam.
        hard_weight: of the cross-entropy with the target's winning class, beside the divergence from its scores.
        diversity_weight: of the sum over experts of the inverse divergence from their mean.
    """

    epochs: int
    batch_size: int
    lr: float
    hard_weight: float
    diversity_weight: float

    def loss(self, logits: Tensor, scores: Tensor, weights: Tensor) -> Tensor:
        """How far experts are from the target, weighted sample by sample, and how alike they are; one number.

        Args:
            logits: (E, B, K) of the experts.
            scores: (B, K) the target's log-probabilities.
            weights: (B,) of the samples.
        """
        answer, opinions = (log_softmax(each / TEMPERATURE, dim=-1) for each in (scores, logits))
        soft = (answer.exp() * (answer - opinions)).sum(dim=2)  # (E, B)
        winners = scores.argmax(dim=1).repeat(len(logits))
        hard = nll_loss(log_softmax(logits, dim=2).flatten(0, 1), winners, reduction="none").view_as(soft)
        loss = (weights * (soft + self.hard_weight * hard).sum(dim=0)).mean()
        if self.diversity_weight:
            middle = opinions.exp().mean(dim=0).clamp_min(1e-12).log()
            apart = (opinions.exp() * (opinions - middle)).sum(dim=2).mean(dim=1)
            loss = loss + self.diversity_weight * (1 / apart.clamp_min(1e-4)).sum()
        return loss


class Experts(nn.Module):
    """A trunk of two strided convolutions, and three copies of what follows: a third one and a linear head."""

    def __init__(self, channels: int, n_classes: int, width: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*_block(channels, width), *_block(width, 2 * width))
        self.experts = nn.ModuleList(
            nn.Sequential(
                *_block(2 * width, 2 * width),
                nn.AdaptiveAvgPool2d(2),
                nn.Flatten(),
                nn.Linear(8 * width, n_classes),
            )
            for _ in range(EXPERTS)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (E, B, K) logits."""
        features = self.trunk(images)
        return torch.stack([expert(features) for expert in self.experts])


def _block(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]


def class_weights(scores: Tensor) -> Tensor:
    """(K,) weight of a sample by its winning class: the more rarely a class is near the top, the more.

    Near the top is among the best tenth of the classes, ten at most (the paper: ten of a thousand).

    Args:
        scores: (S, K) log-probabilities.
    """
    K = scores.shape[1]
    near = scores.topk(min(10, max(1, K // 10)), dim=1).indices
    counts = torch.bincount(near.flatten(), minlength=K).float()
    return (1 - RARITY) / (1 - RARITY ** (counts + 1))


def imitate(
    experts: nn.Module, images: Tensor, scores: Tensor, imitation: Imitation, ctx: KeyedContext, *, stage: str
) -> None:
    """Train `experts` in place on what the target said.

    Args:
        experts: on the context's device.
        images: (S, C, H, W) in [0, 1], on the CPU.
        scores: (S, K) the target's log-probabilities of them.
        imitation: how.
        ctx: device, seed, progress.
        stage: name for progress.
    """
    weights = class_weights(scores)[scores.argmax(dim=1)]
    weights = weights / weights.mean()
    optimizer, draws = torch.optim.Adam(experts.parameters(), lr=imitation.lr), ctx.rng("surrogate")
    size = min(imitation.batch_size, len(images))
    experts.train()
    for epoch in range(imitation.epochs):
        for batch in torch.randperm(len(images), generator=draws)[: len(images) // size * size].split(size):
            with ctx.autocast():
                logits = experts(images[batch].to(ctx.device)).float()
            loss = imitation.loss(logits, scores[batch].to(ctx.device), weights[batch].to(ctx.device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        ctx.tick(stage, epoch + 1, imitation.epochs)


class OnExperts:
    """Cross-entropy of the experts' mean logits, for the gradient engine; asks the target nothing.

    Args:
        experts: trained.
        prior: paints the latents.
        labels: (N,) int64, the class each row is aimed at.
        ctx: device and autocast policy.
    """

    queries_per_row = 0

    def __init__(self, experts: nn.Module, prior: Prior, labels: Tensor, ctx: KeyedContext) -> None:
        self._experts, self._prior, self._labels, self._ctx = experts, prior, labels.to(ctx.device), ctx

    def __call__(self, latents: Tensor, index: Tensor, step: int) -> Tensor:
        """(B, D) latents of rows `index` to (B,) losses."""
        labels = self._labels[index.to(self._labels.device)]
        with self._ctx.autocast():
            logits = self._experts(self._prior.decode(latents, labels))
        return cross_entropy(logits.float().mean(dim=0), labels, reduction="none")
