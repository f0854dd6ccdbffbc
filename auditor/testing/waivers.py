"""Waivers with values that are valid, for tests. No torch needed."""

from __future__ import annotations

from datetime import date

from auditor.contracts.policy import RiskLevel
from auditor.contracts.waiver import Waiver
from auditor.testing.evidence import sample_target

TODAY = date(2026, 3, 1)
"""A day on which the sample waivers are in force."""


def sample_waiver(
    finding: str = "attack:ppa",
    *,
    name: str | None = None,
    model: str = sample_target().name,
    created: date = date(2026, 1, 1),
    expires: date = date(2026, 6, 1),
    up_to: RiskLevel = RiskLevel.HIGH,
) -> Waiver:
    """A waiver of a finding of `sample_report`."""
    return Waiver(
        id=name or f"W-{finding.replace(':', '-').replace('/', '-')}",
        finding=finding,
        model=model,
        reason="accepted until the next release",
        approver="privacy board",
        created=created,
        expires=expires,
        up_to=up_to,
    )


def waivers_of_all(*attacks: str, **fields: object) -> tuple[Waiver, ...]:
    """One for each attack of `sample_attacks` that fails, or for those named."""
    keys = attacks or ("ppa", "ppa-averaged", "mirror-b")
    return tuple(sample_waiver(f"attack:{key}", **fields) for key in keys)  # type: ignore[arg-type]
