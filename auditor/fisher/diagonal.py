"""Diagonal Fisher information, per sample and per unit (method card B.2-B.4).

With p = softmax of the outputs and g_y(x) the gradient of -log p_y(x):

- true: F_true(x) = sum_y p_y(x) g_y(x)^2, exactly over the classes or with labels drawn from p;
- with given labels: g_y(x)^2. With the observed labels of private images it is the "empirical Fisher", which vanishes
  on data the model has learned by heart (Kunstner, Balles and Hennig, NeurIPS 2019, arXiv 1905.12558), so it stands
  beside the true one and not in its place; with the class an attacker aims at, at points along the inversion, it is
  the inversion's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, one_hot

from auditor.contracts.plan import FisherSpec
from auditor.fisher.per_sample import Cotangents, Engine, SquaredGradients, UnitSquares, count_outputs
from auditor.fisher.units import Unit
from auditor.tensors import RunContext

_ROWS, _FEWEST_ROWS = 32, 4
"""Samples per batch: larger ones gain nothing on a CPU. Unfolded layer inputs are held, so big images take fewer."""
_SMALL_IMAGE = 64 * 64


class FisherScorer:
    """Scores image batches, in [0, 1] or 8-bit, against one network; a stage's name is its checkpoint's.

    Args:
        module: raw model input to (B, K) logits or log-probabilities; left as it was.
        prepare: images in [0, 1] to raw model input.
        units: from `execution_units`.
        ctx: device, seed, batch size, progress.
        engine: None picks the fastest that agrees with the oracle.
    """

    def __init__(
        self,
        module: nn.Module,
        prepare: Callable[[Tensor], Tensor],
        units: Sequence[Unit],
        ctx: RunContext,
        *,
        engine: Engine | None = None,
    ) -> None:
        self._prepare, self._ctx = prepare, ctx
        self._module = module
        rows = min(_ROWS, ctx.batch_size)
        self.gradients = SquaredGradients(module, units, rows=rows, engine=engine, prepare=self._inputs)

    def true(self, images: Tensor, spec: FisherSpec, *, stage: str = "fisher") -> tuple[UnitSquares, str]:
        """F_true of (N, C, H, W) images, and how it was computed: `exact` or `sampled:S`."""
        if count_outputs(self._module, self._inputs(images[:1])) <= spec.exact_up_to:
            return self._score(images, exact_cotangents, stage), "exact"
        return self.sampled(images, spec, stage=stage)

    def sampled(self, images: Tensor, spec: FisherSpec, *, stage: str = "fisher") -> tuple[UnitSquares, str]:
        """F_true of (N, C, H, W) images from labels drawn from the model, however few classes there are."""
        draws = torch.rand(len(images), spec.label_samples, generator=self._ctx.rng("fisher", "labels", stage))
        return self._score(images, sampled_cotangents(draws), stage), f"sampled:{spec.label_samples}"

    def labelled(self, images: Tensor, labels: Tensor, *, stage: str = "fisher") -> UnitSquares:
        """Squared gradients of (N, C, H, W) images for (N,) given classes: observed, or aimed at by an attacker."""
        count_outputs(self._module, self._inputs(images[:1]))
        return self._score(images, target_cotangents(labels), stage)

    def _inputs(self, images: Tensor) -> Tensor:
        """Raw model input of images in [0, 1], or of 8-bit ones."""
        images = images.to(self._ctx.device)
        return self._prepare(images if images.is_floating_point() else images.float() / 255).detach()

    def _score(self, images: Tensor, cotangents: Cotangents, stage: str) -> UnitSquares:
        fitting = _ROWS * _SMALL_IMAGE // max(1, images.shape[2] * images.shape[3])
        self.gradients.rows = min(_ROWS, self._ctx.batch_size, max(_FEWEST_ROWS, fitting))
        return self.gradients(images, cotangents, self._ctx, stage=stage)


def exact_cotangents(outputs: Tensor, _rows: Tensor) -> Iterator[Tensor]:
    """One output gradient per class, sqrt(p_y) (p - e_y): the gradient of -log p_y, its square weighted by p_y."""
    p = log_softmax(outputs, dim=1).exp()
    for label in range(p.shape[1]):
        cotangent = p.clone()
        cotangent[:, label] -= 1
        yield cotangent * p[:, label : label + 1].sqrt()


def sampled_cotangents(draws: Tensor) -> Cotangents:
    """Output gradients for labels drawn from the model by inverse transform.

    Args:
        draws: (N, S) uniform numbers, one row per sample; a sample's labels depend on its own row only.
    """

    def cotangents(outputs: Tensor, rows: Tensor) -> Iterator[Tensor]:
        p = log_softmax(outputs, dim=1).exp()
        cumulative = p.double().cumsum(dim=1)
        uniform = draws[rows].to(outputs.device).double() * cumulative[:, -1:]
        labels = torch.searchsorted(cumulative, uniform, right=True).clamp(max=p.shape[1] - 1)
        for column in range(draws.shape[1]):
            yield (p - one_hot(labels[:, column], p.shape[1])) / draws.shape[1] ** 0.5

    return cotangents


def target_cotangents(labels: Tensor) -> Cotangents:
    """Output gradient of -log p_y* for (N,) wanted classes."""

    def cotangents(outputs: Tensor, rows: Tensor) -> Iterator[Tensor]:
        wanted = labels[rows].to(outputs.device)
        yield log_softmax(outputs, dim=1).exp() - one_hot(wanted, outputs.shape[1])

    return cotangents
