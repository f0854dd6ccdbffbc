"""BiDO: features that depend less on the image and more on the label.

Peng, Liu, Zhang, Lan, Ye, Liu and Han, "Bilateral Dependency Optimization: Defending Against Model-inversion Attacks",
KDD 2022, arXiv 2206.05483. With a measure d of the dependence between two sets of rows, the loss is cross-entropy plus,
for the output Z of every stage of the network, `input_weight` * d(X, Z) - `label_weight` * d(Z, Y).

Departures from the authors' code:

- stages are found from the computation (`remediation.resolution_stages`), so that any network has them: what the
  network makes just before or after its resolution falls, and what enters its head. Theirs are the max-pools of a VGG
  and the four stages of a ResNet; the stem of a ResNet counts here too, and its last stage is read after its pooling;
- kernels are worked out in float64 and solved for; theirs invert float32 matrices, which loses the smaller directions;
- HSIC centres both sides of a kernel. Theirs centres one, which gives the same number, with a matrix that is not
  symmetric;
- outputs of frozen units are left out: their dependence is constant;
- the weights are those the authors used, for either measure; their released script runs with both at 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from auditor.training import Step
from remediation.defenses.base import Defense, DefenseConfig, Tuned, Tuning
from remediation.resolution_stages import stage_ends, watched_inputs

Dependence = Callable[[Tensor, Tensor], Tensor]
"""Two (m, m) float64 kernels over the same rows to one number >= 0."""
_SIGMA = 5.0
"""Width of the Gaussian kernel, in units of the root of the dimension."""
_RIDGE = 1e-5
_TINY = 1e-24


def gaussian_kernel(rows: Tensor) -> Tensor:
    """(m, ...) to (m, m) float64: exp(-distance² / (2 * 5² * dimension))."""
    flat = rows.flatten(1).double()
    squares = flat.square().sum(1)
    distance = (squares[:, None] + squares - 2 * flat @ flat.T).clamp_min(0)
    return (-distance / (2 * _SIGMA**2 * flat.shape[1])).exp()


def label_kernel(labels: Tensor) -> Tensor:
    """(m,) class indices to (m, m) float64: 1 for two rows of one class, else 0."""
    encoded = one_hot(labels).double()
    return encoded @ encoded.T


def hsic(a: Tensor, b: Tensor) -> Tensor:
    """Hilbert-Schmidt independence criterion, normalised: the summed squared correlations of the two spaces.

    Fukumizu, Gretton, Sun and Schölkopf, "Kernel Measures of Conditional Dependence", NeurIPS 2007: the trace of the
    product of K (K + 1e-5 m I)^-1 of either centred kernel K. Between 0 and m - 1.
    """
    return (_normalised(a) * _normalised(b).T).sum()


def coco(a: Tensor, b: Tensor) -> Tensor:
    """Constrained covariance: the root of the norm of the product of the centred kernels, over m.

    By the Frobenius norm, as the authors' code has it; Gretton et al., AISTATS 2005, take the spectral norm.
    """
    product = _centred(a) @ _centred(b)
    return (product.square().sum() + _TINY).pow(0.25) / len(a)  # the tiny part keeps the slope at 0 finite


def _centred(kernel: Tensor) -> Tensor:
    return kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()


def _normalised(kernel: Tensor) -> Tensor:
    centred = _centred(kernel)
    solved: Tensor = torch.linalg.solve(centred + _RIDGE * len(kernel) * torch.eye(len(kernel)).to(kernel), centred)
    return solved


MEASURES: dict[str, tuple[Dependence, float, float]] = {"hsic": (hsic, 0.05, 0.5), "coco": (coco, 1.0, 50.0)}
"""Dependence, and the authors' `input_weight` and `label_weight` for it."""


class BidoConfig(DefenseConfig):
    """How dependence is measured and weighed."""

    measure: Literal["hsic", "coco"] = "hsic"
    input_weight: float | None = Field(default=None, ge=0)
    """Weight of the dependence on the image; default: 0.05 for `hsic`, 1 for `coco`."""
    label_weight: float | None = Field(default=None, ge=0)
    """Weight of the dependence on the label; default: 0.5 for `hsic`, 50 for `coco`."""
    batch_size: int = Field(default=64, ge=8)
    """Dependence is measured within a batch; under 32 it says little."""


@dataclass(frozen=True)
class BilateralLoss:
    """Cross-entropy and the dependence of the stages on either side.

    Attributes:
        stages: paths of the layers that read a stage's output.
        dependence: the measure.
        input_weight: of the dependence on the image.
        label_weight: of the dependence on the label.
    """

    stages: tuple[str, ...]
    dependence: Dependence
    input_weight: float
    label_weight: float

    def __call__(self, step: Step) -> Tensor:
        """The mean loss; the network is left without hooks."""
        with watched_inputs(step.model, self.stages) as seen:
            loss = cross_entropy(step.model(step.inputs), step.labels)
        image, label = gaussian_kernel(step.inputs), label_kernel(step.labels)
        for calls in seen.values():
            features = torch.cat(calls)[: len(step.labels)]  # a graph of fixed batch runs in parts, the last one padded
            if features.requires_grad:
                kernel = gaussian_kernel(features)
                away, towards = self.dependence(image, kernel), self.dependence(kernel, label)
                loss = loss + (self.input_weight * away - self.label_weight * towards).to(loss.dtype)
        return loss


class Bido(Defense[BidoConfig]):
    """Bilateral dependency optimisation."""

    name = "bido"
    Config = BidoConfig

    def tune(self, job: Tuning) -> Tuned:
        """Cross-entropy with the dependence of every stage that is trained."""
        dependence, for_input, for_label = MEASURES[self.config.measure]
        example = job.prepare(job.data.fit.images[:1].to(job.ctx.device))
        loss = BilateralLoss(
            stage_ends(job.module, job.units, job.head, example),
            dependence,
            for_input if self.config.input_weight is None else self.config.input_weight,
            for_label if self.config.label_weight is None else self.config.label_weight,
        )
        return Tuned(job.module, job.train(self.config.training, loss))
