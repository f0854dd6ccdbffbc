"""NegLS: smooth the labels by a negative factor.

Struppek, Hintersdorf and Kersting, "Be Careful What You Smooth For: Label Smoothing Can Be a Privacy Shield but Also a
Catalyst for Model Inversion Attacks", ICLR 2024, arXiv 2310.06549. Positive smoothing gathers the features of a class
and helps the attack; a negative factor rewards the network for driving every other class further down than the
cross-entropy asks, which scatters the features and misleads an attack by gradients.

With K classes and factor a <= 0 the loss of one image is (1 - a) * -log p_y + a * mean over all classes k of -log p_k.
`torch.nn.functional.cross_entropy` refuses a < 0, so it is written out here.

Departures from the authors' code:

- training goes on from the submitted weights, so their long first stage without smoothing is left out: `a` grows
  linearly from the first epoch to its full value, in place of a ramp that jumps from half to all;
- only epochs at the full factor may be kept; theirs takes the last one;
- the loss has no lower bound, since every further step of a wrong class downwards is a gain. A class counts no further
  than down to `LEAST_LOG_PROBABILITY` in the smoothing term, so the loss is at least `a` times 50.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from auditor.training import Loss, Step
from remediation.defenses.base import Defense, DefenseConfig, Tuned, Tuning

LEAST_LOG_PROBABILITY = -50.0
"""Nats; below it a class gives no more gradient to the smoothing term."""


class NegLsConfig(DefenseConfig):
    """How much is smoothed, and how soon."""

    smoothing: float = Field(default=-0.05, ge=-1, lt=0)
    """The factor; a positive one helps the attacker and is refused."""
    ramp_frac: float = Field(default=0.5, gt=0, le=1)
    """Share of the epochs over which the factor grows to its full value."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate of the private stage."""


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean loss of (B, K) logits or log-probabilities under a factor of at most 0; 0 is plain cross-entropy."""
    log_p = logits.float().log_softmax(1)
    true = -log_p.gather(1, labels[:, None]).squeeze(1)
    every = -log_p.clamp_min(LEAST_LOG_PROBABILITY).mean(1)
    return ((1 - smoothing) * true + smoothing * every).mean()


def ramp_epochs(n_epochs: int, frac: float) -> int:
    """How many epochs the ramp takes; the last of them is the first at the full factor."""
    return max(1, round(frac * n_epochs))


def ramped(smoothing: float, epoch: int, n_ramp: int) -> float:
    """The factor in an epoch, counted from 0: equal steps from 0, all of it from the last epoch of the ramp on."""
    return smoothing * min(1.0, (epoch + 1) / n_ramp)


def ramped_loss(smoothing: float, n_ramp: int) -> Loss:
    """The loss whose factor grows over `n_ramp` epochs."""

    def loss(step: Step) -> Tensor:
        return smoothed_cross_entropy(step.model(step.inputs), step.labels, ramped(smoothing, step.epoch, n_ramp))

    return loss


class NegLs(Defense[NegLsConfig]):
    """Fine-tuning with negative label smoothing."""

    name = "neg-ls"
    Config = NegLsConfig

    def tune(self, job: Tuning) -> Tuned:
        """The ramp, then the full factor."""
        n_ramp = ramp_epochs(self.config.epochs, self.config.ramp_frac)
        loss = ramped_loss(self.config.smoothing, n_ramp)
        return Tuned(job.module, job.train(self.config.training, loss, keep_from=n_ramp - 1))
