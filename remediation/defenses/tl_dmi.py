"""TL-DMI: keep private gradients out of the early layers.

Ho, Hao, Chandrasegaran, Nguyen and Cheung, "Model Inversion Robustness: Can Transfer Learning Help?", CVPR 2024,
arXiv 2405.05588. The network is split at a boundary: what lies before it keeps weights trained on public data; what
lies after it, with a new head, is fine-tuned on the private data with plain cross-entropy. How many layers are tuned is
the only choice.

Departures from the authors' code:

- boundaries count execution-ordered units (a convolution with its norm, or a residual block), exclusively, and 0 means
  that everything is trained; theirs count registered children, inclusively, and 0 means that nothing but the head is;
- frozen batch norms stay in evaluation mode. Theirs run in training mode, so their statistics take up private data
  (`norm_mode: reference` reproduces that);
- a validation split chooses the epoch; theirs takes the epoch that is best on the test set;
- only parameters that are trained reach the optimiser, so weight decay cannot move the others.
"""

from __future__ import annotations

from remediation.defenses.base import Defense, DefenseConfig, Tuned, Tuning


class TlDmi(Defense[DefenseConfig]):
    """Early layers trained on public data and frozen, the rest fine-tuned on the private data."""

    name = "tl-dmi"
    freezes = True

    def tune(self, job: Tuning) -> Tuned:
        """Plain cross-entropy."""
        return Tuned(job.module, job.train(self.config.training))
