"""Confidence adaptation: a last, short fine-tuning towards a confidence below 1, the second stage of CALoR.

Yu et al., "CALoR: Towards Comprehensive Model Inversion Defense", arXiv 2410.05814. For an image whose true class gets
probability p the loss is alpha p^gamma log p, the negative of a focal-like loss. It is 0 at p = 0 and p = 1 and lowest
at p* = exp(-1/gamma), 0.88 for gamma 8: confidence beyond p* costs, so an attack that pushes it to 1 moves away from
what the model says of real images. Images the model is unsure of hardly count. Nor does the loss pull where p is all
but 1, since its gradient in the scores vanishes with 1 - p: a model that is already saturated moves slowly.

Departures from the authors' code:

- their step size of 2e-5 is for some two thousand steps on a large data set; on a small one nothing would move. Here it
  is a parameter with a higher default, and the notes say what confidence came out;
- no weight decay, and the last epoch is kept: the most accurate one would nearly always be the first.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field
from torch import Tensor

from auditor.training import Loss, Step, TrainConfig, TrainHistory, predict
from remediation.defenses.base import Defense, DefenseConfig, Tuned, Tuning

_ALPHA = 0.25
"""Scale of the loss; it only rescales the step size."""


class ConfidenceAdaptationConfig(DefenseConfig):
    """Parameters of a confidence adaptation."""

    gamma: float = Field(default=8.0, gt=0)
    """The loss is lowest at a confidence of exp(-1/gamma)."""
    epochs: int = Field(default=5, ge=1)
    lr: float = Field(default=5e-2, gt=0)
    """Peak step size; the paper's is 2e-5, for large data sets."""
    weight_decay: float = Field(default=0.0, ge=0)
    optimizer: Literal["adamw", "sgd"] = "sgd"


class ConfidenceAdaptation(Defense[ConfidenceAdaptationConfig]):
    """The submitted model, fine-tuned for a few epochs towards a confidence below 1."""

    name = "confidence-adaptation"
    Config = ConfidenceAdaptationConfig

    def tune(self, job: Tuning) -> Tuned:
        """The second stage alone."""
        history, note = adapt_confidence(job, self.config.training, self.config.gamma)
        return Tuned(job.module, history, notes=(note,))


def adapt_confidence(job: Tuning, config: TrainConfig, gamma: float) -> tuple[TrainHistory, str]:
    """Train what `job` leaves to be trained with the inverse focal loss; returns the history and a remark on it."""
    peak = resting_confidence(gamma)
    before = _confidence(job)
    history = job.train(config, inverse_focal_loss(gamma), stage="confidence", keep_from=config.epochs - 1)
    after = _confidence(job)
    over = [float((top > peak).float().mean()) for top in (before, after)]
    note = (
        f"Confidence adaptation over {config.epochs} epochs, lowest loss at {peak:.3f}: on validation images the mean "
        f"confidence went from {float(before.mean()):.3f} to {float(after.mean()):.3f}, and the share over that value "
        f"from {over[0]:.0%} to {over[1]:.0%}."
    )
    if over[1] >= over[0] > 0:
        note += " The cap did not take hold: train it longer or with a larger step."
    return history, note


def inverse_focal_loss(gamma: float) -> Loss:
    """Alpha p^gamma log p of the true class's probability p, mean over the batch."""

    def loss(step: Step) -> Tensor:
        scores = step.model(step.inputs).float().log_softmax(1)
        return capping_loss(scores.gather(1, step.labels[:, None]).squeeze(1), gamma).mean()

    return loss


def capping_loss(log_p: Tensor, gamma: float) -> Tensor:
    """Alpha p^gamma log p, element by element.

    Args:
        log_p: log-probabilities of the true class, at most 0.
        gamma: over 0.
    """
    return _ALPHA * (gamma * log_p).exp() * log_p


def resting_confidence(gamma: float) -> float:
    """The probability at which the loss is lowest, exp(-1/gamma)."""
    return math.exp(-1 / gamma)


def _confidence(job: Tuning) -> Tensor:
    """(N,) highest probabilities on the validation images."""
    return predict(job.module, job.data.validation.images, job.ctx, prepare=job.prepare).softmax(1).amax(1)
