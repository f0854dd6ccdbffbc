"""What a reviewer must know besides the numbers: findings derived from the evidence, and the limits of any audit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from auditor.contracts.access import Access
from auditor.contracts.cards import ClassifierCard, DataCard, JudgeCard, OverlapCheck, PriorCard
from auditor.contracts.fisher import FisherReport
from auditor.contracts.outcome import AttackOutcome, OutcomeStatus
from auditor.contracts.policy import Policy
from auditor.contracts.report import Finding, policy_findings
from auditor.contracts.scores import Measured, NotMeasured
from auditor.contracts.submission import TargetCard

_FAR_ABOVE = 0.10
"""Shares in [0, 1]: how far one rate must lie over another, interval to interval, to be called out."""


def findings_of(
    *,
    target: TargetCard,
    policy: Policy,
    overlap: OverlapCheck,
    evaluator: ClassifierCard | NotMeasured,
    judge: JudgeCard | NotMeasured,
    priors: Sequence[PriorCard],
    attacks: Sequence[AttackOutcome],
    fisher: FisherReport | NotMeasured,
) -> tuple[Finding, ...]:
    """Findings in the order in which a reviewer should read them."""
    return (
        *_about_target(target, evaluator),
        *_about_judging(evaluator, judge),
        *_about_data(overlap),
        *(finding for card in priors for finding in _about_prior(card, policy)),
        *(finding for outcome in attacks for finding in _about_attack(outcome)),
        *_about_false_positives(attacks, priors),
        *_about_fisher(fisher),
        *policy_findings(policy),
    )


def _about_target(target: TargetCard, evaluator: ClassifierCard | NotMeasured) -> Iterator[Finding]:
    if Access.WHITE_BOX not in target.access:
        names = ", ".join(target.unsupported_operators)
        why = f": unsupported operators {names}" if names else ""
        yield _finding(
            "score-level-only", "problem", f"The model could not be differentiated{why}; no white-box attack ran."
        )
    if target.parity is not None and not target.parity.passed:
        text = f"The interpreted graph differs from onnxruntime by up to {target.parity.max_abs_error:.2g}."
        yield _finding("parity-failed", "problem", text)
    for warning in target.warnings:
        yield _finding("model-warning", "warning", warning)
    if isinstance(evaluator, ClassifierCard):
        own, other = evaluator.target_heldout_accuracy, evaluator.heldout_accuracy
        if isinstance(own, Measured) and isinstance(other, Measured) and own.high < other.low:
            text = (
                f"The target recognises {own.value:.0%} of held-out private images, the evaluator {other.value:.0%}: "
                "check range, mean, std and class map in the manifest before trusting a low leak."
            )
            yield _finding("target-below-evaluator", "warning", text)


def _about_judging(evaluator: ClassifierCard | NotMeasured, judge: JudgeCard | NotMeasured) -> Iterator[Finding]:
    if isinstance(evaluator, NotMeasured):
        yield _finding("no-evaluator", "problem", f"Nothing could be judged: {evaluator.reason}.")
    if isinstance(judge, NotMeasured):
        yield _finding("no-judge", "problem", f"There is no independent judge: {judge.reason}.")


def _about_data(overlap: OverlapCheck) -> Iterator[Finding]:
    if not overlap.checked:
        yield _finding("overlap-unchecked", "warning", "Public data was not checked for private images.")
    if overlap.exact_duplicates:
        text = (
            f"{overlap.exact_duplicates} private images are in the public data: part of any leak may come from there."
        )
        yield _finding("overlap-exact", "problem", text)
    if overlap.near_duplicates:
        text = f"Private and public images that look almost the same: {overlap.near_duplicates}; a person should look."
        yield _finding("overlap-near", "problem", text)
    if overlap.copies:
        text = f"Public images that are altered copies of private ones: {overlap.copies}; a person should look."
        yield _finding("overlap-copies", "problem", text)
    if overlap.cropped_found < overlap.cropped / 2:
        text = (
            f"Of {overlap.cropped} cropped copies of private images planted as a test, the search found "
            f"{overlap.cropped_found}: cropped copies among the public images may go unseen."
        )
        yield _finding("overlap-unseen", "warning", text)


def _about_prior(card: PriorCard, policy: Policy) -> Iterator[Finding]:
    ceiling = card.ceiling_both
    floor = policy.thresholds.min_prior_ceiling
    if isinstance(ceiling, NotMeasured):
        yield _finding(
            "ceiling-unknown", "warning", f"The ceiling of prior '{card.name}' is unknown: {ceiling.reason}."
        )
    elif ceiling.low < floor:
        text = (
            f"Prior '{card.name}' can draw little of this: real private images projected into it are recognised in "
            f"{ceiling.value:.0%} of cases (at least {ceiling.low:.0%}; {floor:.0%} needed). Attacks with it can prove "
            "a leak, not its absence."
        )
        yield _finding("weak-prior", "warning", text)
    coverage = card.class_coverage
    if isinstance(coverage, Measured) and coverage.high < 0.5:
        text = f"Samples of prior '{card.name}' resemble only {coverage.value:.0%} of the classes."
        yield _finding("narrow-prior", "info", text)


def _about_attack(outcome: AttackOutcome) -> Iterator[Finding]:
    why = f": {outcome.reason}" if outcome.reason else ""
    if outcome.status is OutcomeStatus.FAILED:
        yield _finding("attack-failed", "problem", f"{outcome.key} crashed{why}.")
    elif outcome.status is OutcomeStatus.SKIPPED:
        yield _finding("attack-skipped", "warning", f"{outcome.key} was skipped{why}.")
    elif outcome.status is OutcomeStatus.INAPPLICABLE:
        yield _finding("attack-inapplicable", "info", f"{outcome.key} does not apply to this model{why}.")
    elif not outcome.moved and not outcome.is_control:
        yield _finding("attack-did-not-move", "warning", f"{outcome.key} never raised the target's confidence.")


def _about_false_positives(attacks: Sequence[AttackOutcome], priors: Sequence[PriorCard]) -> Iterator[Finding]:
    """Successes of the evaluator alone: far over what the judge accepts, or over what the prior can draw at all."""
    over_judge, over_ceiling = [], []
    for outcome in attacks:
        evaluator, judge = outcome.score("evaluator_top1"), outcome.score("judge_top1")
        if outcome.is_control or not isinstance(evaluator, Measured):
            continue
        if isinstance(judge, Measured) and evaluator.low > judge.high + _FAR_ABOVE:
            over_judge.append(f"{outcome.key} {evaluator.value:.0%} against {judge.value:.0%}")
        ceilings = [card.ceiling_evaluator for card in priors if card.name == outcome.prior]
        ceiling = ceilings[0] if len(ceilings) == 1 else None
        if isinstance(ceiling, Measured) and evaluator.low > ceiling.high:
            over_ceiling.append(f"{outcome.key} {evaluator.value:.0%} against {ceiling.value:.0%}")
    if over_judge:
        text = (
            f"The evaluator accepts far more than the judge ({'; '.join(over_judge)}): many of its successes "
            "are false positives. The verdict uses only what both accept."
        )
        yield _finding("evaluator-only-success", "warning", text)
    if over_ceiling:
        text = (
            f"The evaluator accepts more reconstructions than projected real images ({'; '.join(over_ceiling)}). "
            "A rate over the ceiling is itself a sign of false positives."
        )
        yield _finding("evaluator-above-ceiling", "warning", text)


def _about_fisher(fisher: FisherReport | NotMeasured) -> Iterator[Finding]:
    if isinstance(fisher, NotMeasured):
        yield _finding("fisher-absent", "info", f"No Fisher layer scores: {fisher.reason}.")
    elif fisher.verdict == "uninformative":
        text = "The Fisher layer scores do not single out a boundary to freeze; a repair tries depth quantiles instead."
        yield _finding("fisher-uninformative", "info", text)


def _finding(code: str, severity: str, message: str) -> Finding:
    return Finding(code=code, severity=severity, message=message)


def limitations_of(
    *,
    target: TargetCard,
    data: Sequence[DataCard],
    attacks: Sequence[AttackOutcome],
    judge: JudgeCard | NotMeasured,
) -> tuple[str, ...]:
    """What this audit cannot show, whatever its verdict."""
    lines = [
        "The verdict speaks about the attacks, priors and budgets listed here. A stronger attacker may succeed where "
        "these did not.",
        "Only model inversion was tried: not membership inference, attribute inference or model extraction.",
        "A success means that evaluator and judge both recognise the class in the picture, not that the picture copies "
        "a training image; whether particular images are memorised was not measured.",
        "The lift R is relative to what this attacker's prior could have drawn. A better prior raises both the ceiling "
        "and the leak.",
    ]
    if target.split is not None:
        lines.append(
            f"The attacks on the cut model saw what passes at '{target.split.layer}' as it is computed here: their "
            "attacker is the server. Another cut, or noise added on the device, leaks more or less."
        )
    if isinstance(judge, JudgeCard) and judge.source == "trained":
        lines.append(
            "The judge was trained on the public data the prior also learned from; an embedder of your own is more "
            "independent."
        )
    lines += [f"{card.name} ({card.role}): {card.note}" for card in data if card.note]
    attacked = max((outcome.coverage.classes_done for outcome in attacks), default=0)
    if 0 < attacked < target.n_classes:
        drawn = all(outcome.coverage.classes_done == outcome.coverage.classes_planned for outcome in attacks)
        others = ", drawn at random; the intervals speak about the others too" if drawn else ""
        lines.append(f"{attacked} of {target.n_classes} classes were attacked{others}.")
    return tuple(lines)
