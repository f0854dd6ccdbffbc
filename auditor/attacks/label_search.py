"""First points by labels alone: prior samples that the target gives the class wanted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.attacks.base import KeyedContext, Rows
from auditor.attacks.initial import draw_pool
from auditor.attacks.rows import Chunks
from auditor.priors.base import Prior
from auditor.targets.views import LabelView

BLOCK = 256
"""Samples asked about between two looks at whether all rows have what they need."""


@dataclass(frozen=True)
class FirstPoints:
    """Where rows may start.

    Attributes:
        latents: (N, D); zeros where nothing was found.
        found: (N,) bool.
        asked: prior samples that the target was asked about.
        complete: False when the query budget ended the search.
    """

    latents: Tensor
    found: Tensor
    asked: int
    complete: bool


@torch.no_grad()
def class_hits(
    view: LabelView, prior: Prior, latents: Tensor, labels: Tensor, chunks: Chunks, ctx: KeyedContext
) -> Tensor:
    """(N,) whether the target gives each latent's picture its label; one query a row, all classes in one pass.

    Args:
        view: the target, labels only.
        prior: paints the latents.
        latents: (N, D).
        labels: (N,) int64, on the CPU.
        chunks: rows per forward pass.
        ctx: device and autocast policy.
    """
    return _answers(view, prior, latents, labels, chunks, ctx) == labels


def search_labels(
    view: LabelView,
    prior: Prior,
    rows: Rows,
    chunks: Chunks,
    ctx: KeyedContext,
    *,
    size: int,
    box: float,
    stage: str,
) -> FirstPoints:
    """Ask about one sequence of prior samples, the same for all classes, until every row has a point of its own.

    Row `sample` of a class gets the class's hit of that number; where the sequence ends with fewer, hits are given out
    in turn. A row's point depends on no other class, unless the budget cuts the sequence short.

    Args:
        view: the target, labels only.
        prior: draws the samples; a conditional prior's count only for the class it drew.
        rows: what is wanted.
        chunks: rows per forward pass; takes the remark when the budget falls short.
        ctx: device, seed and progress.
        size: length of the sequence.
        box: the samples' latents are clipped to [-box, box].
        stage: name for progress.
    """
    latents, drawn = draw_pool(prior, size, ctx, box=box)
    hits: dict[int, list[int]] = {label: [] for label in rows.labels.tolist()}
    needed = {label: int(rows.sample[rows.labels == label].max()) + 1 for label in hits}
    asked, complete = 0, True
    while asked < size and any(len(hits[label]) < needed[label] for label in hits):
        limit = view.counter.limit
        step = min(BLOCK, size - asked, size if limit is None else max(0, limit - view.counter.forward))
        if step == 0:
            complete = False
            chunks.notes.append(f"the query budget ended the search for initial points after {asked} samples")
            break
        block = slice(asked, asked + step)
        classes = None if drawn is None else drawn[block]
        answers = _answers(view, prior, latents[block], classes, chunks, ctx)
        for place, answer in enumerate(answers.tolist()):
            if answer in hits and (classes is None or answer == int(classes[place])):
                hits[answer].append(asked + place)
        asked += step
        ctx.tick(stage, asked, size)
    found = torch.tensor([bool(hits[label]) for label in rows.labels.tolist()])
    points = torch.zeros(len(rows), latents.shape[1])
    for row in torch.nonzero(found).flatten().tolist():
        own = hits[int(rows.labels[row])]
        points[row] = latents[own[int(rows.sample[row]) % len(own)]]
    return FirstPoints(points, found, asked, complete)


def _answers(
    view: LabelView, prior: Prior, latents: Tensor, labels: Tensor | None, chunks: Chunks, ctx: KeyedContext
) -> Tensor:
    """(N,) int64, what the target calls the pictures of (N, D) latents; on the CPU."""

    def ask(rows: slice) -> Tensor:
        with ctx.autocast():
            classes = None if labels is None else labels[rows]
            return view.labels(prior.decode(latents[rows].to(ctx.device), classes)).cpu()

    return torch.cat(chunks.map(len(latents), ask)) if len(latents) else torch.zeros(0, dtype=torch.int64)
