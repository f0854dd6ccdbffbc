"""The level rules: one attack's interval on the lift R, and its companions, to a risk level (method card E.3).

A level is raised only by lower bounds and cleared only by upper bounds. Rules are tried in the card's order. Two
places are stricter than the card, because there a wider interval would have looked better than a narrow one: with a
proven memorisation gap, `medium` also needs the upper bound under `clear_lift` (else rule 3 would fail the narrow
interval and rule 5 pass the wide one), and an extrapolated reading is never better than `medium` (card E.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from auditor.contracts.policy import RiskLevel, Thresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelInput:
    """What the rules read about one attack.

    Attributes:
        lo: lower bound of the 95 % interval of the lift R (may be negative).
        hi: upper bound of it (may exceed 1).
        access_weight: `a` in (0, 1]; 1 for a level that was attacked itself.
        extrapolated: `a` stands for an access level that nobody attacked.
        f_named: share of classes whose own lift has its lower bound over the policy's rate.
        any_named: whether there is any such class.
        w95_hi: upper bound of the 95th percentile over classes of the success rate; None: not known.
        delta_lo: lower bound of the memorisation gap; None: not measured, which raises nothing.
        n_classes: classes attacked (G).
        adaptive: an attack built to see through a defense was part of the evidence.
        evaluator_valid: evaluator and judge can be trusted.
        public_whitebox: the weights are published and the attack was white-box.
    """

    lo: float
    hi: float
    access_weight: float = 1.0
    extrapolated: bool = False
    f_named: float = 0.0
    any_named: bool = False
    w95_hi: float | None = None
    delta_lo: float | None = None
    n_classes: int
    adaptive: bool
    evaluator_valid: bool = True
    public_whitebox: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lo) and math.isfinite(self.hi) and self.lo <= self.hi):
            raise ValueError(f"not an interval: [{self.lo}, {self.hi}]")
        if not 0 < self.access_weight <= 1:
            raise ValueError(f"access weight {self.access_weight} is not in (0, 1]")

    @property
    def low(self) -> float:
        """The lower bound the rules read: a·lo, clipped to [0, 1]."""
        return min(max(self.access_weight * self.lo, 0.0), 1.0)

    @property
    def high(self) -> float:
        """The upper bound the rules read: a·hi, clipped to [0, 1]."""
        return min(max(self.access_weight * self.hi, 0.0), 1.0)


@dataclass(frozen=True, slots=True)
class LevelReading:
    """The level of one attack, the rule that gave it, and why.

    Attributes:
        level: None when nothing could be decided.
        rule: `E3.1` to `E3.7`.
        reason: one plain sentence.
        proven: the level that lower bounds alone establish, whatever else is missing; None: no leak is proven.
    """

    level: RiskLevel | None
    rule: str
    reason: str
    proven: RiskLevel | None = None

    @property
    def cleared(self) -> bool:
        """Whether upper bounds excluded everything over `level`."""
        return self.rule in ("E3.4", "E3.5") and self.level is not None


def read_level(given: LevelInput, thresholds: Thresholds | None = None) -> LevelReading:
    """The first rule of card E.3 that applies to `given`."""
    t = thresholds or Thresholds()
    return _undecidable(given, t) or _critical(given, t) or _high(given, t) or _cleared(given, t) or _open(given, t)


def may_reach_critical(given: LevelInput, thresholds: Thresholds) -> bool:
    """Whether upper bounds leave `critical` possible: what a gate that fails only on `critical` has to exclude."""
    t = thresholds
    published = given.public_whitebox and given.access_weight == 1 and given.hi >= t.high_lift
    return given.high >= t.critical_lift or published or given.w95_hi is None or given.w95_hi >= t.named_rate


def _undecidable(given: LevelInput, t: Thresholds) -> LevelReading | None:
    if not given.evaluator_valid:
        return LevelReading(None, "E3.1", "the evaluator or the judge cannot be trusted")
    if given.n_classes < t.min_classes:
        return LevelReading(
            None, "E3.1", f"{given.n_classes} classes were attacked; under {t.min_classes} nothing can be decided"
        )
    return None


def _critical(given: LevelInput, t: Thresholds) -> LevelReading | None:
    level = RiskLevel.CRITICAL
    if given.low >= t.critical_lift:
        return _raised(level, "E3.2", f"the lift is at least {given.low:.2f} (critical from {t.critical_lift:.2f})")
    if given.any_named and given.f_named >= t.critical_named_frac:
        text = f"{given.f_named:.0%} of the classes leak for certain (critical from {t.critical_named_frac:.0%})"
        return _raised(level, "E3.2", text)
    if given.public_whitebox and given.access_weight == 1 and given.lo >= t.high_lift:
        return _raised(level, "E3.2", f"the weights are published and the lift is at least {given.lo:.2f}")
    return None


def _high(given: LevelInput, t: Thresholds) -> LevelReading | None:
    level = RiskLevel.HIGH
    if given.low >= t.high_lift:
        return _raised(level, "E3.3", f"the lift is at least {given.low:.2f} (high from {t.high_lift:.2f})")
    if given.any_named:
        return _raised(level, "E3.3", "at least one class leaks for certain")
    if _memorised(given) and given.low >= t.clear_lift:
        return _raised(level, "E3.3", f"particular images are memorised and the lift is at least {given.low:.2f}")
    return None


def _cleared(given: LevelInput, t: Thresholds) -> LevelReading | None:
    quiet = given.high < t.clear_lift and not _memorised(given) and not given.extrapolated
    worst_quiet = given.w95_hi is not None and given.w95_hi < t.clear_worst_class
    if quiet and worst_quiet and given.adaptive and given.n_classes >= t.min_classes_low:
        return LevelReading(RiskLevel.LOW, "E3.4", f"the lift is under {given.high:.2f}, in the worst classes too")
    if given.high >= t.high_lift or (_memorised(given) and given.high >= t.clear_lift):
        return None
    if not given.adaptive:
        return LevelReading(
            None,
            "E3.5",
            f"the lift is under {given.high:.2f}, but no attack built to see through a defense was among the evidence",
            RiskLevel.MEDIUM if given.low >= t.clear_lift else None,
        )
    return LevelReading(
        RiskLevel.MEDIUM,
        "E3.5",
        f"the lift is under {given.high:.2f} (high from {t.high_lift:.2f}), not low enough for the level low",
        RiskLevel.MEDIUM if given.low >= t.clear_lift else None,
    )


def _open(given: LevelInput, t: Thresholds) -> LevelReading:
    if given.low >= t.clear_lift:
        text = f"the lift is at least {given.low:.2f} and could be {given.high:.2f}"
        return _raised(RiskLevel.HIGH, "E3.6", text)
    text = f"the lift lies between {given.low:.2f} and {given.high:.2f}: neither a leak nor its absence is shown"
    return LevelReading(None, "E3.7", text)


def _raised(level: RiskLevel, rule: str, reason: str) -> LevelReading:
    return LevelReading(level, rule, reason, level)


def _memorised(given: LevelInput) -> bool:
    return given.delta_lo is not None and given.delta_lo > 0
