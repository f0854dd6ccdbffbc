"""One thing that evidence lacks, and the one usable score behind a claim."""

from __future__ import annotations

from dataclasses import dataclass

from auditor.contracts.outcome import AttackOutcome
from auditor.contracts.scores import Measured, NotMeasured


@dataclass(frozen=True, slots=True)
class Shortfall:
    """One thing the evidence lacks, and what would settle it. Both in plain words."""

    reason: str
    need: str


Limits = tuple[Shortfall, ...]


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
