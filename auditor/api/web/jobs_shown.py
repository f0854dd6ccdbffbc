"""Jobs as the pages show them: how far, in which place, and how long about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from auditor.contracts.jobs import JobState, JobView, UnitState, UnitView
from auditor.report.wording import duration
from auditor.service.records import StoredReport
from auditor.service.repositories import UnitOfWork


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job in a list; the report only where the job is done."""

    view: JobView
    report: StoredReport | None = None

    @property
    def when(self) -> str:
        """About when a job that waits goes on; empty: nothing tells."""
        return starts_in(self.view)

    @property
    def address(self) -> str:
        """Its report where there is one, else the job."""
        if self.report is None:
            return f"/jobs/{self.view.id}"
        return f"/{'audits' if self.report.kind == 'audit' else 'repairs'}/{self.report.job_id}"


def row_of(tx: UnitOfWork, view: JobView) -> JobRow:
    """A job with its last report, if it is done."""
    return rows_of(tx, (view,))[0]


def rows_of(tx: UnitOfWork, views: Sequence[JobView]) -> list[JobRow]:
    """Jobs, each with its last report if it is done."""
    reports = tx.reports.of_jobs([view.id for view in views if view.state is JobState.DONE])
    return [JobRow(view, next(reversed(reports.get(view.id, ())), None)) for view in views]


def starts_in(view: JobView) -> str:
    """About when a job that waits goes on; empty: nothing tells."""
    if view.eta_s is None:
        return ""
    return f"goes on in about {duration(view.eta_s)}" if view.eta_s >= 1 else "goes on as soon as a worker is free"


def _range(low: float, high: float) -> str:
    shown = duration(max(low, 1)), duration(max(high, 1))
    return shown[0] if shown[0] == shown[1] else f"{shown[0]} to {shown[1]}"


def time_left(units: Sequence[UnitView]) -> str:
    """How long the units that are known by now take, from those of their kind that are done; empty: nothing tells."""
    took: dict[str, list[float]] = {}
    for unit in units:
        if unit.state is UnitState.DONE and unit.seconds is not None:
            took.setdefault(unit.kind, []).append(unit.seconds)
    open_units = [unit for unit in units if unit.state in (UnitState.PENDING, UnitState.RUNNING)]
    if not open_units or any(unit.kind not in took for unit in open_units):
        return ""
    return _range(sum(min(took[u.kind]) for u in open_units), sum(max(took[u.kind]) for u in open_units))
