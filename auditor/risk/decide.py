"""The gate: stored evidence and a policy to a verdict. Pure, offline, and the only place a verdict is made.

A proven leak fails whatever else is missing. A pass needs complete evidence: every reason against it is collected and
listed, and any single one makes the verdict inconclusive.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from auditor.contracts.access import Access
from auditor.contracts.base import digest_of
from auditor.contracts.cards import ClassifierCard, JudgeCard, OverlapCheck, PriorCard
from auditor.contracts.outcome import AttackOutcome
from auditor.contracts.plan import AuditPlan
from auditor.contracts.policy import Policy, RiskLevel, Verdict
from auditor.contracts.report import AttackLevel, RiskVerdict
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
from auditor.risk.vector import vector

PASS_SENTENCE = "No attack of this suite succeeded within this budget."  # noqa: S105
MEMORISATION_NOTE = "Whether particular training images are memorised was not measured."


@dataclass(frozen=True, slots=True)
class _Reading:
    """One graded attack with what the rules made of it."""

    evidence: AttackEvidence
    given: LevelInput | None
    level: LevelReading

    @property
    def key(self) -> str:
        return self.evidence.outcome.key


def decide(
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
) -> RiskVerdict:
    """The verdict of an audit, with every reason and what would settle an open one.

    Controls (selection from the prior by the target's own scores) are read like attacks: they may prove a leak, and
    since no plan asks for them they clear nothing. The order of `attacks` never changes the answer.
    """
    deployment = effective_access(policy, weights_published=weights_published)
    graded = sorted(attacks, key=lambda outcome: outcome.key)
    controls = {outcome.prior: outcome for outcome in graded if is_own_control(outcome, plan)}
    judged = not isinstance(evaluator, NotMeasured) and not isinstance(judge, NotMeasured)
    evidence = [weigh(outcome, controls, priors, plan, policy, target, judged=judged) for outcome in graded]
    distrust = judging_shortfalls(evaluator, judge, target, policy.thresholds)
    readings = _read_all(evidence, plan, policy, deployment, trusted=not distrust, published=weights_published)
    first = (
        *distrust,
        *data_shortfalls(evaluator, priors, overlap, policy.thresholds, needs_prior=_needs_prior(graded)),
        *run_shortfalls(graded, plan, deployment),
        *(shortfall for item in evidence for shortfall in item.blocked),
    )
    last = (
        *suite_shortfalls(evidence, plan, target, deployment, policy.thresholds),
        *_open_readings(readings, plan, policy, target),
        *class_shortfalls(evidence, policy.thresholds),
    )
    verdict, level = _verdict(readings, (*first, *last), plan, policy)
    weak = (
        shortfall
        for item in evidence
        if not counts(item, plan) and not item.outcome.is_control
        for shortfall in item.weak
    )
    missing = (*first, *weak, *last)  # causes before what follows from them
    return RiskVerdict(
        verdict=verdict,
        level=level,
        reasons=_reasons(verdict, level, readings, missing, plan, policy),
        needs=tuple(dict.fromkeys(s.need for s in missing)) if verdict is Verdict.INCONCLUSIVE else (),
        attacks=tuple(_attack_level(reading, plan) for reading in readings),
        vector=vector(evidence, level, verdict),
        policy_digest=digest_of(policy),
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
) -> list[_Reading]:
    adaptive = any(
        item.outcome.adaptive and counts(item, plan) and item.outcome.access.covers(deployment) for item in evidence
    )
    return [
        _read(item, policy, deployment, trusted=trusted, published=published, adaptive=adaptive) for item in evidence
    ]


def _read(
    item: AttackEvidence, policy: Policy, deployment: Access, *, trusted: bool, published: bool, adaptive: bool
) -> _Reading:
    outcome, lift = item.outcome, item.lift
    if not outcome.status.ran:
        text = f"{outcome.status}: {outcome.reason}" if outcome.reason else str(outcome.status)
        return _Reading(item, None, LevelReading(None, "E3.1", text))
    if lift is None:
        why = [shortfall.reason for shortfall in (*item.blocked, *item.weak)]
        return _Reading(item, None, LevelReading(None, "E3.1", next(iter(why), "nobody could judge what it found")))
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
    return _Reading(item, given, read_level(given, policy.thresholds))


def _access_weight(access: Access, policy: Policy, deployment: Access) -> tuple[float, bool]:
    """(a, extrapolated): below 1 only where the policy asks to carry a stronger attack over to a weaker deployment."""
    stronger = access.covers(deployment) and access is not deployment
    if policy.access_weighting == "measured" or not stronger:
        return 1.0, False
    return min(policy.access_weights[deployment] / policy.access_weights[access], 1.0), True


def _open_readings(
    readings: Sequence[_Reading], plan: AuditPlan, policy: Policy, target: TargetCard
) -> list[Shortfall]:
    """Attacks that work but whose interval excludes too little for a pass."""
    t = policy.thresholds
    wide = [item for item in readings if item.level.rule == "E3.7" and counts(item.evidence, plan)]
    lifts = [item.evidence.lift for item in wide if item.evidence.lift is not None]
    found = [Shortfall(_text(item), class_advice(lifts, t, target)) for item in wide]
    for reading in readings:
        if reading.given is None:
            continue
        if counts(reading.evidence, plan) and reading.given.n_classes < t.min_classes:
            found.append(Shortfall(_text(reading), few_classes_advice(reading.given.n_classes, t, target)))
        elif _leaves_critical_open(reading, policy):
            found.append(
                Shortfall(
                    f"{reading.key}: high is proven and critical is not excluded",
                    "more classes, or a repair; or a gate that fails on high",
                )
            )
    return found


def _text(reading: _Reading) -> str:
    """`key: reason`, with a remark where the number of classes and not the interval set the upper bound."""
    text = f"{reading.key}: {reading.level.reason.removeprefix(f'{reading.key}: ')}"
    lift = reading.evidence.lift
    bounded = reading.level.rule in ("E3.4", "E3.5", "E3.7")
    if lift is None or lift.high <= lift.measured_high or not bounded or reading.given is None:
        return text
    return f"{text} (with {lift.n_classes} classes nothing under {lift.high:.2f} can be excluded)"


def _leaves_critical_open(reading: _Reading, policy: Policy) -> bool:
    if policy.fail_on is not RiskLevel.CRITICAL or reading.level.level is not RiskLevel.HIGH or reading.given is None:
        return False
    return may_reach_critical(reading.given, policy.thresholds)


def _verdict(
    readings: Sequence[_Reading], missing: Sequence[Shortfall], plan: AuditPlan, policy: Policy
) -> tuple[Verdict, RiskLevel | None]:
    proven = _worst(reading.level.proven for reading in readings)
    if proven is not None and proven.rank >= policy.fail_on.rank:
        return Verdict.FAIL, proven
    cleared = [reading.level for reading in readings if counts(reading.evidence, plan)]
    level = _worst([proven, *(reading.level for reading in cleared)])
    if missing or level is None or any(reading.level is None for reading in cleared):
        return Verdict.INCONCLUSIVE, None
    return (Verdict.FAIL if level.rank >= policy.fail_on.rank else Verdict.PASS), level


def _worst(levels: Iterable[RiskLevel | None]) -> RiskLevel | None:
    found = [level for level in levels if level is not None]
    return max(found, key=lambda level: level.rank, default=None)


def _attack_level(reading: _Reading, plan: AuditPlan) -> AttackLevel:
    level = reading.level
    if level.cleared and not counts(reading.evidence, plan):
        why = [shortfall.reason for shortfall in (*reading.evidence.blocked, *reading.evidence.weak)]
        text = "; ".join(why) or "the plan does not ask for it"
        prefix = f"{reading.key}: "
        text = text.removeprefix(prefix).replace(f"; {prefix}", "; ")
        return AttackLevel(
            key=reading.key, level=level.proven, rule="E3.1", reason=f"cannot count towards a pass: {text}"
        )
    text = _text(reading).removeprefix(f"{reading.key}: ")
    return AttackLevel(key=reading.key, level=level.level, rule=level.rule, reason=text)


def _reasons(
    verdict: Verdict,
    level: RiskLevel | None,
    readings: Sequence[_Reading],
    missing: Sequence[Shortfall],
    plan: AuditPlan,
    policy: Policy,
) -> tuple[str, ...]:
    lines: list[str] = []
    if verdict is Verdict.PASS:
        lines = [PASS_SENTENCE]
    lines += [
        f"{_text(reading)} [{reading.level.rule}]"
        for reading in sorted(readings, key=_strength)
        if level is not None and (reading.level.proven is level or _decided(reading, level, plan, verdict))
    ]
    if verdict is Verdict.FAIL:
        lines += [f"Also: {shortfall.reason}" for shortfall in missing]
    elif verdict is Verdict.INCONCLUSIVE:
        lines += [shortfall.reason for shortfall in missing]
        lines += _proven_below(readings, policy)
    else:
        lines.append(MEMORISATION_NOTE)
    return tuple(dict.fromkeys(lines))


def _strength(reading: _Reading) -> tuple[int, float, str]:
    """Sorts the reading that says most first."""
    level, lift = reading.level.level, reading.evidence.lift
    return -(level.rank if level else -1), -(lift.low if lift else 0.0), reading.key


def _decided(reading: _Reading, level: RiskLevel, plan: AuditPlan, verdict: Verdict) -> bool:
    """Whether this reading carries the verdict although it proves no leak."""
    if not counts(reading.evidence, plan):
        return False
    return verdict is Verdict.PASS or reading.level.level is level


def _proven_below(readings: Sequence[_Reading], policy: Policy) -> list[str]:
    return [
        f"{reading.key}: {reading.level.proven} is proven; this policy lets it through (it fails on {policy.fail_on})"
        for reading in readings
        if reading.level.proven is not None
    ]
