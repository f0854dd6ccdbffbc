"""SiftFunnel: make what a device sends sparse, less redundant, and less dependent on the image.

Liu et al., arXiv 2501.00824. Three penalties on the features at the cut beside a softened classification loss: their
distance correlation with the image (Székely, Rizzo and Bakirov, Annals of Statistics 2007), their mean magnitude, and
the squared Pearson correlation between their channels.

Departures from the authors' code:

- the loss terms alone: their funnel-shaped device network with attention is another architecture, and is left out, so
  a good part of the reported effect is too;
- fine-tuning from the submitted weights; the last epoch is kept;
- cosine schedule in place of a reduction at plateaus.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import kl_div

from auditor.contracts.access import Access
from auditor.training import Step
from remediation.cut_features import NEEDS_CUT, CutPass
from remediation.defenses.base import Defense, DefenseConfig, Tuned, Tuning

_TINY = 1e-12


class SiftFunnelConfig(DefenseConfig):
    """Parameters of SiftFunnel's loss; weights and smoothing are the authors'."""

    optimizer: Literal["adamw", "sgd"] = "sgd"
    lr: float = Field(default=1e-2, gt=0)
    classification: float = Field(default=5.0, gt=0)
    """Weight of the divergence from the smoothed labels."""
    smoothing: float = Field(default=0.25, ge=0, lt=1)
    """Share of the label that is spread over the other classes."""
    dependence: float = Field(default=2.0, ge=0)
    """Weight of the distance correlation between images and features."""
    magnitude: float = Field(default=0.03, ge=0)
    """Weight of the features' mean absolute value."""
    redundancy: float = Field(default=2.0, ge=0)
    """Weight of the squared correlation between channels."""


def distance_correlation(x: Tensor, z: Tensor) -> Tensor:
    """Distance correlation of paired rows, in [0, 1]: 0 for none, 1 where one is a similarity of the other.

    The plain estimate: of few rows in many dimensions it is high even without any dependence, so it serves to be
    lowered, not to be read.

    Args:
        x: (B, ...) float32.
        z: (B, ...) float32.
    """
    covariance = (_centred_distances(x.flatten(1)) * _centred_distances(z.flatten(1))).mean()
    return (covariance.clamp_min(0) + _TINY).sqrt()


def _centred_distances(rows: Tensor) -> Tensor:
    """(B, B) Euclidean distances without their row and column means, with mean square 1."""
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    centred = distances - distances.mean(dim=0) - distances.mean(dim=1, keepdim=True) + distances.mean()
    return centred / (centred.square().mean() + _TINY).sqrt()


def channel_correlation(z: Tensor) -> Tensor:
    """Mean squared Pearson correlation between different channels, in [0, 1].

    Args:
        z: (B, C, ...) float32; images and places are the observations. One channel gives 0.
    """
    C = z.shape[1]
    if C < 2:
        return z.new_zeros(())
    channels = z.transpose(0, 1).flatten(1)  # (C, B * places)
    centred = channels - channels.mean(dim=1, keepdim=True)
    norms = (centred.square().sum(dim=1, keepdim=True) + _TINY).sqrt()
    squared = (centred / norms @ (centred / norms).T).square()
    return (squared.sum() - squared.diagonal().sum()) / (C * (C - 1))


def smoothed_divergence(scores: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean Kullback-Leibler divergence of the predictions from labels whose share `smoothing` the others get.

    Args:
        scores: (B, K) logits.
        labels: (B,) int64.
        smoothing: in [0, 1).
    """
    targets = torch.full_like(scores, smoothing / (scores.shape[1] - 1))
    targets.scatter_(1, labels[:, None], 1 - smoothing)
    return kl_div(scores.log_softmax(dim=1), targets, reduction="batchmean")


class SiftFunnel(Defense[SiftFunnelConfig]):
    """Features at the cut that depend less on the image and repeat themselves less."""

    name = "siftfunnel"
    Config = SiftFunnelConfig

    def misplaced(self, deployment: Access, cut: str | None) -> str:
        """Only for a cut model."""
        return "" if cut is not None else NEEDS_CUT

    def tune(self, job: Tuning) -> Tuned:
        """The four terms, weighted."""
        if job.cut is None:
            raise ValueError(NEEDS_CUT)
        config, run = self.config, CutPass(job.module, job.cut)

        def loss(step: Step) -> Tensor:
            features, scores = run(step.inputs)
            z = features.float()
            return (
                config.classification * smoothed_divergence(scores.float(), step.labels, config.smoothing)
                + config.dependence * distance_correlation(step.images.float(), z)
                + config.magnitude * z.abs().mean()
                + config.redundancy * channel_correlation(z)
            )

        return Tuned(job.module, job.train(config.training, loss, keep_from=config.epochs - 1))
