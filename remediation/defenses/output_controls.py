"""Output controls: the service says less about its scores. Nothing is trained.

Rounded confidences are the countermeasure of Fredrikson, Jha and Ristenpart, "Model Inversion Attacks that Exploit
Confidence Information and Basic Countermeasures", CCS 2015; giving only the highest scores, or the label alone, are its
usual companions. They cost an attacker who asks for scores queries, hinder one who asks for labels not at all, and one
who has the weights takes them off. So a white-box deployment is refused, and the written file, whose output has no
gradient worth following, is audited by scores and labels only (`auditor.loading.inspection.output_controls`).

Departures from plain rounding:

- the winning class stays the winner: where rounding ties it with another or leaves nothing, it gets one step more, so
  that no label and no accuracy changes (the label was never hidden);
- the rounded values are divided by their sum, so that the audit reads probabilities. This adds nothing to what they
  say, and a value shown may lie between two steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import one_hot

from auditor.contracts.access import Access
from auditor.fisher.units import Unit
from auditor.training import TrainHistory
from remediation.defenses.base import Defense, DefenseConfig, Tuned, Tuning

FLOOR = 1e-12
"""Probability that stands for none, since its logarithm has to be finite."""
_LAST_DIGITS = 3e-5
"""Relative difference of probabilities that two computations of one network may show."""


class OutputControlsConfig(DefenseConfig):
    """Parameters of the output controls; those of training are not used. None given: two decimals."""

    decimals: Literal[1, 2, 3] | None = None
    """Probabilities are rounded to so many decimals; None: they are not."""
    top_k: int | None = Field(default=None, ge=1)
    """Only so many of the highest probabilities are given (all that tie with the last of them too); None: all."""
    label_only: bool = False
    """Only the winning class is given, as probability 1."""

    @model_validator(mode="before")
    @classmethod
    def _something(cls, given: Any) -> Any:
        if isinstance(given, dict) and not {"decimals", "top_k", "label_only"} & given.keys():
            return given | {"decimals": 2}
        return given

    @model_validator(mode="after")
    def _consistent(self) -> OutputControlsConfig:
        scores = self.decimals is not None or self.top_k is not None
        if not scores and not self.label_only:
            raise ValueError("set at least one of `decimals`, `top_k` and `label_only`")
        if scores and self.label_only:
            raise ValueError("`label_only` leaves no scores: leave out `decimals` and `top_k`")
        return self


class ControlledScores(nn.Module):
    """A network whose probabilities are cut, then rounded.

    Args:
        network: raw model input to (B, K) logits or log-probabilities.
        config: how its scores are controlled.
    """

    def __init__(self, network: nn.Module, config: OutputControlsConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, K) logarithms of the controlled probabilities, `FLOOR` where they are 0: usable wherever logits are."""
        probs: Tensor = self.network(inputs).softmax(dim=1)
        return self.control(probs).clamp_min(FLOOR).log().log_softmax(dim=1)

    def control(self, probs: Tensor) -> Tensor:
        """(B, K) probabilities to (B, K) controlled ones, up to a factor per row; the argmax stays."""
        winner = one_hot(probs.argmax(dim=1), probs.shape[1]).to(probs)
        if self.config.label_only:
            return winner
        probs = self._cut(probs)
        if self.config.decimals is None:
            return probs
        steps = (probs * 10.0**self.config.decimals).round()
        behind = (steps * (1 - winner)).amax(dim=1, keepdim=True)
        return torch.maximum(steps, winner * (behind + 1))

    def _cut(self, probs: Tensor) -> Tensor:
        """(B, K): the `top_k` highest, with sum 1."""
        if self.config.top_k is None:
            return probs
        last = probs.topk(self.config.top_k, dim=1).values[:, -1:]
        kept = probs * (probs >= last)
        return kept / kept.sum(dim=1, keepdim=True)

    @torch.no_grad()
    def steady(self, inputs: Tensor) -> Tensor:
        """(B,) bool: rows that no last digit changes: far from ties, from the cut, and from halves between steps."""
        probs: Tensor = self.network(inputs).softmax(dim=1)
        ranked = probs.sort(dim=1, descending=True).values
        apart = ranked[:, :-1] - ranked[:, 1:] > _LAST_DIGITS * ranked[:, :-1]
        steady: Tensor = apart[:, 0]
        if self.config.top_k is not None:
            steady = steady & apart[:, self.config.top_k - 1]
        if self.config.decimals is not None:
            steps = self._cut(probs) * 10.0**self.config.decimals
            steady = steady & ((steps % 1 - 0.5).abs() > _LAST_DIGITS * steps).all(dim=1)
        return steady


class OutputControls(Defense[OutputControlsConfig]):
    """Rounded, cut or hidden scores in front of the submitted network."""

    name = "output-controls"
    Config = OutputControlsConfig
    reshapes = True

    def misplaced(self, deployment: Access, cut: str | None) -> str:
        """Only where attackers read the scores of the whole model."""
        if cut is not None or deployment is Access.SPLIT:
            return "who reads what passes inside the model never sees its scores; take a defense of split inference"
        if deployment is Access.WHITE_BOX:
            return (
                "its attackers have the weights, and whoever has the weights strips a control of the output. If they "
                "really reach scores only, say so (`policy.deployment_access: score`, weights not published), or take "
                "a defense that trains"
            )
        return "" if deployment is Access.SCORE else "its attackers read labels only, which stay as they are"

    def inapplicable(self, module: nn.Module, units: Sequence[Unit], head: str) -> str:
        """A cut that keeps every class is none."""
        n_classes = len(module.get_submodule(head).get_parameter("weight"))
        top_k = self.config.top_k
        if top_k is None or top_k < n_classes:
            return ""
        return f"`top_k` of {top_k} keeps the scores of all {n_classes} classes"

    def comparable(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """Rows that no last digit changes."""
        if not isinstance(module, ControlledScores):
            raise TypeError("not a network with output controls")
        return module.steady(inputs)

    def tune(self, job: Tuning) -> Tuned:
        """The submitted network behind the controls; nothing is trained."""
        note = (
            "Nothing was trained: the network inside is the submitted one, and whoever has the file can take it out. "
            "Its scores and labels alone were audited."
        )
        return Tuned(ControlledScores(job.module, self.config), TrainHistory(), (note,))
