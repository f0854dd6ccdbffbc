"""What the database in memory holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from auditor.service.records import Job, StoredReport, Submission, Unit


@dataclass
class Tables:
    """Everything that is committed."""

    submissions: dict[str, Submission] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    units: dict[str, Unit] = field(default_factory=dict)
    reports: dict[tuple[str, str], StoredReport] = field(default_factory=dict)
    outbox: dict[int, str] = field(default_factory=dict)
    sent: int = 0

    def copy(self) -> Tables:
        """Records are frozen, so copying the dictionaries is enough."""
        return Tables(
            dict(self.submissions), dict(self.jobs), dict(self.units), dict(self.reports), dict(self.outbox), self.sent
        )
