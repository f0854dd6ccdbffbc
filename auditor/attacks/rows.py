"""Flat rows: their random streams, and running a function over them in chunks that fit the memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from auditor.attacks.base import Inversion, KeyedContext, Rows
from auditor.errors import ran_out_of_memory
from auditor.priors.base import Prior
from auditor.targets.views import LabelView, ScoreView
from auditor.tensors import Snapshot

T = TypeVar("T")


class RowStreams:
    """One generator per row, keyed by (attack, class, sample, purpose): a row's draws never depend on its neighbours.

    Args:
        ctx: gives the generators.
        rows: the rows.
        purpose: distinguishes several streams of one row.
    """

    def __init__(self, ctx: KeyedContext, rows: Rows, purpose: str) -> None:
        keys = zip(rows.labels.tolist(), rows.sample.tolist(), strict=True)
        self._generators = [ctx.rng(label, sample, purpose) for label, sample in keys]

    def __len__(self) -> int:
        return len(self._generators)

    def normal(self, *shape: int, index: Tensor | None = None) -> Tensor:
        """(N, *shape) draws from N(0, 1), on the CPU; `index` (int64) draws for these rows only, in that order."""
        chosen = self._generators if index is None else [self._generators[i] for i in index.tolist()]
        out = torch.empty(len(chosen), *shape)
        for row, generator in zip(out, chosen, strict=True):
            row.normal_(generator=generator)
        return out

    def uniform(self, *shape: int, index: Tensor | None = None) -> Tensor:
        """(N, *shape) draws from U(0, 1), on the CPU; `index` (int64) draws for these rows only, in that order."""
        chosen = self._generators if index is None else [self._generators[i] for i in index.tolist()]
        out = torch.empty(len(chosen), *shape)
        for row, generator in zip(out, chosen, strict=True):
            row.uniform_(generator=generator)
        return out


class Chunks:
    """Runs a function over row ranges of at most `ctx.batch_size`; out of memory halves the size for good.

    Args:
        ctx: the batch size to begin with.

    Attributes:
        size: rows per chunk now.
        notes: remarks for the report; one per halving.
    """

    def __init__(self, ctx: KeyedContext) -> None:
        self.size = max(1, ctx.batch_size)
        self.notes: list[str] = []

    def map(self, n: int, function: Callable[[slice], T], *, cost: int = 1) -> list[T]:
        """`function` on consecutive slices that cover 0..n.

        Args:
            n: rows.
            function: called once per slice; called again on a smaller one when memory runs out.
            cost: images per row (an attack that averages augmentations sends several), counted into the size.
        """
        results, start = [], 0
        while start < n:
            step = max(1, self.size // cost)
            try:
                results.append(function(slice(start, min(start + step, n))))
            except RuntimeError as error:
                if step == 1 or not ran_out_of_memory(error):
                    raise
                self._halve()
                continue
            start += step
        return results

    def _halve(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.size = max(1, self.size // 2)
        self.notes.append(f"memory ran out: batch halved to {self.size} rows")


def affordable(view: LabelView, n_images: int) -> bool:
    """Whether the query budget covers `n_images` more."""
    counter = view.counter
    return counter.limit is None or counter.forward + n_images <= counter.limit


@torch.no_grad()
def paint(prior: Prior, latents: Tensor, labels: Tensor | None, chunks: Chunks, ctx: KeyedContext) -> Tensor:
    """(N, C, H, W) pictures of (N, D) latents, in float32 whatever the autocast policy, on the CPU.

    `labels` (N,) int64 are the classes a conditional prior draws; other priors ignore them.
    """

    def draw(rows: slice) -> Tensor:
        return prior.decode(latents[rows].to(ctx.device), None if labels is None else labels[rows]).float().cpu()

    return torch.cat(chunks.map(len(latents), draw))


class Ended(Protocol):
    """Where a search over latents ended; `Descent` and its like."""

    latents: Tensor
    path: tuple[tuple[float, Tensor], ...]
    complete: bool
    notes: list[str]


def pictured(
    end: Ended, start: Tensor, prior: Prior, rows: Rows, chunks: Chunks, ctx: KeyedContext, *, complete: bool = True
) -> Inversion:
    """The inversion that began at latents `start` (N, D) and ended as `end`, painted.

    `complete` False says that the query budget cut short something that came before the search.
    """

    def draw(latents: Tensor) -> Tensor:
        return paint(prior, latents, rows.labels, chunks, ctx)

    return Inversion(
        start=draw(start),
        images=draw(end.latents),
        snapshots=tuple(Snapshot(frac, draw(latents)) for frac, latents in end.path),
        notes=end.notes + chunks.notes,
        complete=complete and end.complete,
    )


@torch.no_grad()
def class_log_probs(
    view: ScoreView, prior: Prior, latents: Tensor, labels: Tensor, chunks: Chunks, ctx: KeyedContext
) -> Tensor:
    """(N,) the target's log-probability of each latent's class; one query a row, all classes in one pass.

    Args:
        view: the target, scores only.
        prior: paints the latents.
        latents: (N, D).
        labels: (N,) int64.
        chunks: rows per forward pass.
        ctx: device and autocast policy.
    """

    def rate(rows: slice) -> Tensor:
        with ctx.autocast():
            log_probs = view.log_probs(prior.decode(latents[rows].to(ctx.device), labels[rows])).float().cpu()
        return log_probs.gather(1, labels[rows, None]).squeeze(1)

    return torch.cat(chunks.map(len(latents), rate))
