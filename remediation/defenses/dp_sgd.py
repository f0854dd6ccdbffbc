"""DP-SGD: gradients of single images clipped and noised, with an accounted guarantee.

Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar and Zhang, "Deep Learning with Differential Privacy", CCS 2016, arXiv
1607.00133, through Opacus (Yousefpour et al., arXiv 2109.12298). By default the head alone is trained on public, frozen
layers: noise grows with the number of trained parameters, and this is the combination that keeps its accuracy.

What is chosen here:

- batches are Poisson samples at rate `batch_size` / N, taken through the network in pieces of `physical_batch`;
- batch norms of trained units are held at their public values, scale and offset included, and in evaluation mode: a
  batch norm in training mode mixes images, so that no image has a gradient of its own. Opacus's way, group norms in
  their place, throws away what the public layers learned and makes another network of the submission;
- the last epoch is kept: choosing one by private validation images is a query that the accountant does not see. For the
  same reason the stated epsilon covers the weights alone, and neither the choice among several trials nor the losses
  and accuracies of the report;
- noise and batches derive from the plan's seed, so that a repair can be repeated. Who knows the seed can subtract the
  noise: `secret_noise` seeds both from the operating system instead. In either case the generator is PyTorch's, which
  is no cryptographic one, and its samples are floating-point numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import nn

from auditor.contracts.repair import NormMode
from auditor.errors import InvalidInput
from auditor.fisher.units import Unit
from remediation.defenses.base import Defense, DefenseConfig, Tuned, Tuning
from remediation.privacy_accounting import Accountant, Spent
from remediation.private_training import PrivateTraining, hold_norms, unsupported_by_opacus

_DELTA = 1e-5
_VACUOUS = 10.0
"""An epsilon over which the likelihood of an outcome may change more than 20,000-fold."""


class DpSgdConfig(DefenseConfig):
    """Parameters of DP-SGD."""

    noise: float = Field(default=1.0, ge=0)
    """Deviation of the noise as a multiple of `clip`; 0 gives no guarantee."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of one image's gradient over all trained parameters."""
    delta: float | None = Field(default=None, gt=0, lt=1)
    """Probability with which the guarantee may fail, under 1/N; default: the lower of 1e-5 and 1/(10 N)."""
    accountant: Accountant = "prv"
    """`prv`: numerical composition, tighter, and left out where noise is too low for it; `rdp`: Renyi moments."""
    secret_noise: bool = False
    """Seed noise and batches from the operating system: the guarantee needs no secret plan, and no two runs agree."""
    batch_size: int = Field(default=512, ge=2)
    """Expected images in a batch; a larger one drowns the noise."""
    physical_batch: int = Field(default=64, ge=1)
    """Images whose gradients are held in memory at once; never changes the result."""
    lr: float = Field(default=0.5, gt=0)
    """Step size, constant."""
    optimizer: Literal["adamw", "sgd"] = "sgd"
    weight_decay: float = Field(default=0.0, ge=0)


class DpSgd(Defense[DpSgdConfig]):
    """Per-image gradients clipped and noised, by default those of a new head on public layers."""

    name = "dp-sgd"
    Config = DpSgdConfig

    def own_boundaries(self, n_units: int) -> tuple[int, ...]:
        """The head alone."""
        return (n_units - 1,)

    def inapplicable(self, module: nn.Module, units: Sequence[Unit], head: str) -> str:
        """Every trained layer has to give gradients image by image, and no private statistics may reach a buffer."""
        if self.config.norm_mode is NormMode.REFERENCE:
            return (
                "`norm_mode: reference` lets frozen norms take up private statistics that no accountant sees. "
                "Take `frozen` or `recalibrate_public`."
            )
        boundary = min(self.config.boundaries or self.own_boundaries(len(units)))
        tuned = {name for unit in units[boundary:] for name in unit.parameters}
        if layers := unsupported_by_opacus(module, tuned):
            return (
                f"Opacus cannot take the gradients of single images in {', '.join(layers)}. Train fewer units "
                f"(`boundaries: [{len(units) - 1}]` trains the head alone), or take another defense."
            )
        return ""

    def tune(self, job: Tuning) -> Tuned:
        """Poisson batches, clipped and noised gradients of what is trained."""
        labels = job.data.fit.labels
        if labels is None:
            raise ValueError("training needs labels")
        delta = self.config.delta or min(_DELTA, 0.1 / len(labels))
        if delta >= 1 / len(labels):
            raise InvalidInput(
                f"delta {delta:g} is not under 1/N = {1 / len(labels):g}: one image could be given away whole"
            )
        held = hold_norms(job.module)
        training = PrivateTraining(
            config=self.config.training,
            noise=self.config.noise,
            clip=self.config.clip,
            physical_batch=self.config.physical_batch,
            accountant=self.config.accountant,
            secret=self.config.secret_noise,
        )
        history, spent = training.run(job, delta)
        mechanism = (
            f"noise {self.config.noise:g}, clipping norm {self.config.clip:g}, "
            f"Poisson rate {training.rate(len(labels)):.4g}"
        )
        return Tuned(job.module, history, notes=self._notes(spent, mechanism, int(labels.bincount().max()), held))

    def _notes(self, spent: Spent, mechanism: str, largest: int, held: Sequence[str]) -> tuple[str, ...]:
        """What was spent, and for whom it holds."""
        notes = [
            f"DP-SGD: epsilon {spent.epsilon:.4g} at delta {spent.delta:.3g} ({spent.accountant.upper()} accountant, "
            f"{mechanism}, {spent.steps} steps), for the weights alone: not for losses, accuracies, or a choice made "
            "by them."
        ]
        if spent.epsilon == float("inf"):
            notes.append("With this little noise the accountant finds no guarantee; clipping alone gives none.")
        else:
            notes.append(
                "Epsilon is for one record, here one image. Inversion rebuilds what the images of a class have in "
                "common: for a class of n images the guarantee is n epsilon with a delta that grows exponentially, for "
                f"the largest class ({largest} images) an epsilon of {largest * spent.epsilon:.3g}"
                + (", which is vacuous." if largest * spent.epsilon > _VACUOUS else ".")
                + " Where a class is a person, whole classes would have to be the unit of the guarantee."
            )
        notes.append(
            "The seed of noise and batches came from the operating system and was not kept."
            if self.config.secret_noise
            else "Noise and batches derive from the plan's seed: the guarantee holds against those who do not know it "
            "(`secret_noise: true` needs no such trust)."
        )
        if held:
            notes.append(f"{len(held)} batch norms of trained units were held at their public values.")
        return tuple(notes)
