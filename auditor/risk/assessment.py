"""The evidence of an audit as the rules read it: one reading an attack, and everything a pass would still need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from auditor.contracts.access import Access
from auditor.contracts.cards import ClassifierCard, JudgeCard, OverlapCheck, PriorCard
from auditor.contracts.outcome import AttackOutcome
from auditor.contracts.plan import AuditPlan
from auditor.contracts.policy import Policy, RiskLevel
from auditor.contracts.scores import NotMeasured
from auditor.contracts.submission import TargetCard
from auditor.risk.completeness import (
    class_shortfalls,
    counts,
    data_shortfalls,
    is_own_control,
    judging_shortfalls,
    run_shortfalls,
    suite_shortfalls,
)
from auditor.risk.evidence import AttackEvidence, effective_access, weigh
from auditor.risk.levels import LevelInput, LevelReading, may_reach_critical, read_level
from auditor.risk.sample_size import class_advice, few_classes_advice
from auditor.risk.shortfall import Shortfall


@dataclass(frozen=True, slots=True)
class Reading:
    """One graded attack with what the rules made of it."""

    evidence: AttackEvidence
    given: LevelInput | None
    level: LevelReading

    @property
    def key(self) -> str:
        """The attack's key."""
        return self.evidence.outcome.key


@dataclass(frozen=True, slots=True)
class Assessment:
    """What the rules made of the evidence.

    Attributes:
        readings: one for each attack, in order of their keys.
        first, last: why no pass can be given; causes, and what follows from them.
        weak: why attacks that were planned cannot count; no reason against a pass by themselves.
    """

    readings: tuple[Reading, ...]
    first: tuple[Shortfall, ...]
    last: tuple[Shortfall, ...]
    weak: tuple[Shortfall, ...]

    @property
    def missing(self) -> tuple[Shortfall, ...]:
        """Why no pass can be given."""
        return (*self.first, *self.last)

    @property
    def told(self) -> tuple[Shortfall, ...]:
        """`missing`, with the limits of single attacks in between: causes before what follows from them."""
        return (*self.first, *self.weak, *self.last)


def assess(
    *,
    attacks: Sequence[AttackOutcome],
    evaluator: ClassifierCard | NotMeasured,
    judge: JudgeCard | NotMeasured,
    priors: Sequence[PriorCard],
    overlap: OverlapCheck,
    plan: AuditPlan,
    policy: Policy,
    weights_published: bool,
    target: TargetCard,
) -> Assessment:
    """Read the evidence under a policy. The order of `attacks` never changes the answer."""
    deployment = effective_access(policy, weights_published=weights_published)
    graded = sorted(attacks, key=lambda outcome: outcome.key)
    controls = {outcome.prior: outcome for outcome in graded if is_own_control(outcome, plan)}
    judged = not isinstance(evaluator, NotMeasured) and not isinstance(judge, NotMeasured)
    evidence = [weigh(outcome, controls, priors, plan, policy, target, judged=judged) for outcome in graded]
    distrust = judging_shortfalls(evaluator, judge, target, policy.thresholds)
    readings = _read_all(evidence, plan, policy, deployment, trusted=not distrust, published=weights_published)
    return Assessment(
        readings=tuple(readings),
        first=(
            *distrust,
            *data_shortfalls(evaluator, priors, overlap, policy.thresholds, needs_prior=_needs_prior(graded)),
            *run_shortfalls(graded, plan, deployment),
            *(shortfall for item in evidence for shortfall in item.blocked),
        ),
        last=(
            *suite_shortfalls(evidence, plan, target, deployment, policy.thresholds),
            *_open_readings(readings, plan, policy, target),
            *class_shortfalls(evidence, policy.thresholds),
        ),
        weak=tuple(
            shortfall
            for item in evidence
            if not counts(item, plan) and not item.outcome.is_control
            for shortfall in item.weak
        ),
    )


def _needs_prior(outcomes: Sequence[AttackOutcome]) -> bool:
    """Whether any attack draws its pictures from a prior; those on a cut model do not."""
    return not outcomes or any(outcome.access is not Access.SPLIT for outcome in outcomes)


