"""RoLSS: the skip connections of the last stage removed, or scaled down.

Koh, Ho, Nguyen and Cheung, "On the Vulnerability of Skip Connections to Model Inversion Attacks", ECCV 2024, arXiv
2409.01696. A residual block F(x) + x becomes F(x) + s x: s = 0 removes the skip (RoLSS), 0 < s < 1 scales it (SSF).
Skips make inversion easier, and those of the last stage most, while accuracy needs them least there. The public stage
trains with skips and the private one without, as in the paper's two-stage variant (TTS).

Departures from the authors' code:

- the last stage alone is changed; their ResNet code also removes the skips of the last fifth of stage three;
- a projected skip (convolution and norm) is scaled too, after its norm;
- residual networks only: their DenseNet and vision transformer variants are not offered.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import nn

from auditor.fisher.units import Unit
from auditor.targets.onnx_graph import GraphModule
from remediation.defenses.base import Defense, DefenseConfig, Tuned, Tuning
from remediation.skips import last_stage, scale_last_stage


class RolssConfig(DefenseConfig):
    """Parameters of RoLSS."""

    scale: float = Field(default=0.0, ge=0, lt=1)
    """What the skips of the last stage are multiplied by; 0 removes them."""


class Rolss(Defense[RolssConfig]):
    """Skip connections of the last stage removed or scaled down, then retrained."""

    name = "rolss"
    Config = RolssConfig
    reshapes = True

    def inapplicable(self, module: nn.Module, units: Sequence[Unit], head: str) -> str:
        """There has to be a residual block that is known."""
        if last_stage(module):
            return ""
        if isinstance(module, GraphModule):
            return (
                "its graph holds no sum of a convolution's output with what skips that convolution, so there is no "
                "skip connection to remove. Take a defense that does not need one."
            )
        return (
            "no block of this architecture is known to have a skip connection (known: torchvision's ResNet, ResNeXt, "
            "Wide ResNet and RegNet, and small-resnet). If it has them, submit it as ONNX and leave "
            "`model.architecture` out: skips over convolutions are then found in the graph. Else take a defense that "
            "does not need them."
        )

    def tune(self, job: Tuning) -> Tuned:
        """Plain cross-entropy on the changed network."""
        blocks = scale_last_stage(job.module, self.config.scale)
        done = "removed" if self.config.scale == 0 else f"scaled by {self.config.scale:g}"
        note = (
            f"Skips of the last stage were {done} ({', '.join(blocks)}) after the public stage, which trained with "
            "them: the paper's two-stage variant. The network is written as ONNX."
        )
        return Tuned(job.module, job.train(self.config.training), notes=(note,))
