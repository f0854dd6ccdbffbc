"""What an audit shows more of than an earlier one, when everything that was looked at is counted. Never reaches torch.

Asked of every attack and every class, "did it rise?" is answered with yes somewhere by mere chance. Both questions are
therefore asked of all at once (Benjamini & Hochberg): where the two models leak alike, each is answered with yes in one
of forty comparisons at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from auditor.contracts.gate import ExposedClass
from auditor.contracts.outcome import AttackOutcome, ClassRow
from auditor.contracts.report import AuditReport
from auditor.evaluation.intervals import Floats, benjamini_hochberg

LEVEL = 0.025
"""Of each of the two questions: half of the two-sided 5 % of every interval."""
SELDOM = 0.1
"""Share of a class's pictures up to which the earlier audit did not find her; one picture may be luck in any case."""
ALIKE = 0.1
"""Correlation that is allowed between the pictures of one class under one attack, beside what the class explains: they
may come of one search, one distribution or one pool, which another run draws anew."""
_NORMAL = NormalDist()


def risen_attacks(before: AuditReport, after: AuditReport) -> tuple[str, ...]:
    """Attacks under which the mean both-agree rate, or its excess over the control, rose; in the order of `after`.

    Each class is its own control: the test is that of a mean of paired differences, one-sided. The worst attack of
    `before`, which decides, has half of the level for itself, so that further attacks do not hide its rise.
    """
    rises = {outcome.key: _mean_rise(rows) for outcome, rows in _pairs(before, after)}
    means = {outcome.key: np.mean([then.both for then, _ in rows]) for outcome, rows in _pairs(before, after)}
    worst = max(means, key=lambda key: means[key], default=None)
    others = [key for key in rises if key != worst]
    level = LEVEL / 2 if others else LEVEL
    shown = benjamini_hochberg([rises[key] for key in others], level=level)
    risen = {key for key, rose in zip(others, shown, strict=True) if rose}
    return tuple(key for key in rises if key in risen or (key == worst and rises[key] <= level))


def exposed_classes(before: AuditReport, after: AuditReport) -> tuple[ExposedClass, ...]:
    """Classes that `after` finds more often than `before`, all attacks together, the strongest evidence first.

    Of a class, the pictures accepted in both audits are shared out at random among all that were made of it (Fisher's
    exact test, summed over the attacks); classes whose sum alone decides that nothing could be shown are not counted
    among the questions (Tarone, Biometrics 1990). A class that leaks for certain now and that `before` found
    as good as never needs no test.
    """
    counts = _counts(before, after)
    asked = [found for found in counts if found.least <= LEVEL]
    shown = benjamini_hochberg([found.p for found in asked], level=LEVEL)
    exposed = [found for found, more in zip(asked, shown, strict=True) if more]
    new = _newly_named(before, after)
    exposed += [
        found
        for found in counts
        if found not in exposed and found.label in new and found.then[0] <= SELDOM * found.then[1]
    ]
    return tuple(found.told() for found in sorted(exposed, key=lambda found: (found.p, found.label)))


def too_few_pictures(before: AuditReport, after: AuditReport) -> bool:
    """Whether no class could be shown to be exposed more, not even one of which nothing was accepted and now all is."""
    none, every = {"both": 0.0}, {"both": 1.0}
    switched = {
        label: [(key, then.model_copy(update=none), now.model_copy(update=every)) for key, then, now in rows]
        for label, rows in _by_class(before, after).items()
    }
    return all(_count(label, rows).p > LEVEL for label, rows in switched.items())


def _newly_named(before: AuditReport, after: AuditReport) -> set[int]:
    """Classes that leak for certain now alone, by an attack that seldom or once found them before."""
    named = set[int]()
    for outcome, rows in _pairs(before, after):
        seldom = {now.label for then, now in rows if _accepted(then) <= max(1, SELDOM * then.n)}
        named |= seldom & set(outcome.named_classes)
    return named - _named(before)


def _named(report: AuditReport) -> set[int]:
    return {label for outcome in report.attacks for label in outcome.named_classes}


