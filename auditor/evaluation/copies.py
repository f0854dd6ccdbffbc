"""Private pictures among the public ones however they were cropped, shifted or mirrored, by the judge's features.

Comparing pixels (`auditor.data.overlap`) loses a copy that was cropped by one pixel in thirty. Here every private
picture asks for the public ones that are nearest in the judge's feature space, is moved and scaled over them until the
greys agree best, and is embedded again as it then lies: retrieval and geometric verification, as in copy detection
(Douze et al., "The 2021 Image Similarity Dataset and Challenge", arXiv 2106.09672). A pair scores the agreement of the
greys times the cosine of both embeddings; look-alikes reach one of them, copies both.

The limit is drawn from the private pictures themselves: what the nearest pictures of *other* classes reach, which are
no copies, and two fifths of the way from there to 1. How many copies such a search finds, altered copies planted among
the public pictures tell: of faces (LFW, 32 x 32 pixels) 49 of 64, and none of 8,909 strangers is taken for one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate, normalize

from auditor.evaluation.judge import Judge
from auditor.tensors import ImageBatch, RunContext

NEIGHBOURS = 5
"""Public pictures that every private one is laid over, per orientation."""
MIN_AGREEMENT = 0.85
"""Correlation of greys under which a pair is not looked at further."""
MIN_LIMIT = 0.6
"""Of the score, however unlike each other the private classes are."""
MAX_LOOKALIKE = 0.8
"""Two private pictures of different classes that score more are one picture filed twice, and say nothing of others."""
_MARGIN = 0.4
_N_LOOKALIKES, _N_PLANTED = 500, 64
_ZOOMS = (0.8, 0.86, 0.93, 1.0, 1.07, 1.15, 1.25)
_SHIFTS = (-0.16, -0.08, 0.0, 0.08, 0.16)
_SIDE, _BORDER = 24, 3
_CROP = 0.1
_CHUNK = 64


@dataclass(frozen=True)
class CopySearch:
    """What was found.

    Attributes:
        pairs: (private row, public row) of every copy, each private row once.
        limit: score from which a pair is a copy.
        planted: altered copies that were looked for as a test.
        planted_found: of them, found.
    """

    pairs: tuple[tuple[int, int], ...]
    limit: float
    planted: int
    planted_found: int


@torch.no_grad()
def search_copies(judge: Judge, private: ImageBatch, public: ImageBatch, ctx: RunContext) -> CopySearch | None:
    """Look for every private picture among the public ones; None where the private ones are of one class.

    Args:
        judge: never saw the private classes.
        private: (N, C, H, W) in [0, 1], labelled.
        public: the same, labelled or not.
        ctx: device, batch size; the planted copies follow from its seed.
    """
    labels = private.labels
    if labels is None or len(labels.unique()) < 2:
        return None
    features = judge.embed(private.images, ctx)
    own = _Gallery(judge, private.images, features)
    some = _spread(len(private), _N_LOOKALIKES)
    lookalikes, _ = own.best(private.images[some], features[some], ctx, without=labels[some][:, None] == labels[None])
    highest = float(lookalikes.masked_fill(lookalikes >= MAX_LOOKALIKE, 0.0).max())
    limit = max(MIN_LIMIT, highest + _MARGIN * (1 - highest))
    planted = _spread(len(private), _N_PLANTED)
    shown = torch.cat([public.images, _altered(private.images[planted], ctx)])
    both = torch.cat([shown, shown.flip(3)])
    gallery = _Gallery(judge, both, judge.embed(both, ctx))
    copies = torch.arange(len(both)) % len(shown) >= len(public)
    scores, rows = gallery.best(private.images, features, ctx, without=copies)
    pairs = tuple((a, int(rows[a]) % len(shown)) for a in (scores >= limit).nonzero().flatten().tolist())
    scores, rows = gallery.best(private.images[planted], features[planted], ctx, without=~copies)
    found = (scores >= limit) & (rows % len(shown) == len(public) + torch.arange(len(planted)))
    return CopySearch(pairs, limit, len(planted), int(found.sum()))


class _Gallery:
    """Pictures that are looked for.

    Args:
        judge: embeds a picture as it lies over another one.
        images: (M, C, H, W) in [0, 1].
        features: (M, D) unit vectors of them.
    """

    def __init__(self, judge: Judge, images: Tensor, features: Tensor) -> None:
        self._judge, self._features = judge, features
        self._greys = _greys(interpolate(images, (_SIDE, _SIDE), mode="bilinear", antialias=True, align_corners=False))
        zooms_and_shifts = [[[z, 0.0, x], [0.0, z, y]] for z in _ZOOMS for x in _SHIFTS for y in _SHIFTS]
        self._moves = torch.tensor(zooms_and_shifts)

    def best(self, images: Tensor, features: Tensor, ctx: RunContext, *, without: Tensor) -> tuple[Tensor, Tensor]:
        """The highest score of each of (N, C, H, W) images, 0 where none comes near, and the row that has it.

        Args:
            images: in [0, 1].
            features: (N, D) unit vectors of them.
            ctx: batch size.
            without: (N, M) or (M,) bool, rows that are not looked at.
        """
        scores, rows = [], []
        for start in range(0, len(images), _CHUNK):
            part = slice(start, start + _CHUNK)
            hidden = without if without.ndim == 1 else without[part]
            cosines = (features[part] @ self._features.T).masked_fill(hidden, -torch.inf)
            near, candidates = cosines.topk(min(NEIGHBOURS, cosines.shape[1]), dim=1)
            agreement, moves = self._laid_over(images[part], candidates)
            worth = (agreement >= MIN_AGREEMENT) & near.isfinite()
            score = torch.zeros_like(agreement)
            if bool(worth.any()):
                who = worth.nonzero()[:, 0]
                moved = _moved(images[part][who], self._moves[moves[worth]])
                again = self._judge.embed(moved, ctx)
                score[worth] = agreement[worth] * (again * self._features[candidates[worth]]).sum(1)
            best, place = score.max(dim=1)
            scores.append(best)
            rows.append(candidates.gather(1, place[:, None])[:, 0])
        return torch.cat(scores), torch.cat(rows)

    def _laid_over(self, images: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """(N, K): the best correlation of greys with each candidate, and the move that gives it."""
        n_moves = len(self._moves)
        grey = images.mean(1, keepdim=True).repeat_interleave(n_moves, dim=0)
        grid = affine_grid(self._moves.repeat(len(images), 1, 1), [len(grey), 1, _SIDE, _SIDE], align_corners=False)
        laid = _greys(grid_sample(grey, grid, padding_mode="border", align_corners=False))
        agreement = laid.view(len(images), n_moves, -1) @ self._greys[candidates].transpose(1, 2)
        best, moves = agreement.max(dim=1)
        return best, moves


def _greys(images: Tensor) -> Tensor:
    """(N, C, S, S) to (N, P) unit vectors: grey values inside the border without their mean, 0 where flat."""
    inside = images.mean(1)[:, _BORDER:-_BORDER, _BORDER:-_BORDER].flatten(1)
    return normalize(inside - inside.mean(1, keepdim=True), dim=1, eps=1e-4)


def _moved(images: Tensor, moves: Tensor) -> Tensor:
    grid = affine_grid(moves, list(images.shape), align_corners=False)
    return grid_sample(images, grid, padding_mode="border", align_corners=False)


def _altered(images: Tensor, ctx: RunContext) -> Tensor:
    """Copies that lose up to a tenth on every side, then mirrored, dimmed and blurred."""
    cut = torch.rand(len(images), 4, generator=ctx.rng("copies")) * _CROP * 2  # of a width of 2, as grids count
    left, right, top, bottom = cut.unbind(1)
    zero = torch.zeros(len(images))
    across = torch.stack([1 - (left + right) / 2, zero, (left - right) / 2], dim=1)
    down = torch.stack([zero, 1 - (top + bottom) / 2, (top - bottom) / 2], dim=1)
    cropped = _moved(images, torch.stack([across, down], dim=1))
    small = interpolate(cropped, scale_factor=2 / 3, mode="bilinear", antialias=True, align_corners=False)
    return 0.8 * interpolate(small, images.shape[2:], mode="bilinear", align_corners=False).flip(3)


def _spread(n: int, wanted: int) -> Tensor:
    rows: Tensor = torch.linspace(0, n - 1, min(n, wanted)).round().long().unique()
    return rows
