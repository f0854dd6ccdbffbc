"""Distributional inversion: a Gaussian over the latents of each class is learnt, and pictures are its fresh draws."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from pydantic import Field
from torch import Tensor

from auditor.attacks.base import AttackConfig, Inversion, KeyedContext, Rows
from auditor.attacks.gradient import Adam, descend
from auditor.attacks.objectives import Objective, Term
from auditor.attacks.rows import Chunks, RowStreams, paint
from auditor.contracts.cost import Cost
from auditor.priors.base import Prior
from auditor.targets.views import WhiteBoxView
from auditor.tensors import Snapshot


class GaussianConfig(AttackConfig):
    """What every attack that learns a Gaussian per class has to be told."""

    steps: int = Field(default=300, ge=1)
    samples: int = Field(default=6, ge=1)
    """Draws of the distribution per class and step, whose losses are averaged."""
    lr: float = Field(default=0.02, gt=0)
    """Step size of Adam on the mean and the scale's parameters."""
    channels_last: bool = True

    def cost(self, attacked: int, samples_per_class: int) -> Cost:
        """`samples` images a class and step, however many pictures are wanted."""
        sent = attacked * self.samples * self.steps
        return Cost(forward=sent, backward=sent, decodes=2 * attacked * samples_per_class, gradient_decodes=sent)


