"""MID: limit what the output can tell about the input by a variational bottleneck before the classifier.

Wang, Zhang and Jia, "Improving Robustness to Model Inversion Attacks via Mutual Information Regularization", AAAI
2021, arXiv 2009.05241, with the bound of Alemi, Fischer, Dillon and Murphy, "Deep Variational Information Bottleneck",
ICLR 2017, arXiv 1612.00410. The head gives way to an encoder of a Gaussian over k values and a classifier of a sample
of it; the loss is cross-entropy plus `beta` times the divergence of that Gaussian from a standard one, an upper bound
on the mutual information between features and code.

Departures from the authors' code:

- the deployed model classifies the *mean*; theirs draws a sample for every answer. The mean is an affine function of
  the features and the classifier one of the mean, so both are merged into one layer of the submitted kind: the
  architecture stays what it was, answers can be repeated, and an attacker has no noise to average away;
- the epoch is chosen by the accuracy of that mean on a validation split;
- where the head is a convolution, the code is one per position and the divergence is averaged over positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from auditor.fisher.units import Unit
from auditor.training import Step
from remediation.defenses.base import Defense, DefenseConfig, Tuned, Tuning
from remediation.heads import Head, fresh_layer, no_two_layers, put_layer, read_head

_STD_SHIFT = 5.0
"""Taken from the raw deviation, so that training starts with next to no noise (0.007); as in the authors' code."""


class MidConfig(DefenseConfig):
    """Parameters of MID."""

    beta: float = Field(default=3e-3, ge=0)
    """Weight of the divergence, in nats; published code has 3e-4 to 3e-2. Accuracy falls as it grows."""
    bottleneck: int | None = Field(default=None, ge=1)
    """Values in the code, k; default: half of the features."""


class Mid(Defense[MidConfig]):
    """A noisy bottleneck before the classifier while training, with a price on what it lets through."""

    name = "mid"
    Config = MidConfig

    def inapplicable(self, module: nn.Module, units: Sequence[Unit], head: str) -> str:
        """The head has to be one layer that two others can be merged into."""
        return no_two_layers(module, head)

    def tune(self, job: Tuning) -> Tuned:
        """Cross-entropy on a sample of the code, plus its priced divergence; then the mean, merged into one layer."""
        head = read_head(job.module, job.head)
        width = head.in_features if isinstance(head, nn.Linear) else head.in_channels
        bottleneck = Bottleneck(head, self.config.bottleneck or max(1, width // 2), job.ctx.rng("repair", "bottleneck"))
        put_layer(job.module, job.head, bottleneck)

        def loss(step: Step) -> Tensor:
            fit = cross_entropy(step.model(step.inputs), step.labels)
            return fit + self.config.beta * bottleneck.divergence

        history = job.train(self.config.training, loss)
        put_layer(job.module, job.head, bottleneck.merged())
        note = (
            f"The bottleneck of {bottleneck.size} values was trained with beta {self.config.beta:g} and let through at "
            f"most {float(bottleneck.divergence.detach()):.3g} nats a code in the last batch. The deployed model "
            "classifies its mean, merged into one layer: nothing in its answers is random, so there is no noise to "
            "average over, and none that hides anything."
        )
        return Tuned(job.module, history, notes=(note,))


class Bottleneck(nn.Module):
    """(B, D) features, or (B, D, H, W), to scores by way of a Gaussian code: a sample in training, else its mean.

    Args:
        head: the layer in whose place this stands.
        size: values in the code, k.
        generator: of initial weights and samples, on the CPU.
    """

    def __init__(self, head: Head, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.size = size
        self.encode = fresh_layer(head, 2 * size, generator)
        self.classify = fresh_layer(head, len(head.weight), generator, n_inputs=size, pointwise=True)
        self.divergence = head.weight.new_zeros(())
        """Of the last batch, in nats a code."""
        self._axis = 1 if isinstance(head, nn.Conv2d) else -1
        self._generator = generator

    def forward(self, features: Tensor) -> Tensor:
        """Scores, of the shape that the head gives."""
        mean, raw = self.encode(features).float().chunk(2, dim=self._axis)
        if not self.training:
            return self.classify(mean)  # type: ignore[no-any-return]
        std = softplus(raw - _STD_SHIFT).clamp_min(torch.finfo(raw.dtype).tiny)
        self.divergence = gaussian_divergence(mean, std).sum(self._axis).mean()
        noise = torch.randn(mean.shape, generator=self._generator).to(mean.device)
        return self.classify(mean + std * noise)  # type: ignore[no-any-return]

    @torch.no_grad()
    def merged(self) -> Head:
        """The mean and the classifier as one layer of the head's kind."""
        outer, inner = self.classify.weight.flatten(1).double(), self.encode.weight[: self.size].double()
        layer = fresh_layer(self.encode, len(outer), torch.Generator())
        layer.weight.copy_((outer @ inner.flatten(1)).view(layer.weight.shape))
        if layer.bias is not None and self.encode.bias is not None and self.classify.bias is not None:
            layer.bias.copy_(outer @ self.encode.bias[: self.size].double() + self.classify.bias.double())
        return layer


def gaussian_divergence(mean: Tensor, std: Tensor) -> Tensor:
    """KL divergence of N(mean, std^2) from N(0, 1) in nats, element by element."""
    return (mean.square() + std.square() - 1) / 2 - std.log()
