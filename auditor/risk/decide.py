"""The gate: stored evidence and a policy to a verdict. Pure, offline, and the only place a verdict is made.

A proven leak fails whatever else is missing. A pass needs complete evidence: every reason against it is collected and
listed, and any single one makes the verdict inconclusive.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from auditor.contracts.base import digest_of
from auditor.contracts.cards import ClassifierCard, JudgeCard, OverlapCheck, PriorCard
from auditor.contracts.outcome import AttackOutcome
from auditor.contracts.plan import AuditPlan
from auditor.contracts.policy import Policy, RiskLevel, Verdict
from auditor.contracts.report import AttackLevel, AuditReport, RiskVerdict
from auditor.contracts.scores import NotMeasured
from auditor.contracts.submission import TargetCard
from auditor.risk.assessment import Assessment, Reading, assess, text_of
from auditor.risk.completeness import counts
from auditor.risk.shortfall import Shortfall
from auditor.risk.vector import vector

MEMORISATION_NOTE = "Whether particular training images are memorised was not measured."


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
    found = assess(
        attacks=attacks,
        evaluator=evaluator,
        judge=judge,
        priors=priors,
        overlap=overlap,
        plan=plan,
        policy=policy,
        weights_published=weights_published,
        target=target,
    )
    return decide_on(found, plan, policy)


def assess_report(report: AuditReport, policy: Policy) -> Assessment:
    """The evidence stored in a report, read under `policy`."""
    return assess(
        attacks=report.attacks,
        evaluator=report.evaluator,
        judge=report.judge,
        priors=report.priors,
        overlap=report.overlap,
        plan=report.plan,
        policy=policy,
        weights_published=report.weights_published,
        target=report.target,
    )


def decide_on(found: Assessment, plan: AuditPlan, policy: Policy) -> RiskVerdict:
    """The verdict on evidence that was read under `policy`."""
    verdict, level = verdict_of(found.readings, found.missing, plan, policy)
    missing = found.told
    return RiskVerdict(
        verdict=verdict,
        level=level,
        reasons=_reasons(verdict, level, found.readings, missing, plan, policy),
        needs=tuple(dict.fromkeys(s.need for s in missing)) if verdict is Verdict.INCONCLUSIVE else (),
        attacks=tuple(_attack_level(reading, plan, policy) for reading in found.readings),
        vector=vector([reading.evidence for reading in found.readings], level, verdict),
        policy_digest=digest_of(policy),
    )


def verdict_of(
    readings: Sequence[Reading], missing: Sequence[Shortfall], plan: AuditPlan, policy: Policy
) -> tuple[Verdict, RiskLevel | None]:
    """Verdict and level of some readings, while `missing` stands against a pass."""
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


def _attack_level(reading: Reading, plan: AuditPlan, policy: Policy) -> AttackLevel:
    level = reading.level
    if level.cleared and not counts(reading.evidence, plan):
        why = [shortfall.reason for shortfall in (*reading.evidence.blocked, *reading.evidence.weak)]
        text = "; ".join(why) or "the plan does not ask for it"
        prefix = f"{reading.key}: "
        text = text.removeprefix(prefix).replace(f"; {prefix}", "; ")
        return AttackLevel(
            key=reading.key, level=level.proven, rule="E3.1", reason=f"cannot count towards a pass: {text}"
        )
    text = text_of(reading).removeprefix(f"{reading.key}: ")
    shown = level.level
    if shown is None and level.proven is not None and level.proven.rank >= policy.fail_on.rank:
        shown = level.proven  # nothing is cleared, and what is proven fails
    return AttackLevel(key=reading.key, level=shown, rule=level.rule, reason=text)


def _reasons(
    verdict: Verdict,
    level: RiskLevel | None,
    readings: Sequence[Reading],
    missing: Sequence[Shortfall],
    plan: AuditPlan,
    policy: Policy,
) -> tuple[str, ...]:
    lines: list[str] = []
    if verdict is Verdict.PASS:
        by_policy = f"Under this policy the level {level} passes: it fails on {policy.fail_on}."
        lines = [policy.pass_sentence if level in (None, RiskLevel.LOW) else by_policy]
    lines += [
        f"{text_of(reading)} [{reading.level.rule}]"
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


def _strength(reading: Reading) -> tuple[int, float, str]:
    """Sorts the reading that says most first."""
    level, lift = reading.level.level, reading.evidence.lift
    return -(level.rank if level else -1), -(lift.low if lift else 0.0), reading.key


def _decided(reading: Reading, level: RiskLevel, plan: AuditPlan, verdict: Verdict) -> bool:
    """Whether this reading carries the verdict although it proves no leak."""
    if not counts(reading.evidence, plan):
        return False
    return verdict is Verdict.PASS or reading.level.level is level


def _proven_below(readings: Sequence[Reading], policy: Policy) -> list[str]:
    return [
        f"{reading.key}: {reading.level.proven} is proven; this policy lets it through (it fails on {policy.fail_on})"
        for reading in readings
        if reading.level.proven is not None
    ]