class Family(Protocol):
    """Gaussians over latents of D coordinates, one per row of parameters; parameters of zero are N(0, I)."""

    def n_parameters(self, dim: int) -> int:
        """Parameters of one Gaussian over `dim` coordinates."""
        ...

    def draw(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """(B, P) parameters and (B, M, D) standard normal noise to (B, M, D) latents; differentiable."""
        ...

    def divergence(self, parameters: Tensor) -> Tensor:
        """(B,) Kullback-Leibler divergence of each Gaussian from N(0, I), in nats; differentiable, never negative."""
        ...


class Diagonal:
    """Independent coordinates: the mean, then the logarithm of the variance."""

    def n_parameters(self, dim: int) -> int:
        """2 D."""
        return 2 * dim

    def draw(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """`mean + exp(logvar / 2) * noise`."""
        mean, log_var = parameters.chunk(2, dim=1)
        return mean[:, None] + (0.5 * log_var).exp()[:, None] * noise

    def divergence(self, parameters: Tensor) -> Tensor:
        """`sum(mean^2 + var - 1 - logvar) / 2`."""
        mean, log_var = parameters.chunk(2, dim=1)
        return 0.5 * (mean.square() + torch.expm1(log_var) - log_var).sum(dim=1)


class FullCovariance:
    """Any covariance L L^T: the mean, the logarithm of L's diagonal, then L's entries below it, row by row.

    It holds D (D + 3) / 2 numbers per class: 300 KB at 384 coordinates, twice that again for Adam.
    """

    def n_parameters(self, dim: int) -> int:
        """D (D + 3) / 2."""
        return dim * (dim + 3) // 2

    def draw(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """`mean + L noise`."""
        mean, log_diagonal, below = _parts(parameters)
        dim = mean.shape[1]
        rows, columns = torch.tril_indices(dim, dim, offset=-1, device=parameters.device)
        factor = torch.diag_embed(log_diagonal.exp())
        factor = factor.index_put((torch.arange(len(mean), device=mean.device)[:, None], rows, columns), below)
        return mean[:, None] + torch.einsum("bij,bmj->bmi", factor, noise)

    def divergence(self, parameters: Tensor) -> Tensor:
        """`(|mean|^2 + |L|^2 - D) / 2 - log det L`."""
        mean, log_diagonal, below = _parts(parameters)
        diagonal = torch.expm1(2 * log_diagonal) - 2 * log_diagonal
        return 0.5 * (mean.square().sum(dim=1) + diagonal.sum(dim=1) + below.square().sum(dim=1))


def _parts(parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, log-diagonal and entries below the diagonal, from (B, D (D + 3) / 2)."""
    dim = (math.isqrt(9 + 8 * parameters.shape[1]) - 3) // 2
    mean, log_diagonal, below = parameters.split([dim, dim, dim * (dim - 1) // 2], dim=1)
    return mean, log_diagonal, below


class Expected:
    """The mean of an objective over draws of each row's Gaussian, plus a multiple of its divergence from N(0, I).

    Args:
        objective: loss of latents.
        family: turns parameters and noise into latents.
        streams: one per row, for the noise; steps must come in order.
        dim: coordinates of a latent.
        samples: draws per row and step.
        divergence_weight: weight of the divergence.
        clip: latents are clipped to [-clip, clip] before they are drawn as pictures, and carry no gradient beyond.
    """

    def __init__(
        self,
        objective: Objective,
        family: Family,
        streams: RowStreams,
        *,
        dim: int,
        samples: int,
        divergence_weight: float,
        clip: float,
    ) -> None:
        self._objective, self._family, self._streams = objective, family, streams
        self._shape, self._weight, self._clip = (samples, dim), divergence_weight, clip
        self._step, self._noise = -1, torch.empty(0)

    @property
    def queries_per_row(self) -> int:
        """Draws, times what one of them costs."""
        return self._shape[0] * self._objective.queries_per_row

    def __call__(self, latents: Tensor, index: Tensor, step: int) -> Tensor:
        """(B, P) parameters of rows `index` at `step` to (B,) losses."""
        if step != self._step:
            self._noise, self._step = self._streams.normal(*self._shape), step
        drawn = self._family.draw(latents, self._noise[index].to(latents.device)).clamp(-self._clip, self._clip)
        samples = self._shape[0]
        losses = self._objective(drawn.flatten(0, 1), index.repeat_interleave(samples), step)
        mean = losses.view(-1, samples).mean(dim=1)
        return mean + self._weight * self._family.divergence(latents) if self._weight else mean


def learn_gaussians(
    view: WhiteBoxView,
    prior: Prior,
    rows: Rows,
    ctx: KeyedContext,
    fracs: tuple[float, ...],
    *,
    terms: tuple[tuple[float, Term], ...],
    config: GaussianConfig,
    stage: str,
    family: Family | None = None,
    divergence_weight: float = 0.0,
    clip: float = torch.inf,
) -> Inversion:
    """Fit a Gaussian to every class of `rows`, from N(0, I); each row's picture is a draw of its class's.

    A row's own noise is fixed: `start`, the snapshots and the final picture are the same draw of the distribution as it
    was then. It does not depend on how many rows its class has, nor on other classes.

    Args:
        view: the target.
        prior: paints the latents.
        rows: which pictures are wanted.
        ctx: device, seed, progress, batch size.
        fracs: when to keep pictures.
        terms: what is minimised in expectation, with weights.
        config: steps, draws and step size.
        stage: name for progress.
        family: of the distributions; None: independent coordinates.
        divergence_weight: weight of the divergence from N(0, I), in loss per nat.
        clip: latents stay within [-clip, clip], as the target and the pictures see them.
    """
    family, chunks, dim = family or Diagonal(), Chunks(ctx), prior.latent_dim
    labels, place = rows.labels.unique(return_inverse=True)
    classes = Rows(labels, torch.zeros_like(labels))
    objective = Expected(
        Objective(view, prior, labels, terms, ctx, channels_last=config.channels_last),
        family,
        RowStreams(ctx, classes, "distribution"),
        dim=dim,
        samples=config.samples,
        divergence_weight=divergence_weight,
        clip=clip,
    )
    start = torch.zeros(len(labels), family.n_parameters(dim))
    end = descend(
        start,
        objective,
        Adam(config.lr),
        steps=config.steps,
        view=view,
        chunks=chunks,
        ctx=ctx,
        stage=stage,
        fracs=fracs,
    )
    noise = RowStreams(ctx, rows, "draw").normal(1, dim)

    def pictures(parameters: Tensor) -> Tensor:
        def latents(part: slice) -> Tensor:
            mine = parameters[place[part].to(parameters.device)]
            return family.draw(mine, noise[part].to(mine.device))[:, 0].clamp(-clip, clip)

        return paint(prior, torch.cat(chunks.map(len(rows), latents)), rows.labels, chunks, ctx)

    return Inversion(
        start=pictures(start.to(ctx.device)),
        images=pictures(end.latents),
        snapshots=tuple(Snapshot(frac, pictures(parameters)) for frac, parameters in end.path),
        notes=end.notes + chunks.notes,
        complete=end.complete,
    )
