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
from auditor.risk.bounds import zero_success_upper

CONSISTENCY_SLACK = 0.05
"""How far the lift that the rates imply may lie over the reported interval before the outcome is disbelieved."""


KNOWLEDGE_FREE = frozenset({"pixel", "pixels", "dip"})
"""Priors that carry no public knowledge: they can draw anything, so their ceiling is high and says nothing."""


@dataclass(frozen=True, slots=True)
class Shortfall:
    """One thing the evidence lacks, and what would settle it. Both in plain words."""

    reason: str
    need: str


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


def measured(outcome: AttackOutcome, metric: str) -> Measured | NotMeasured:
    """The one usable score named `metric`: doubled, empty or inside-out scores are no evidence."""
    found = [score for score in outcome.scores if score.metric == metric]
    if len(found) > 1:
        return NotMeasured(metric=metric, reason="reported more than once")
    if not found or isinstance(found[0], NotMeasured):
        return outcome.score(metric)
    score = found[0]
    if score.n < 1 or not score.low <= score.value <= score.high:
        return NotMeasured(
            metric=metric, reason="its interval does not contain its value, or no image stands behind it"
        )
    return score


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
        weak = (*weak, *_observation_limits(outcome, policy.thresholds))
    else:
        weak = (*weak, *_prior_limits(outcome, priors, policy.thresholds), *_search_limits(outcome, policy.thresholds))
        weak = (*weak, *_control_limits(outcome, controls))
    weak = (*weak, *_target_limits(outcome, target))
    if judged:
        weak = (*weak, *_sample_limits(outcome, plan, policy.thresholds))
        blocked = (*blocked, *_coverage_limits(outcome, policy.thresholds))
    return AttackEvidence(outcome, lift, weak, blocked)


Limits = tuple[Shortfall, ...]


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


def search_queries(outcome: AttackOutcome) -> int:
    """Queries that searched: neither the pool, which serves all classes, nor what only selected among the results.

    A white-box search is made of gradients. An attack that asks nothing works on what its prior was taught before.
    """
    if outcome.forward_queries == 0:
        return outcome.shared_queries
    if outcome.access is Access.WHITE_BOX and outcome.backward_queries:
        return outcome.backward_queries
    return outcome.forward_queries - outcome.pool_queries


def _search_limits(outcome: AttackOutcome, t: Thresholds) -> Limits:
    start, end = outcome.start_confidence, outcome.end_confidence
    if not outcome.moved or start is None or end is None or end <= start:
        return (
            Shortfall(
                f"{outcome.key}: the attack did not move (the target's confidence never rose above its start)",
                f"a working configuration of {outcome.key}: more steps, or another step size",
            ),
        )
    effort = search_queries(outcome) / max(outcome.coverage.samples_done, 1)
    if effort < t.min_queries_per_sample:
        return (
            Shortfall(
                f"{outcome.key}: only {effort:.0f} queries were spent on each reconstruction, the policy asks for "
                f"{t.min_queries_per_sample}; so small a search that finds nothing shows nothing",
                f"more steps, candidates or generations for {outcome.key}, or no early stop (`stop_confidence`)",
            ),
        )
    if end < t.min_end_confidence:
        return (
            Shortfall(
                f"{outcome.key}: the attack ended with the target only {end:.1%} sure of its pictures, so it never "
                "convinced even the model it attacked",
                f"a longer or adaptive run of {outcome.key}, or one against the unscaled class scores",
            ),
        )
    return ()


def _observation_limits(outcome: AttackOutcome, t: Thresholds) -> Limits:
    """Attacks on a cut model rebuild one seen image each, without a prior, and may learn all they need beforehand.

    So their ceiling is how well the images themselves are recognised, and a search that works comes nearer to its image
    than what the same attack made of another activation.
    """
    found = []
    ceiling = measured(outcome, "ceiling_both")
    if isinstance(ceiling, Measured) and ceiling.low < t.min_prior_ceiling:
        reason = (
            f"{outcome.key}: the private images themselves are recognised in {ceiling.value:.0%} of cases only (at "
            f"least {ceiling.low:.0%}; {t.min_prior_ceiling:.0%} needed), so a reconstruction that is not shows nothing"
        )
        found.append(Shortfall(reason, "a better judge or evaluator: more public and private images, more epochs"))
    need = f"a working configuration of {outcome.key}: more steps or more public images"
    if not outcome.moved:
        reason = f"{outcome.key}: the attack did not move (the target's confidence never rose above its start)"
        found.append(Shortfall(reason, need))
    own, other = measured(outcome, "psnr"), measured(outcome, "control_psnr")
    if isinstance(own, NotMeasured) or isinstance(other, NotMeasured) or own.low <= other.high:
        reason = (
            f"{outcome.key}: its pictures come no nearer to the images behind them than pictures made from other "
            "activations do"
        )
        found.append(Shortfall(reason, need))
    return tuple(found)


def _control_limits(outcome: AttackOutcome, controls: Mapping[str, AttackOutcome]) -> Limits:
    """Against the same model, a search has to convince more than the best of a pool that nobody searched."""
    if outcome.is_control:
        return ()
    control = controls.get(outcome.prior)
    if control is None or control.status is not OutcomeStatus.COMPLETED or control.end_confidence is None:
        reason = f"{outcome.key}: no best-of-prior control of prior '{outcome.prior}' stands beside it"
        return (Shortfall(reason, "the whole audit again: its controls are missing"),)
    if (outcome.end_confidence or 0.0) < control.end_confidence:
        reason = (
            f"{outcome.key}: it ended with the target {outcome.end_confidence or 0.0:.0%} sure, less than the best of "
            f"unguided samples alone ({control.end_confidence:.0%}): this search does not work"
        )
        return (Shortfall(reason, f"a working configuration of {outcome.key}: more steps, or another step size"),)
    found, selected = measured(outcome, "lift"), measured(control, "lift")
    if isinstance(found, Measured) and isinstance(selected, Measured) and found.high < selected.low:
        reason = (
            f"{outcome.key}: it found less (lift at most {found.high:.2f}) than the best of unguided samples alone (at "
            f"least {selected.low:.2f}): this search leads away from the people"
        )
        return (Shortfall(reason, f"a working configuration of {outcome.key}: fewer or smaller steps"),)
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
