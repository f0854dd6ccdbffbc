"""What one attack's outcome is worth: the numbers the level rules read, and why it may not count towards a pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from auditor.contracts.access import Access
from auditor.contracts.cards import PriorCard
from auditor.contracts.outcome import AttackOutcome, OutcomeStatus
from auditor.contracts.plan import AuditPlan
from auditor.contracts.policy import Policy, Thresholds
from auditor.contracts.scores import Measured, NotMeasured
from auditor.contracts.submission import TargetCard
from auditor.risk.at_work import control_limits, observation_limits, search_limits, setting_limits
from auditor.risk.bounds import zero_success_upper
from auditor.risk.shortfall import Limits, Shortfall, measured

CONSISTENCY_SLACK = 0.05
"""How far the lift that the rates imply may lie over the reported interval before the outcome is disbelieved."""


KNOWLEDGE_FREE = frozenset({"pixel", "pixels", "dip"})
"""Priors that carry no public knowledge: they can draw anything, so their ceiling is high and says nothing."""


@dataclass(frozen=True, slots=True)
class LiftEvidence:
    """The interval on the lift R of one attack, made honest about how many classes stand behind it.

    Attributes:
        value: point estimate.
        low, high: 95 % bounds; `high` is never under what the number of classes can resolve.
        measured_high: the bound as it was reported.
        n_classes: classes attacked.
        both, control, ceiling: the measured rates behind R.
    """

    value: float
    low: float
    high: float
    measured_high: float
    n_classes: int
    both: Measured
    control: Measured
    ceiling: Measured


@dataclass(frozen=True, slots=True)
class AttackEvidence:
    """One graded attack.

    Attributes:
        outcome: as stored.
        lift: None when no lift can be trusted; `blocked` or `weak` then says why.
        weak: why this attack cannot count towards a pass (another attack may).
        blocked: why no pass can be given at all while this stands.
    """

    outcome: AttackOutcome
    lift: LiftEvidence | None
    weak: tuple[Shortfall, ...]
    blocked: tuple[Shortfall, ...]

    @property
    def valid(self) -> bool:
        """Whether it may count towards a pass."""
        return self.lift is not None and not self.weak and not self.blocked


def crashed(outcome: AttackOutcome) -> Shortfall:
    """An attack that raised: a pass has to wait for a run that ends."""
    why = f": {outcome.reason}" if outcome.reason else ""
    reason = f"{outcome.key}: the attack crashed{why}"
    return Shortfall(reason, f"a run of {outcome.key} that ends (see its error in the log)")


def n_classes_of(outcome: AttackOutcome) -> int:
    """Classes that really stand behind an outcome: distinct judged classes, at most what its coverage claims."""
    return min(len({row.label for row in outcome.per_class if row.n > 0}), outcome.coverage.classes_done)


def effective_access(policy: Policy, *, weights_published: bool) -> Access:
    """What an attacker of the deployment reaches; published weights are white-box whatever the policy says."""
    return Access.WHITE_BOX if weights_published else policy.deployment_access


def weigh(
    outcome: AttackOutcome,
    controls: Mapping[str, AttackOutcome],
    priors: Sequence[PriorCard],
    plan: AuditPlan,
    policy: Policy,
    target: TargetCard,
    *,
    judged: bool,
) -> AttackEvidence:
    """Judge one outcome beside the best-of-prior `controls` by prior.

    What a crashed attack left can still prove a leak; it clears nothing. Where the audit had no evaluator or no judge
    (`judged` is False), that is said once for all attacks, and not again for the numbers it leaves unmeasured.
    """
    if not outcome.status.ran:
        return AttackEvidence(outcome, None, (), ())  # completeness.py speaks about these
    lift, weak, blocked = _lift(outcome, policy.thresholds) if judged else (None, (), ())
    if outcome.status is OutcomeStatus.FAILED:
        return AttackEvidence(outcome, lift, (), (crashed(outcome),))
    if outcome.access is Access.SPLIT:
        weak = (*weak, *observation_limits(outcome, policy.thresholds))
    else:
        weak = (*weak, *_prior_limits(outcome, priors, policy.thresholds), *search_limits(outcome, policy.thresholds))
        weak = (*weak, *control_limits(outcome, controls))
    weak = (*weak, *setting_limits(outcome), *_target_limits(outcome, target))
    if judged:
        weak = (*weak, *_sample_limits(outcome, plan, policy.thresholds))
        blocked = (*blocked, *_coverage_limits(outcome, policy.thresholds))
    return AttackEvidence(outcome, lift, weak, blocked)


def _lift(outcome: AttackOutcome, t: Thresholds) -> tuple[LiftEvidence | None, Limits, Limits]:
    """The lift, or why there is none: (lift, weak, blocked)."""
    lift, both, control, ceiling = (
        measured(outcome, metric) for metric in ("lift", "both_agree", "control_both", "ceiling_both")
    )
    if isinstance(both, NotMeasured) or isinstance(control, NotMeasured) or isinstance(ceiling, NotMeasured):
        absent = [score for score in (both, control, ceiling) if isinstance(score, NotMeasured)]
        return None, (), tuple(_unmeasured(outcome, score) for score in absent)
    headroom = ceiling.value - control.value
    if isinstance(lift, NotMeasured) or headroom <= 0:
        return None, *_without_lift(outcome, lift, both, control, ceiling, t)
    n_classes = n_classes_of(outcome)
    resolved = max(zero_success_upper(n_classes) - control.value, 0.0) / headroom
    evidence = LiftEvidence(
        lift.value, lift.low, max(lift.high, resolved), lift.high, n_classes, both, control, ceiling
    )
    implied = (max(both.value, _mean_both(outcome)) - control.value) / headroom
    if implied > lift.high + CONSISTENCY_SLACK:
        reason = f"{outcome.key}: its rates imply a lift of {implied:.2f}, over the reported {lift.high:.2f}"
        return evidence, (), (Shortfall(reason, "run the audit again; the stored scores contradict each other"),)
    return evidence, (), ()


def _without_lift(
    outcome: AttackOutcome,
    lift: Measured | NotMeasured,
    both: Measured,
    control: Measured,
    ceiling: Measured,
    t: Thresholds,
) -> tuple[Limits, Limits]:
    """An attack whose prior could not have drawn anything is weak; one that beat its control all the same blocks."""
    why = lift.reason if isinstance(lift, NotMeasured) else "the prior's ceiling is not above its control"
    found = Shortfall(f"{outcome.key}: the lift was not measured ({why})", _BETTER_PRIOR)
    harmless = ceiling.low < t.min_prior_ceiling and both.low <= control.high
    return ((found,), ()) if harmless else ((), (found,))


def _unmeasured(outcome: AttackOutcome, score: NotMeasured) -> Shortfall:
    names = {"both_agree": "the both-agree rate", "control_both": "the control", "ceiling_both": "the ceiling"}
    reason = f"{outcome.key}: {names.get(score.metric, score.metric)} was not measured ({score.reason})"
    return Shortfall(reason, f"a measured value of {names.get(score.metric, score.metric)} for {outcome.key}")


def _mean_both(outcome: AttackOutcome) -> float:
    rows = [row for row in outcome.per_class if row.n > 0]
    return sum(row.both * row.n for row in rows) / sum(row.n for row in rows) if rows else 0.0


_BETTER_PRIOR = "better public data (same kind of image, more of it) or a bigger generator: the prior cannot draw these"


def _prior_limits(outcome: AttackOutcome, priors: Sequence[PriorCard], t: Thresholds) -> Limits:
    cards = [card for card in priors if card.name == outcome.prior]
    if len(cards) != 1:
        return (Shortfall(f"{outcome.key}: no card describes its prior '{outcome.prior}'", _BETTER_PRIOR),)
    if cards[0].name in KNOWLEDGE_FREE or not cards[0].training_data_digest:
        reason = (
            f"{outcome.key}: prior '{outcome.prior}' knows nothing of such images; whatever its ceiling, "
            "a search without public knowledge that finds nothing proves nothing"
        )
        need = "public images of the same kind, other classes (`data.public`), or a generator (`data.generator`)"
        return (Shortfall(reason, need),)
    own = measured(outcome, "ceiling_both")
    for ceiling in (cards[0].ceiling_both, own):
        if isinstance(ceiling, NotMeasured):
            reason = f"{outcome.key}: the ceiling of prior '{outcome.prior}' was not measured ({ceiling.reason})"
            return (Shortfall(reason, "held-out private images, so that the prior's ceiling can be measured"),)
    coverage = cards[0].class_coverage
    known = coverage.low if isinstance(coverage, Measured) else 0.0
    if known < t.min_prior_coverage:
        reason = (
            f"{outcome.key}: unguided samples of prior '{outcome.prior}' resemble only {known:.0%} of the classes (at "
            f"least; {t.min_prior_coverage:.0%} needed), so it knows little of such images, and a high ceiling says "
            "only that it can draw anything"
        )
        return (Shortfall(reason, f"{_BETTER_PRIOR}; or more of its samples (`n_control_samples`)"),)
    lowest = min(score.low for score in (cards[0].ceiling_both, own) if isinstance(score, Measured))
    if lowest < t.min_prior_ceiling:
        reason = (
            f"{outcome.key}: prior '{outcome.prior}' could not have drawn them (ceiling at least {lowest:.2f}, "
            f"needed {t.min_prior_ceiling:.2f}); a weak attacker proves nothing"
        )
        return (Shortfall(reason, _BETTER_PRIOR),)
    return ()


def _target_limits(outcome: AttackOutcome, target: TargetCard) -> Limits:
    if outcome.access not in target.access:
        return (
            Shortfall(
                f"{outcome.key}: a {outcome.access} attack on a target that offers no {outcome.access} access",
                "an audit at an access level the target offers",
            ),
        )
    gradients = outcome.access in (Access.WHITE_BOX, Access.SPLIT)
    if gradients and target.parity is not None and not target.parity.passed:
        return (
            Shortfall(
                f"{outcome.key}: the differentiable graph does not match onnxruntime, so another model was attacked",
                "an export that passes the parity check, or safetensors with an architecture name",
            ),
        )
    return ()


def _sample_limits(outcome: AttackOutcome, plan: AuditPlan, t: Thresholds) -> Limits:
    fewest = min((row.n for row in outcome.per_class), default=0)
    if min(fewest, plan.samples_per_class) < t.min_seeds:
        return (
            Shortfall(
                f"{outcome.key}: a class was attacked {min(fewest, plan.samples_per_class)} times, the policy asks for "
                f"{t.min_seeds}",
                f"`samples_per_class` of at least {t.min_seeds} in the plan",
            ),
        )
    return ()


def _coverage_limits(outcome: AttackOutcome, t: Thresholds) -> Limits:
    done = outcome.coverage
    classes = done.classes_done / done.classes_planned if done.classes_planned else 0.0
    judged = len({row.label for row in outcome.per_class if row.n > 0})
    if min(done.frac, classes) < t.min_coverage or judged < done.classes_done:
        return (
            Shortfall(
                f"{outcome.key}: {done.samples_done} of {done.samples_planned} planned samples are done "
                f"({judged} of {done.classes_planned} classes judged)",
                f"the rest of {outcome.key}: resume the audit, or give images of every class of the model",
            ),
        )
    return ()