def _pairs(before: AuditReport, after: AuditReport) -> Iterator[tuple[AttackOutcome, list[tuple[ClassRow, ClassRow]]]]:
    """Attacks of both audits that have classes in common, and the rows of these."""
    earlier = {outcome.key: {row.label: row for row in outcome.per_class} for outcome in before.attacks}
    for outcome in after.attacks:
        known = earlier.get(outcome.key, {})
        rows = [(known[row.label], row) for row in outcome.per_class if row.label in known]
        if rows:
            yield outcome, rows


def _mean_rise(rows: Sequence[tuple[ClassRow, ClassRow]]) -> float:
    """The smaller one-sided p-value of both means: they differ where each audit has a control of its own."""
    found = np.array([now.both - then.both for then, now in rows])
    control = np.array([now.control_both - then.control_both for then, now in rows])
    return min(_p_of_mean(found), _p_of_mean(found - control))


def _p_of_mean(rises: Floats) -> float:
    """By the normal approximation."""
    mean, spread = float(rises.mean()), float(rises.std(ddof=1)) if rises.size > 1 else math.inf
    if mean <= 0:
        return 1.0
    return 0.0 if spread == 0 else 1 - _NORMAL.cdf(mean * math.sqrt(rises.size) / spread)


@dataclass(frozen=True, slots=True)
class _Counts:
    """One class under all attacks of both audits, and how surprising the second is."""

    label: int
    name: str
    then: tuple[int, int]
    """Pictures accepted, pictures made."""
    now: tuple[int, int]
    attacks: tuple[str, ...]
    """Under which it is found more often."""
    p: float
    least: float
    """The p-value if all that was accepted had been so in the second audit."""

    def told(self) -> ExposedClass:
        """Without the arithmetic."""
        return ExposedClass(
            label=self.label,
            name=self.name,
            found_before=self.then[0],
            made_before=self.then[1],
            found_now=self.now[0],
            made_now=self.now[1],
            attacks=self.attacks,
        )


def _counts(before: AuditReport, after: AuditReport) -> list[_Counts]:
    return [_count(label, rows) for label, rows in sorted(_by_class(before, after).items())]


def _by_class(before: AuditReport, after: AuditReport) -> dict[int, list[tuple[str, ClassRow, ClassRow]]]:
    by_class: dict[int, list[tuple[str, ClassRow, ClassRow]]] = {}
    for outcome, rows in _pairs(before, after):
        for then, now in rows:
            by_class.setdefault(now.label, []).append((outcome.key, then, now))
    return by_class


def _count(label: int, rows: Sequence[tuple[str, ClassRow, ClassRow]]) -> _Counts:
    shares, low, excess, variance = np.ones(1), 0, 0.0, 0.0
    for _, then, now in rows:
        first, share = _shared_out(then.n, now.n, _accepted(then) + _accepted(now))
        k = np.arange(share.size)
        own = float((share * k**2).sum() - (share * k).sum() ** 2)
        variance += own
        excess += own * (1 + ALIKE * (max(then.n, now.n) - 1))
        shares, low = np.convolve(shares, share), low + first
    found_now = sum(_accepted(now) for _, _, now in rows)
    inflation = excess / variance if variance else 1.0
    return _Counts(
        label=label,
        name=rows[0][2].name,
        then=(sum(_accepted(then) for _, then, _ in rows), sum(then.n for _, then, _ in rows)),
        now=(found_now, sum(now.n for _, _, now in rows)),
        attacks=tuple(key for key, then, now in rows if now.both > then.both),
        p=_inflated(float(shares[found_now - low :].sum()), inflation),
        least=_inflated(float(shares[-1]), inflation),
    )


def _accepted(row: ClassRow) -> int:
    return round(row.both * row.n)


@lru_cache(maxsize=4096)
def _shared_out(n_then: int, n_now: int, total: int) -> tuple[int, Floats]:
    """The least number of `total` accepted pictures that fall to the second audit, and the chances from there up."""
    low = max(0, total - n_then)
    ways = [math.comb(n_now, k) * math.comb(n_then, total - k) for k in range(low, min(n_now, total) + 1)]
    whole = math.comb(n_then + n_now, total)
    return low, np.array([way / whole for way in ways])


def _inflated(p: float, inflation: float) -> float:
    """The p-value of the same rise where its variance is `inflation` times what independent pictures have."""
    if not 0 < p < 0.5:
        return min(max(p, 0.0), 1.0)
    return _NORMAL.cdf(_NORMAL.inv_cdf(p) / math.sqrt(inflation))
