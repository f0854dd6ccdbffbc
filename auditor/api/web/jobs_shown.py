"""Jobs as the pages show them: how far, in which place, and how long about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from auditor.api.server import Caller
from auditor.contracts.jobs import JobState, JobView, UnitState, UnitView
from auditor.report.wording import duration
from auditor.service.ports import Place, UnitOfWork
from auditor.service.records import Job, StoredReport

RECENT = 5
"""So many finished jobs tell how long the next ones may take."""
MOST = 2000
"""So many of the newest jobs are looked through for those that run or wait."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Where a job stands in the queue: 1 is next. `eta` is empty where nothing tells how long."""

    position: int
    of: int
    eta: str


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job in a list; the report only where the job is done."""

    view: JobView
    report: StoredReport | None = None
    waiting: Waiting | None = None

    @property
    def address(self) -> str:
        """Its report where there is one, else the job."""
        if self.report is None:
            return f"/jobs/{self.view.id}"
        return f"/{'audits' if self.report.kind == 'audit' else 'repairs'}/{self.report.job_id}"


def row_of(tx: UnitOfWork, view: JobView) -> JobRow:
    """A job with its last report, if it is done."""
    reports = tx.reports.of_job(view.id) if view.state is JobState.DONE else ()
    return JobRow(view, reports[-1] if reports else None)


def places(caller: Caller) -> dict[str, Waiting]:
    """Where every job of this team that waits stands, among those of all teams."""
    with caller.server.services.database() as tx:
        newest = list(_newest(tx, MOST))
        waiting = sorted(
            (job for job in newest if job.state is JobState.QUEUED), key=lambda job: (-job.priority, job.created_at)
        )
        n_running = sum(job.state is JobState.RUNNING for job in newest)
        done = [job for job in newest if job.state is JobState.DONE][:RECENT]
        took = sorted(sum(unit.result.seconds for unit in tx.units.of_job(job.id) if unit.result) for job in done)
    return {
        job.id: Waiting(index, len(waiting), _span(took, index - 1 + n_running))
        for index, job in enumerate(waiting, 1)
        if job.team_id == caller.me.team.id
    }


def _newest(tx: UnitOfWork, most: int) -> Iterator[Job]:
    place: Place | None = None
    for _ in range(0, most, 200):
        jobs = tx.jobs.page(200, place)
        yield from jobs
        if len(jobs) < 200:
            return
        place = jobs[-1].created_at, jobs[-1].id


def _span(took: Sequence[float], n: int) -> str:
    """How long `n` jobs take if each takes as long as the recent ones did, one after the other."""
    if not took:
        return ""
    if n == 0:
        return "starts as soon as a worker is free"
    return f"starts in about {_range(n * took[0], n * took[-1])}"


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
