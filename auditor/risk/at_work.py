"""Whether an attack was seen to be at work: one that was not, and finds nothing, shows nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping

from auditor.contracts.access import Access
from auditor.contracts.outcome import AttackOutcome, OutcomeStatus
from auditor.contracts.policy import Thresholds
from auditor.contracts.scores import Measured, NotMeasured
from auditor.risk.shortfall import Limits, Shortfall, measured

LEAST_RISE = 0.01
"""Confidence that an attack on a cut model has to add to its start: a step size of almost nothing adds almost nothing,
but does so everywhere, and what it started from may be another attack's picture."""
LEAST_ODDS = 0.5
"""Log-odds of the target's confidence that a search has to add to its start, which may be the best of a large pool.
Every working search in docs/results.md adds more than 1, one with a step size of almost nothing some hundredths."""
_CERTAIN = 1e-6
_SPLIT_BASELINES = {
    "control_psnr": "pictures made from other activations do",
    "mean_image_psnr": "the mean public image does",
}
"""What an attack on a cut model has to beat, by metric."""


def searching(access: Access, *, forward: int, backward: int, pool: int, shared: int) -> int:
    """Queries that search: neither the pool, which serves all classes, nor what only selects among the results.

    A white-box search is made of gradients. An attack that asks nothing works on what its prior was taught before.

    Args:
        access: the attack's level.
        forward: images sent to the target.
        backward: of them, those whose gradient was taken.
        pool: of `forward`, those that serve all classes.
        shared: images sent beforehand, by the training of its prior or helper networks.
    """
    if forward == 0:
        return shared
    if access is Access.WHITE_BOX and backward:
        return backward
    return forward - pool


def _effort_limits(outcome: AttackOutcome, t: Thresholds) -> Limits:
    queries = searching(
        outcome.access,
        forward=outcome.forward_queries,
        backward=outcome.backward_queries,
        pool=outcome.pool_queries,
        shared=outcome.shared_queries,
    )
    effort = queries / max(outcome.coverage.samples_done, 1)
    if effort >= t.min_queries_per_sample:
        return ()
    reason = (
        f"{outcome.key}: only {effort:.0f} queries were spent on each reconstruction, the policy asks for "
        f"{t.min_queries_per_sample}; so small a search that finds nothing shows nothing"
    )
    need = f"more steps, candidates or generations for {outcome.key}, or no early stop (`stop_confidence`)"
    return (Shortfall(reason, need),)


def setting_limits(outcome: AttackOutcome) -> Limits:
    """An attack counts as it was seen to work, or with more effort: many ways to cripple a search show in no figure."""
    if not outcome.unvetted:
        return ()
    reason = f"{outcome.key}: it was never seen to work with its settings of {', '.join(outcome.unvetted)}"
    need = f"{outcome.key} as the catalog or a preset has it, or with more steps, candidates or queries"
    return (Shortfall(reason, need),)


def search_limits(outcome: AttackOutcome, t: Thresholds) -> Limits:
    """A search in a prior has to raise the target's confidence, by queries enough, until the target is convinced."""
    start, end = outcome.start_confidence, outcome.end_confidence
    need = f"a working configuration of {outcome.key}: more steps, or another step size"
    if not outcome.moved or start is None or end is None or end <= start:
        reason = f"{outcome.key}: the attack did not move (the target's confidence never rose above its start)"
        return (Shortfall(reason, need),)
    if not outcome.is_control and _log_odds(end) - _log_odds(start) < LEAST_ODDS:
        reason = (
            f"{outcome.key}: the search hardly moved (the target's confidence went from {start:.1%} to {end:.1%}): "
            "what it found, its start had found"
        )
        return (Shortfall(reason, need),)
    if light := _effort_limits(outcome, t):
        return light
    if end < t.min_end_confidence:
        return (
            Shortfall(
                f"{outcome.key}: the attack ended with the target only {end:.1%} sure of its pictures, so it never "
                "convinced even the model it attacked",
                f"a longer or adaptive run of {outcome.key}, or one against the unscaled class scores",
            ),
        )
    return ()


def _log_odds(confidence: float) -> float:
    """Of a mean confidence, kept finite."""
    kept = min(max(confidence, _CERTAIN), 1 - _CERTAIN)
    return math.log(kept / (1 - kept))


def observation_limits(outcome: AttackOutcome, t: Thresholds) -> Limits:
    """Attacks on a cut model rebuild one seen image each, without a prior, and may learn all they need beforehand.

    So their ceiling is how well the images themselves are recognised, and an attack that works comes nearer to its
    image than what it made of another activation, and nearer than the mean public image, which is what is drawn without
    looking. One that asks for every image owes as many queries as any search, and a better picture than it started
    from; what was learnt beforehand is seen in the pictures alone.
    """
    found = list(_effort_limits(outcome, t)) if outcome.forward_queries else []
    ceiling = measured(outcome, "ceiling_both")
    if isinstance(ceiling, Measured) and ceiling.low < t.min_prior_ceiling:
        reason = (
            f"{outcome.key}: the private images themselves are recognised in {ceiling.value:.0%} of cases only (at "
            f"least {ceiling.low:.0%}; {t.min_prior_ceiling:.0%} needed), so a reconstruction that is not shows nothing"
        )
        found.append(Shortfall(reason, "a better judge or evaluator: more public and private images, more epochs"))
    need = f"a working configuration of {outcome.key}: more steps or more public images"
    rise = (outcome.end_confidence or 0.0) - (outcome.start_confidence or 0.0)
    if not outcome.moved or rise < LEAST_RISE:
        reason = (
            f"{outcome.key}: the attack did not move (the target's confidence rose by {rise:.1%} over its start, "
            f"{LEAST_RISE:.0%} is the least)"
        )
        found.append(Shortfall(reason, need))
    elif (outcome.end_confidence or 0.0) < t.min_end_confidence:
        reason = (
            f"{outcome.key}: the attack ended with the target only {outcome.end_confidence or 0.0:.1%} sure that its "
            "pictures are of the class of the images behind them"
        )
        found.append(Shortfall(reason, need))
    own = measured(outcome, "psnr")
    for baseline, what in _SPLIT_BASELINES.items():
        control = measured(outcome, baseline)
        if isinstance(own, NotMeasured) or isinstance(control, NotMeasured) or own.low <= control.high:
            reason = f"{outcome.key}: its pictures come no nearer (in PSNR) to the images behind them than {what}"
            found.append(Shortfall(reason, need))
    return tuple(found)


def control_limits(outcome: AttackOutcome, controls: Mapping[str, AttackOutcome]) -> Limits:
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
