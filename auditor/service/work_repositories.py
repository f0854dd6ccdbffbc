"""The database port of the work itself: submissions, jobs, their units, the queue, and what is to be announced."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from auditor.contracts.jobs import Failed, JobKind, JobState, Progress, UnitResult
from auditor.service.records import Job, Place, QueuedUnit, Statistics, Submission, Unit


class Submissions(Protocol):
    """Stored submissions."""

    def add(self, submission: Submission) -> None:
        """Insert a new one."""
        ...

    def get(self, submission_id: str) -> Submission:
        """By id; raises NotFound."""
        ...

    def page(self, limit: int, after: Place | None = None) -> Sequence[Submission]:
        """Newest first, those that come after `after`."""
        ...


class Jobs(Protocol):
    """Stored jobs."""

    def add(self, job: Job) -> None:
        """Insert a new one."""
        ...

    def get(self, job_id: str, *, lock: bool = False) -> Job:
        """By id, or by its first characters where they are unique; raises NotFound.

        Args:
            job_id: the id.
            lock: hold the row until the transaction ends, so that units ending together are seen one after the other.
        """
        ...

    def latest(self, limit: int) -> Sequence[Job]:
        """Newest first."""
        ...

    def page(
        self,
        limit: int,
        after: Place | None = None,
        *,
        kind: JobKind | None = None,
        name: str = "",
        states: Collection[JobState] | None = None,
    ) -> Sequence[Job]:
        """Newest first, those that come after `after`.

        Args:
            limit: how many at most.
            after: place of the last one before.
            kind: only of this kind.
            name: only those whose name holds this, in whatever case.
            states: only those that are stored in one of these.
        """
        ...

    def unfinished(self, *, kind: JobKind | None = None, name: str = "") -> Sequence[Job]:
        """All that have not ended, newest first; `kind` and `name` as in `page`."""
        ...

    def with_fingerprint(self, fingerprint: str, team_id: str) -> Job | None:
        """The team's newest job for exactly this work; what another team did is not told.

        Whoever else asks waits until the transaction ends, so that no two find none and both make one.
        """
        ...

    def set_state(self, job_id: str, state: JobState, *, error: Failed | None, finished_at: datetime | None) -> None:
        """Move the job; `error` and `finished_at` are replaced. Raises IllegalMove, see `auditor.service.states`."""
        ...

    def set_cancel_requested(self, job_id: str, requested: bool) -> None:
        """Ask for the job to stop, or take that back."""
        ...

    def set_priority(self, job_id: str, priority: int) -> None:
        """Change its place among those that wait."""
        ...


class Units(Protocol):
    """Stored units. A claim is named by unit id and attempt number; only the holder can renew or settle it."""

    def add(self, units: Sequence[Unit]) -> None:
        """Insert new ones."""
        ...

    def get(self, unit_id: str) -> Unit:
        """By id; raises NotFound."""
        ...

    def of_job(self, job_id: str) -> Sequence[Unit]:
        """All units of a job, in the order they were made."""
        ...

    def claim(self, unit_id: str, *, worker: str, now: datetime, lease_until: datetime) -> Unit | None:
        """Take this pending unit, atomically and whoever's turn it is; None when it is not pending (any more)."""
        ...

    def renew(self, unit: Unit, *, now: datetime, lease_until: datetime, progress: Progress | None) -> bool:
        """Heartbeat of a claim; False when the claim was lost."""
        ...

    def complete(self, unit: Unit, result: UnitResult) -> bool:
        """Mark a claimed unit done; False when the claim was lost."""
        ...

    def fail(self, unit: Unit, error: Failed) -> bool:
        """Mark a claimed unit failed; False when the claim was lost."""
        ...

    def release(self, unit: Unit, *, error: Failed | None = None, not_before: datetime | None = None) -> bool:
        """Give a claimed or failed unit back as pending; False when the claim was lost.

        Args:
            unit: as it was claimed.
            error: why it has to run again; None keeps what is there.
            not_before: `Queue.claim_next` leaves it until then.
        """
        ...

    def expired(self, now: datetime) -> Sequence[Unit]:
        """Running units, of any job, whose lease ran out."""
        ...

    def finished(self, kind: JobKind, *, team_id: str, key: str) -> Sequence[Unit]:
        """Finished units of a team's jobs, those of the oldest job first.

        Args:
            kind: of the jobs.
            team_id: whose jobs.
            key: how the keys of the units end.
        """
        ...


class Queue(Protocol):
    """The units of all jobs that wait for a worker, and whose turn it is."""

    def claim_next(self, *, worker: str, now: datetime, lease_until: datetime, team_units: int) -> Unit | None:
        """Take the unit whose turn it is, atomically; None when no unit may run.

        That of the highest priority; of those, one of the team with the fewest running units; of such teams, the one
        that was served longest ago; of its units, one of the oldest job; and of that the first. A unit runs while its
        lease lasts. Left out: jobs that are to stop, units that wait for a later time, and teams that have
        `team_units` running already (0: no limit).
        """
        ...

    def waiting(self, now: datetime) -> Sequence[QueuedUnit]:
        """Every unit that waits for a worker, in no order; teams at their limit are among them."""
        ...

    def running(self, now: datetime) -> Sequence[QueuedUnit]:
        """Every unit under a live lease."""
        ...

    def served(self, now: datetime) -> Mapping[str, datetime]:
        """By team, when a unit of it was last taken or heard of. Jobs that ended over an hour ago no longer count."""
        ...

    def typical_seconds(self) -> Mapping[str, float]:
        """By kind of unit, the median of what the last finished ones took."""
        ...

    def statistics(self, now: datetime) -> Statistics:
        """Counts for whoever watches the service."""
        ...


class Outbox(Protocol):
    """Units to be sent to the queue, written in the transaction that made them."""

    def add(self, unit_ids: Sequence[str]) -> None:
        """Remember to send these."""
        ...

    def pending(self) -> Sequence[tuple[int, str]]:
        """(entry, unit id) not yet sent; entries another process is sending now are left out."""
        ...

    def remove(self, entry: int) -> None:
        """It was sent."""
        ...
