"""What the database knows, as frozen values: repositories take and give these, never rows of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from auditor.contracts.jobs import Failed, JobKind, JobState, Progress, UnitResult, UnitSpec, UnitState
from auditor.contracts.manifest import Manifest
from auditor.contracts.policy import Verdict
from auditor.contracts.submission import TargetCard
from auditor.risk.rules import RULES
from auditor.service.pipeline import FINISH, FULL

LOCAL_TEAM = "local"
"""The team of everything that is submitted without a server."""

Place = tuple[datetime, str]
"""Time and id of the last row of a page: the next one goes on after it."""


@dataclass(frozen=True)
class Submission:
    """A checked model file with what is needed to read it.

    Attributes:
        inputs: workspace file name to artifact digest.
        team_id: who owns it.
    """

    id: str
    name: str
    created_at: datetime
    manifest: Manifest
    target: TargetCard
    inputs: dict[str, str]
    team_id: str = LOCAL_TEAM


@dataclass(frozen=True)
class Job:
    """A job and where it is.

    Attributes:
        fingerprint: sha256 over kind, inputs and code version; equal work has an equal fingerprint.
        payload: JSON contract of the job's kind (`AuditJob` for an audit).
        error: why it failed.
        team_id: who owns it.
        priority: of two jobs that wait, the one with the higher number goes first.
        submitter: the person's name; empty: submitted without a server.
    """

    id: str
    kind: JobKind
    name: str
    submission_id: str
    fingerprint: str
    payload: dict[str, Any]
    created_at: datetime
    state: JobState = JobState.QUEUED
    cancel_requested: bool = False
    error: Failed | None = None
    finished_at: datetime | None = None
    team_id: str = LOCAL_TEAM
    priority: int = 0
    submitter: str = ""


@dataclass(frozen=True)
class StoredArtifact:
    """An artifact in a listing of the store.

    Attributes:
        digest: its name.
        size: bytes as they lie there, which encryption makes a little more.
        modified: when it was last written, UTC.
    """

    digest: str
    size: int
    modified: datetime


@dataclass(frozen=True)
class Unit:
    """A unit of a job and where it is.

    Attributes:
        attempt: how many times it was claimed; with the id it names one claim.
        lease_until: when a claim counts as abandoned unless it is renewed; workers leave a waiting unit until then.
        heartbeat_at: when the claim was last renewed.
        error: why it failed; of a waiting unit: why it has to run again.
    """

    id: str
    job_id: str
    position: int
    spec: UnitSpec
    state: UnitState = UnitState.PENDING
    attempt: int = 0
    worker: str | None = None
    lease_until: datetime | None = None
    heartbeat_at: datetime | None = None
    progress: Progress | None = None
    result: UnitResult | None = None
    error: Failed | None = None


@dataclass(frozen=True)
class QueuedUnit:
    """A unit that waits or runs, with what decides about its turn.

    Attributes:
        kind: of the unit, e.g. `attack`.
        created_at: of the job.
    """

    unit_id: str
    job_id: str
    team_id: str
    kind: str
    priority: int
    created_at: datetime
    position: int


@dataclass(frozen=True)
class StoredReport:
    """A report that a unit left.

    Attributes:
        report_id: the id inside the report; the same audit run twice has the same.
        kind: `audit` or `repair`.
        digest: artifact of the report's JSON.
        gallery_digest: artifact of the pictures, where there are any.
        verdict: `pass`, `fail` or `inconclusive`; for a repair the one after it, or None when nothing was accepted.
        looser_policy: whether the policy that gave it is looser than the built-in one; None: nobody knows.
        rules: number of the rules (`auditor.risk.rules`) that gave verdict and level; 0: of a version that kept none.
    """

    report_id: str
    job_id: str
    unit_key: str
    kind: JobKind
    name: str
    digest: str
    gallery_digest: str | None
    verdict: str | None
    level: str | None
    created_at: datetime
    looser_policy: bool | None = None
    rules: int = RULES

    @property
    def is_of_job(self) -> bool:
        """Whether the job was for it: what a repair audits on its way is not what a repair is for."""
        return self.kind is JobKind.REPAIR or self.unit_key == FINISH

    @property
    def is_trial(self) -> bool:
        """Whether it is of a quick audit that a repair made on its way."""
        return self.kind is JobKind.AUDIT and self.unit_key not in FULL

    @property
    def as_told(self) -> StoredReport:
        """As lists tell it: what earlier rules gave is no pass until those of today have judged it."""
        if self.rules >= RULES or self.verdict in (None, Verdict.FAIL):
            return self
        return replace(self, verdict=Verdict.INCONCLUSIVE.value, level=None)


@dataclass(frozen=True)
class Series:
    """The reports of one name: the newest of them, and how many there are."""

    newest: StoredReport
    count: int


@dataclass(frozen=True)
class Statistics:
    """Counts of everything stored.

    Attributes:
        jobs: by (kind, state as stored, team).
        jobs_running: jobs with a unit under a live lease.
        units: by (kind, state).
        units_stalled: units that say they run, with a lease that has run out.
        unit_seconds: by kind, what the finished ones took together.
        units_redone: claims of units beyond each unit's first.
        oldest_waiting: when the oldest job with a unit that waits for a worker was made.
        outbox: units that are yet to be announced.
        reports: those that jobs were for, by (kind, verdict); the verdict is empty where there is none.
    """

    jobs: Mapping[tuple[str, ...], int]
    jobs_running: int
    units: Mapping[tuple[str, ...], int]
    units_stalled: int
    unit_seconds: Mapping[str, float]
    units_redone: int
    oldest_waiting: datetime | None
    outbox: int
    reports: Mapping[tuple[str, ...], int]
