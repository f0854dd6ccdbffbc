"""Where an attack starts: random latents, or the best of a shared pool of prior samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from auditor.attacks.base import KeyedContext, Rows
from auditor.attacks.rows import Chunks, RowStreams
from auditor.priors.base import Prior, sample_labels, sample_latents
from auditor.targets.views import ScoreView


class LatentInit(Protocol):
    """Chooses starting points, one per row."""

    def __call__(self, prior: Prior, rows: Rows, ctx: KeyedContext) -> Tensor:
        """(N, D) latents on the CPU."""
        ...


class RandomInit:
    """Independent draws from N(0, I), one stream per row."""

    def __call__(self, prior: Prior, rows: Rows, ctx: KeyedContext) -> Tensor:
        """(N, D) latents on the CPU."""
        return RowStreams(ctx, rows, "init").normal(prior.latent_dim)


@dataclass(frozen=True)
class Pool:
    """Prior samples scored by the target, for every class at once.

    Attributes:
        latents: (S, D) draws from N(0, I), the same whichever classes are attacked.
        labels: (S,) the classes a conditional prior drew them as; None for any other prior.
        scores: (S, K) log-probabilities; minus infinity for samples the budget did not cover, and for classes other
            than the one a conditional prior drew.
        complete: False when the budget did not cover all.
    """

    latents: Tensor
    labels: Tensor | None
    scores: Tensor
    complete: bool

    def ranking(self, label: int) -> Tensor:
        """(S,) int64: the pool from best to worst for `label`; ties keep the pool's order."""
        return self.scores[:, label].sort(descending=True, stable=True).indices

    def __call__(self, prior: Prior, rows: Rows, ctx: KeyedContext) -> Tensor:
        """(N, D): the row of (class, sample) gets the class's sample-th best; a class never gets one latent twice."""
        return self.latents[self.places(rows)]

    def places(self, rows: Rows) -> Tensor:
        """(N,) int64: which pool member each row gets."""
        order = {label: self.ranking(label) for label in rows.labels.unique().tolist()}
        wanted = zip(rows.labels.tolist(), rows.sample.tolist(), strict=True)
        return torch.stack([order[label][sample % self._members(label)] for label, sample in wanted])

    def _members(self, label: int) -> int:
        """How many of the ranking may serve `label`: of a conditional prior's pool only those drawn as this class."""
        drawn_as = len(self.latents) if self.labels is None else int((self.labels == label).sum())
        return drawn_as or len(self.latents)


def search_pool(
    view: ScoreView,
    prior: Prior,
    size: int,
    chunks: Chunks,
    ctx: KeyedContext,
    *,
    stage: str,
    box: float = torch.inf,
) -> Pool:
    """Score `size` prior samples for all classes in one pass; no more of them than the query budget covers.

    Args:
        view: the target; its log-probabilities are enough.
        prior: draws the samples, from a stream keyed by the attack alone.
        size: samples.
        chunks: rows per forward pass; takes the remark when the budget falls short.
        ctx: device, seed and progress.
        stage: name for progress.
        box: the samples' latents are clipped to [-box, box].
    """
    latents, labels = draw_pool(prior, size, ctx, box=box)
    counter = view.counter
    covered = size if counter.limit is None else max(0, min(size, counter.limit - counter.forward))

    def score(rows: slice) -> Tensor:
        with torch.no_grad(), ctx.autocast():
            images = prior.decode(latents[rows].to(ctx.device), None if labels is None else labels[rows])
            log_probs = view.log_probs(images)
        ctx.tick(stage, rows.stop, covered)
        return log_probs.float().cpu()

    if covered < size:
        chunks.notes.append(f"the query budget covered {covered} of {size} prior samples of the search")
    scores = torch.full((size, view.n_classes), -torch.inf)
    if covered:
        scores[:covered] = torch.cat(chunks.map(covered, score))
    return Pool(latents, labels, as_drawn(scores, labels), covered == size)


def draw_pool(prior: Prior, size: int, ctx: KeyedContext, *, box: float = torch.inf) -> tuple[Tensor, Tensor | None]:
    """(S, D) latents of a pool, and the (S,) classes a conditional prior draws them as; always the same of an attack.

    Args:
        prior: what they are latents of.
        size: S.
        ctx: keyed by the attack.
        box: latents are clipped to [-box, box].
    """
    labels = sample_labels(prior, size, ctx.rng("pool", "labels"))
    return sample_latents(prior, size, ctx.rng("pool")).clamp(-box, box), labels


def as_drawn(scores: Tensor, labels: Tensor | None) -> Tensor:
    """(S, K) scores with minus infinity for classes other than the one drawn, where a conditional prior drew one."""
    if labels is None:
        return scores
    return scores.masked_fill(labels[:, None] != torch.arange(scores.shape[1]), -torch.inf)
