"""From judged pictures to the scores, the per-class table and the findings of one attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auditor.contracts.outcome import ClassRow
from auditor.contracts.report import Finding
from auditor.contracts.scores import Measured, NotMeasured, Score
from auditor.evaluation.base import Floats, Judgement, unreferenced
from auditor.evaluation.catalog import EVALUATORS
from auditor.evaluation.ceilings import ClassRates, control_score
from auditor.evaluation.intervals import (
    Bootstrap,
    benjamini_hochberg,
    lift_interval,
    mean_interval,
    resampled_classes,
    rogan_gladen,
)
from auditor.evaluation.scoring import measured
from auditor.proportions import binomial_tail

_BOTH = ("evaluator_top1", "judge_top1")


@dataclass(frozen=True)
class AttackSummary:
    """What is reported of one attack's pictures.

    Attributes:
        scores: every score named in `AttackOutcome.scores`, measured or with the reason why not.
        per_class: the table by class; empty when evaluator or judge is missing.
        w95_high: upper bound of the 95th percentile over classes of the posterior mean success rate.
        named_classes: classes whose own rate exceeds their control by more than the named rate.
        findings: what a reviewer must know beside the numbers.
    """

    scores: tuple[Score, ...]
    per_class: tuple[ClassRow, ...]
    w95_high: float | None
    named_classes: tuple[int, ...]
    findings: tuple[Finding, ...]

    def score(self, metric: str) -> Score:
        """The score called `metric`."""
        return next(score for score in self.scores if score.metric == metric)


def summarise_attack(
    judgement: Judgement,
    control: ClassRates | NotMeasured,
    ceiling: ClassRates | NotMeasured,
    bootstrap: Bootstrap,
    *,
    key: str,
    class_names: Sequence[str] = (),
    named_rate: float = 0.5,
) -> AttackSummary:
    """Scores, table and findings of one attack.

    Args:
        judgement: the judged reconstructions.
        control: prior-only rates of every class, or why there are none.
        ceiling: rates of projected real images, or why there are none.
        bootstrap: resamples and seed.
        key: the attack's key, for findings.
        class_names: name of each class of the target; the index where it is too short.
        named_rate: by how much a class's own rate must exceed its control to be named.
    """
    scores = [s for name in EVALUATORS.names for s in EVALUATORS.build(name, {}).scores(judgement, bootstrap)]
    scores += _baseline_scores(judgement, control, ceiling, bootstrap)
    scores.append(lift_score(judgement, control, ceiling, bootstrap))
    complete = judgement.has(*_BOTH, "evaluator_top5", "judge_top5") and isinstance(control, ClassRates)
    complete = complete and bool(np.isfinite(judgement.value("judge_top1")).all())
    if not complete or not isinstance(control, ClassRates):
        return AttackSummary(tuple(scores), (), None, (), ())
    return AttackSummary(
        scores=tuple(scores),
        per_class=class_rows(judgement, control, ceiling, class_names),
        w95_high=worst_class_bound(judgement, bootstrap),
        named_classes=named_classes(judgement, control, named_rate=named_rate),
        findings=findings(key, tuple(scores), ceiling, judgement, bootstrap),
    )


def _baseline_scores(
    judgement: Judgement, control: ClassRates | NotMeasured, ceiling: ClassRates | NotMeasured, bootstrap: Bootstrap
) -> list[Score]:
    """`control_evaluator`, `control_judge`, `control_both`, `ceiling_both`, over the attacked classes."""
    rows: list[Score] = []
    for part in ("evaluator", "judge", "both"):
        metric = f"control_{part}"
        if isinstance(control, NotMeasured):
            rows.append(NotMeasured(metric=metric, reason=control.reason))
        else:
            rows.append(control_score(metric, part, control, bootstrap, judgement.classes))
    if isinstance(ceiling, NotMeasured):
        rows.append(NotMeasured(metric="ceiling_both", reason=ceiling.reason))
    else:
        rows.append(ceiling.score("ceiling_both", "both", bootstrap, judgement.classes))
    return rows


def lift_score(
    judgement: Judgement, control: ClassRates | NotMeasured, ceiling: ClassRates | NotMeasured, bootstrap: Bootstrap
) -> Score:
    """The normalised lift R over the attacked classes (card D.9 with the prior's ceiling), or why there is none.

    A class without a held-out image has no ceiling of its own: its success counts in the numerator, and the ceiling is
    the mean over the classes that have one. Half of the attacked classes must.
    """
    if not judgement.has(*_BOTH):
        return NotMeasured(metric="lift", reason=judgement.reason(*_BOTH))
    for rates in (control, ceiling):
        if isinstance(rates, NotMeasured):
            return NotMeasured(metric="lift", reason=rates.reason)
    assert isinstance(control, ClassRates)  # noqa: S101 - narrowed by the loop above
    assert isinstance(ceiling, ClassRates)  # noqa: S101
    classes = judgement.classes
    unknown = np.unique(judgement.labels[np.isnan(judgement.value("judge_top1"))])
    if unknown.size:
        return NotMeasured(metric="lift", reason=unreferenced(unknown))
    known = np.isfinite(ceiling.both[classes])
    if 2 * int(known.sum()) < len(classes):
        reason = f"only {int(known.sum())} of {len(classes)} attacked classes have a held-out image for the ceiling"
        return NotMeasured(metric="lift", reason=reason)
    interval = lift_interval(
        judgement.per_class(judgement.both),
        control.both[classes],
        ceiling.both[classes],
        n_resamples=bootstrap.n_resamples,
        generator=bootstrap.rng("lift"),
    )
    if interval is None:
        reason = "the prior's ceiling does not exceed its control: it could not have drawn these classes"
        return NotMeasured(metric="lift", reason=reason)
    return measured("lift", interval, len(judgement), unit="ratio")


def class_rows(
    judgement: Judgement, control: ClassRates, ceiling: ClassRates | NotMeasured, class_names: Sequence[str]
) -> tuple[ClassRow, ...]:
    """The table by class, ascending."""
    counts = np.bincount(judgement.labels)
    columns = {name: judgement.per_class(judgement.value(name)) for name in judgement.values}
    both = judgement.per_class(judgement.both)
    rows = []
    for g, label in enumerate(judgement.classes.tolist()):
        top = float(ceiling.both[label]) if isinstance(ceiling, ClassRates) else np.nan
        knn = float(columns["knn"][g]) if "knn" in columns else np.nan
        rows.append(
            ClassRow(
                label=label,
                name=class_names[label] if label < len(class_names) else str(label),
                n=int(counts[label]),
                evaluator_top1=float(columns["evaluator_top1"][g]),
                evaluator_top5=float(columns["evaluator_top5"][g]),
                judge_top1=float(columns["judge_top1"][g]),
                judge_top5=float(columns["judge_top5"][g]),
                both=float(both[g]),
                control_both=float(control.both[label]),
                ceiling_both=top if np.isfinite(top) else None,
                knn=knn if np.isfinite(knn) else None,
            )
        )
    return tuple(rows)


def worst_class_bound(judgement: Judgement, bootstrap: Bootstrap) -> float:
    """Upper 95 % bound of W: the 95th percentile over classes of the posterior mean success rate (card E.1).

    Each class has a Beta(1/2 + successes, 1/2 + failures) posterior; one picture per seed, so pictures count as trials.
    """
    successes = judgement.class_sums(judgement.both)
    trials = judgement.class_sums(np.ones(len(judgement)))
    posterior = (0.5 + successes) / (1.0 + trials)
    weights = resampled_classes(len(posterior), bootstrap.n_resamples, bootstrap.rng("w95"))
    order = np.argsort(posterior)
    reached = np.cumsum(weights[:, order], axis=1) >= 0.95 - 1e-9  # (B, G)
    worst = posterior[order][reached.argmax(axis=1)]
    return float(np.quantile(worst, 0.975))


def named_classes(judgement: Judgement, control: ClassRates, *, named_rate: float) -> tuple[int, ...]:
    """Classes whose success rate exceeds their own control by more than `named_rate` (card E.3).

    One-sided exact binomial tests of "rate <= control + named_rate", Benjamini-Hochberg at 5 % over attacked classes.
    """
    classes = judgement.classes
    successes = judgement.class_sums(judgement.both).astype(int)
    trials = judgement.class_sums(np.ones(len(judgement))).astype(int)
    p_values = [
        binomial_tail(int(s), int(n), min(1.0, float(control.both[label]) + named_rate))
        for s, n, label in zip(successes, trials, classes, strict=True)
    ]
    return tuple(int(label) for label in classes[benjamini_hochberg(p_values)])


def has_moved(start: ArrayLike, end: ArrayLike, labels: NDArray[np.int64], bootstrap: Bootstrap) -> bool:
    """Whether the target's confidence in the wanted class rose above its start: lower class-bootstrap bound over 0.

    Args:
        start: (N,) target confidence before the attack, in [0, 1].
        end: (N,) after it.
        labels: (N,) class of each row.
        bootstrap: resamples and seed.
    """
    rise: Floats = np.asarray(end, dtype=np.float64) - np.asarray(start, dtype=np.float64)
    if rise.size == 0 or not bool(np.isfinite(rise).all()):
        return False
    per_class = Judgement(np.asarray(labels), int(np.max(labels)) + 1, {}, {}).per_class(rise)
    interval = mean_interval(per_class, n_resamples=bootstrap.n_resamples, generator=bootstrap.rng("moved"))
    return interval.low > 0


def findings(
    key: str,
    scores: Sequence[Score],
    ceiling: ClassRates | NotMeasured,
    judgement: Judgement,
    bootstrap: Bootstrap,
) -> tuple[Finding, ...]:
    """Successes that are not people: an evaluator rate far above the judge's, or above what the prior can draw."""
    table = {score.metric: score for score in scores if isinstance(score, Measured)}
    evaluator, judge = table.get("evaluator_top1"), table.get("judge_top1")
    if evaluator is None or judge is None:
        return ()
    found = []
    if evaluator.low > judge.high + 0.1 and evaluator.value > 1.5 * judge.value:
        found.append(
            Finding(
                code="evaluator-only-success",
                severity="warning",
                message=f"'{key}': the evaluator accepts {evaluator.value:.0%} of the reconstructions and the judge, "
                f"which never saw these classes, {judge.value:.0%}. The difference are false positives of the "
                "evaluator: those successes are not people.",
            )
        )
    if isinstance(ceiling, ClassRates):
        top = ceiling.score("ceiling_evaluator", "evaluator", bootstrap, judgement.classes)
        judged = ceiling.score("ceiling_judge", "judge", bootstrap, judgement.classes)
        typical = isinstance(judged, Measured) and judge.value >= judged.value  # to the judge they are those people
        if isinstance(top, Measured) and evaluator.low > top.high and not typical:
            found.append(_above_ceiling(key, evaluator, top, table.get("control_evaluator")))
    return tuple(found)


def _above_ceiling(key: str, evaluator: Measured, top: Measured, control: Measured | None) -> Finding:
    """The evaluator accepts more reconstructions than it accepts real people drawn by the same prior."""
    message = (
        f"'{key}': the evaluator accepts {evaluator.value:.0%} of the reconstructions but only {top.value:.0%} of real "
        "private images drawn by the same prior. A rate above that ceiling comes from false positives: those successes "
        "are not people."
    )
    floor = 0.0 if control is None else control.value
    if rogan_gladen(evaluator.value, false_positive_rate=floor, true_positive_rate=top.value) is None:
        message += " The evaluator separates this prior's pictures too weakly for its rate to be corrected."
    return Finding(code="evaluator-above-ceiling", severity="warning", message=message)