def _read_all(
    evidence: Sequence[AttackEvidence],
    plan: AuditPlan,
    policy: Policy,
    deployment: Access,
    *,
    trusted: bool,
    published: bool,
) -> list[Reading]:
    adaptive = any(
        item.outcome.adaptive and counts(item, plan) and item.outcome.access.covers(deployment) for item in evidence
    )
    return [
        _read(item, policy, deployment, trusted=trusted, published=published, adaptive=adaptive) for item in evidence
    ]


def _read(
    item: AttackEvidence, policy: Policy, deployment: Access, *, trusted: bool, published: bool, adaptive: bool
) -> Reading:
    outcome, lift = item.outcome, item.lift
    if not outcome.status.ran:
        text = f"{outcome.status}: {outcome.reason}" if outcome.reason else str(outcome.status)
        return Reading(item, None, LevelReading(None, "E3.1", text))
    if lift is None:
        why = [shortfall.reason for shortfall in (*item.blocked, *item.weak)]
        return Reading(item, None, LevelReading(None, "E3.1", next(iter(why), "nobody could judge what it found")))
    weight, extrapolated = _access_weight(outcome.access, policy, deployment)
    named = set(outcome.named_classes)
    given = LevelInput(
        lo=lift.low,
        hi=lift.high,
        access_weight=weight,
        extrapolated=extrapolated,
        f_named=len(named) / max(lift.n_classes, 1),
        any_named=bool(named),
        w95_hi=outcome.w95_high,
        n_classes=lift.n_classes,
        adaptive=adaptive,
        evaluator_valid=trusted,
        public_whitebox=published and outcome.access is Access.WHITE_BOX,
    )
    return Reading(item, given, read_level(given, policy.thresholds))


def _access_weight(access: Access, policy: Policy, deployment: Access) -> tuple[float, bool]:
    """(a, extrapolated): below 1 only where the policy asks to carry a stronger attack over to a weaker deployment."""
    stronger = access.covers(deployment) and access is not deployment
    if policy.access_weighting == "measured" or not stronger:
        return 1.0, False
    return min(policy.access_weights[deployment] / policy.access_weights[access], 1.0), True


def _open_readings(readings: Sequence[Reading], plan: AuditPlan, policy: Policy, target: TargetCard) -> list[Shortfall]:
    """Attacks that work but whose interval excludes too little for a pass."""
    t = policy.thresholds
    wide = [item for item in readings if item.level.rule == "E3.7" and counts(item.evidence, plan)]
    lifts = [item.evidence.lift for item in wide if item.evidence.lift is not None]
    found = [Shortfall(text_of(item), class_advice(lifts, t, target)) for item in wide]
    for reading in readings:
        if reading.given is None:
            continue
        if counts(reading.evidence, plan) and reading.given.n_classes < t.min_classes:
            found.append(Shortfall(text_of(reading), few_classes_advice(reading.given.n_classes, t, target)))
        elif _leaves_critical_open(reading, policy):
            found.append(
                Shortfall(
                    f"{reading.key}: high is proven and critical is not excluded",
                    "more classes, or a repair; or a gate that fails on high",
                )
            )
    return found


def text_of(reading: Reading) -> str:
    """`key: reason`, with a remark where the number of classes and not the interval set the upper bound."""
    text = f"{reading.key}: {reading.level.reason.removeprefix(f'{reading.key}: ')}"
    lift = reading.evidence.lift
    bounded = reading.level.rule in ("E3.4", "E3.5", "E3.7")
    if lift is None or lift.high <= lift.measured_high or not bounded or reading.given is None:
        return text
    return f"{text} (with {lift.n_classes} classes nothing under {lift.high:.2f} can be excluded)"


def _leaves_critical_open(reading: Reading, policy: Policy) -> bool:
    if policy.fail_on is not RiskLevel.CRITICAL or reading.level.level is not RiskLevel.HIGH or reading.given is None:
        return False
    return may_reach_critical(reading.given, policy.thresholds)
