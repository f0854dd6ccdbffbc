"""CALoR: a low-rank neck in place of the head, then confidence adaptation.

Yu et al., "CALoR: Towards Comprehensive Model Inversion Defense", arXiv 2410.05814 (later versions: low-rank feature
filtering). The head gives way to norm, k values, tanh, and scores of those: whatever the features hold, only k bounded
numbers of it reach the scores, and tanh flattens the gradient an attack would follow. Stage two is in
`remediation.defenses.confidence_adaptation`.

Departures from the authors' code:

- k follows the number of classes K: 2 sqrt(K), 46 where they take 50 for 530 classes, and always under K, since a
  higher one would bind nothing;
- a validation split chooses the epoch of the first stage; theirs takes the test set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import nn

from auditor.fisher.units import Unit
from auditor.training import TrainConfig
from remediation.defenses.base import Defense, DefenseConfig, Tuned, Tuning
from remediation.defenses.confidence_adaptation import adapt_confidence
from remediation.heads import Head, fresh_layer, no_two_layers, put_layer, read_head


class CalorConfig(DefenseConfig):
    """Parameters of CALoR."""

    rank: int | None = Field(default=None, ge=1)
    """Values between features and scores, k; default: 2 sqrt(number of classes), and always under that number."""
    gamma: float = Field(default=8.0, gt=0)
    """The second stage's loss is lowest at a confidence of exp(-1/gamma)."""
    adaptation_epochs: int = Field(default=5, ge=0)
    """0: the neck alone."""
    adaptation_lr: float = Field(default=5e-2, gt=0)
    """Peak step size of the second stage; the paper's is 2e-5, for large data sets."""

    @property
    def adaptation(self) -> TrainConfig:
        """The second stage."""
        return TrainConfig(
            epochs=self.adaptation_epochs,
            lr=self.adaptation_lr,
            batch_size=self.batch_size,
            weight_decay=0.0,
            optimizer="sgd",
            augment=self.augment,
        )


class Calor(Defense[CalorConfig]):
    """A low-rank neck with tanh in place of the head, then training towards a confidence below 1."""

    name = "calor"
    Config = CalorConfig
    reshapes = True

    def inapplicable(self, module: nn.Module, units: Sequence[Unit], head: str) -> str:
        """The head has to be a layer that two others can stand for."""
        return no_two_layers(module, head)

    def tune(self, job: Tuning) -> Tuned:
        """Cross-entropy through the neck, then the inverse focal loss."""
        head = read_head(job.module, job.head)
        n_classes = len(head.weight)
        rank = self.config.rank or default_rank(n_classes)
        put_layer(job.module, job.head, low_rank_neck(head, rank, job.ctx.rng("repair", "neck")))
        history = job.train(self.config.training)
        notes = [f"The head became a neck of {rank} values for {n_classes} classes: the network is written as ONNX."]
        if rank >= n_classes:
            notes.append(f"A rank of {rank} binds nothing where there are {n_classes} classes: take a lower `rank`.")
        if self.config.adaptation_epochs:
            notes.append(adapt_confidence(job, self.config.adaptation, self.config.gamma)[1])
        return Tuned(job.module, history, notes=tuple(notes))


def default_rank(n_classes: int) -> int:
    """2 sqrt(K), at least 1 and under K."""
    return max(1, min(n_classes - 1, round(2 * math.sqrt(n_classes))))


def low_rank_neck(head: Head, rank: int, generator: torch.Generator) -> nn.Sequential:
    """Norm, `rank` values, tanh, scores: in the place and on the device of `head`, at every position of a convolution.

    Args:
        head: says inputs, outputs and kernel.
        rank: values between.
        generator: of the initial weights; on the CPU.
    """
    norm = nn.BatchNorm1d(head.in_features) if isinstance(head, nn.Linear) else nn.BatchNorm2d(head.in_channels)
    return nn.Sequential(
        norm.to(head.weight.device),
        fresh_layer(head, rank, generator),
        nn.Tanh(),
        fresh_layer(head, len(head.weight), generator, n_inputs=rank, pointwise=True),
    )
