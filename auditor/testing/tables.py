"""What the database in memory holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from auditor.service.accounts import Record, Team
from auditor.service.records import LOCAL_TEAM, Job, StoredReport, Submission, Unit


def _teams() -> dict[str, Team]:
    """The team that the migrations make."""
    return {LOCAL_TEAM: Team(id=LOCAL_TEAM, created_at=datetime.now(UTC), name=LOCAL_TEAM)}


@dataclass
class Tables:
    """Everything that is committed."""

    submissions: dict[str, Submission] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    units: dict[str, Unit] = field(default_factory=dict)
    reports: dict[tuple[str, str], StoredReport] = field(default_factory=dict)
    outbox: dict[int, str] = field(default_factory=dict)
    records: dict[type[Record], dict[str, Any]] = field(default_factory=lambda: {Team: _teams()})
    sent: int = 0

    def owns(self, team_id: str | None, job_id: str) -> bool:
        """Whether the job is the team's; None owns everything."""
        return team_id is None or self.jobs[job_id].team_id == team_id

    def copy(self) -> Tables:
        """Records are frozen, so copying the dictionaries is enough."""
        return Tables(
            dict(self.submissions),
            dict(self.jobs),
            dict(self.units),
            dict(self.reports),
            dict(self.outbox),
            {kind: dict(rows) for kind, rows in self.records.items()},
            self.sent,
        )
