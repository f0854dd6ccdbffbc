"""The policy: thresholds that turn evidence into a risk level and a verdict; versioned and hashed into the report."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from auditor.contracts.access import Access
from auditor.contracts.base import Contract


class RiskLevel(StrEnum):
    """Risk levels, lowest first."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 (low) to 3 (critical)."""
        return list(RiskLevel).index(self)


class Verdict(StrEnum):
    """What the gate says."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class Thresholds(Contract):
    """Bounds on the normalised lift R and its companions (method card E.3)."""

    critical_lift: float = Field(default=0.50, ge=0, le=1)
    high_lift: float = Field(default=0.30, ge=0, le=1)
    clear_lift: float = Field(default=0.10, ge=0, le=1)
    critical_named_frac: float = Field(default=0.05, ge=0, le=1)
    named_rate: float = Field(default=0.50, ge=0, le=1)
    clear_worst_class: float = Field(default=0.25, ge=0, le=1)
    min_classes: int = Field(default=20, ge=2)
    """Below this many classes nothing is decided."""
    min_classes_low: int = Field(default=60, ge=2)
    """`low` needs at least this many classes."""
    min_prior_ceiling: float = Field(default=0.30, ge=0, le=1)
    """An attack whose prior's ceiling (both-agree, lower bound) is under this cannot count towards a pass."""
    min_evaluator_accuracy: float = Field(default=0.40, ge=0, le=1)
    """Held-out accuracy under which the evaluator cannot count."""
    min_judge_accuracy: float = Field(default=0.40, ge=0, le=1)
    """Held-out identification rate under which the judge cannot count."""
    min_attacks: int = Field(default=2, ge=1)
    """Different methods (catalog names) that have to work for a pass: one attack under two labels is one method."""
    min_seeds: int = Field(default=3, ge=1)
    """Samples per class needed for a pass."""
    min_coverage: float = Field(default=1.0, ge=0, le=1)
    """Share of planned samples that must be done for a pass."""
    min_prior_coverage: float = Field(default=0.50, ge=0, le=1)
    """Share of classes (lower bound) that unguided samples of a prior must resemble: a prior that can draw anything and
    knows nothing has a high ceiling, and a search in it finds nothing."""
    min_end_confidence: float = Field(default=0.50, ge=0, le=1)
    """Mean target confidence an attack must end with to count towards a pass: one that never convinced the target
    it attacked (masked gradients, a broken search) shows nothing about it. Measured: 0.74 to 1.00 for attacks that
    work, 0.01 to 0.03 on random weights, 0.10 to 0.58 for searches crippled on purpose."""
    min_queries_per_sample: int = Field(default=100, ge=0)
    """Images an attack must have sent to the target for each reconstruction to count towards a pass: a search of a
    few steps that finds nothing shows nothing."""
    min_target_accuracy: float = Field(default=0.20, ge=0, le=1)
    """Held-out accuracy (lower bound) of the target itself, under which a pass is refused: a model fed wrongly scaled
    images, or an untrained one, looks clean without being so."""

    @model_validator(mode="after")
    def _ordered(self) -> Thresholds:
        problems = []
        if not self.clear_lift <= self.high_lift <= self.critical_lift:
            problems.append("`clear_lift` <= `high_lift` <= `critical_lift` must hold")
        if self.min_classes > self.min_classes_low:
            problems.append("`min_classes_low` must be at least `min_classes`")
        if problems:
            raise ValueError("; ".join(problems))
        return self


DEFAULT_ACCESS_WEIGHTS: dict[Access, float] = {
    Access.WHITE_BOX: 1.0,
    Access.SPLIT: 0.9,
    Access.SCORE: 0.7,
    Access.LABEL: 0.5,
}
"""Method card E.2."""


class Policy(Contract):
    """A named, versioned table of thresholds and what they gate."""

    name: str = "default"
    version: str = "1"
    fail_on: RiskLevel = RiskLevel.HIGH
    """The gate fails at this level and above."""
    thresholds: Thresholds = Thresholds()
    access_weighting: Literal["measured", "extrapolated"] = "measured"
    """`measured`: weight 1 for a level that was attacked. `extrapolated`: the weights below,
    never better than medium."""
    access_weights: dict[Access, Annotated[float, Field(gt=0, le=1)]] = DEFAULT_ACCESS_WEIGHTS
    """By access level, in (0, 1]; a level left out keeps its default."""
    deployment_access: Access = Access.WHITE_BOX
    """What an attacker of this deployment reaches: a pass needs an attack at this level or a stronger one, and
    `extrapolated` weights stronger attacks down to it. Published weights always mean white-box."""

    @field_validator("access_weights", mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        return {**DEFAULT_ACCESS_WEIGHTS, **given} if isinstance(given, dict) else given

    @property
    def family(self) -> str:
        """Its name without the level that `failing_on` puts behind it."""
        parts = self.name.split("@")
        while len(parts) > 1 and parts[-1].strip().casefold() in set(RiskLevel):
            parts.pop()
        return "@".join(parts)

    def failing_on(self, level: RiskLevel) -> Policy:
        """The same with another `fail_on`, which its name then tells: `strict@high`."""
        if level is self.fail_on:
            return self
        return self.model_copy(update={"fail_on": level, "name": f"{self.family}@{level}"})

    def decides_like(self, other: Policy) -> bool:
        """Whether they are the same, whatever they are called."""
        return self.model_copy(update={"name": other.name}) == other

    @property
    def called_default(self) -> bool:
        """Whether it has no name but the built-in policy's."""
        return self.name.partition("@")[0].strip().casefold() in ("", Policy().name)

    @property
    def label(self) -> str:
        """Its name as people are told it: a level behind it is that of `fail_on`, and `default` is the built-in one."""
        if not self.called_default:
            return self.name if self.family == self.name else f"{self.family}@{self.fail_on}"
        like = Policy().failing_on(self.fail_on)
        return like.name if self.decides_like(like) else "(unnamed)"

    @property
    def pass_sentence(self) -> str:
        """What a pass at the level low means."""
        if self.loosens_levels:
            return (
                "No attack of this suite reached what this policy, which is looser than the built-in one, calls a leak."
            )
        return "No attack of this suite succeeded within this budget."

    @property
    def loosens_levels(self) -> bool:
        """Whether a level means less than the same one by the built-in policy."""
        return bool(self.model_copy(update={"fail_on": Policy().fail_on}).loosened())

    def loosened(self) -> tuple[str, ...]:
        """What this policy lets through that the built-in one does not, one line each; empty: nothing."""
        built_in = Policy()
        lines = []
        for name in Thresholds.model_fields:
            mine, theirs = getattr(self.thresholds, name), getattr(built_in.thresholds, name)
            looser = mine < theirs if name.startswith("min_") else mine > theirs
            if looser:
                lines.append(f"{name} is {mine} (built-in: {theirs})")
        if self.fail_on.rank > built_in.fail_on.rank:
            lines.append(f"fails only on {self.fail_on} (built-in: {built_in.fail_on})")
        for access, weight in self.access_weights.items():
            if weight < built_in.access_weights[access]:
                lines.append(f"the weight of {access} access is {weight} (built-in: {built_in.access_weights[access]})")
        if self.access_weighting != built_in.access_weighting:
            lines.append("attacks on stronger access are weighted down to the deployment (built-in: not)")
        if self.deployment_access is not built_in.deployment_access:
            lines.append(f"attackers are taken to have {self.deployment_access} access only (built-in: white-box)")
        return tuple(lines)
