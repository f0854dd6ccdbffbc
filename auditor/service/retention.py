"""Deleting on time: pictures and private data of teams that say for how long they keep them; reports stay."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from auditor.data.cache import ContentCache
from auditor.service.accounts import DataSet, Team, Trail, Upload
from auditor.service.garbage import delete_old
from auditor.service.ports import ArtifactStore, Clock
from auditor.service.records import Job, Place
from auditor.service.repositories import Database, UnitOfWork
from auditor.service.states import TERMINAL

PICTURES = frozenset({"gallery.json", "recon.npz"})
"""Files of an audit that show people as they were rebuilt; a later unit is given them as `attack-0-1.recon.npz`."""
PRIVATE = frozenset(
    {"private.npz", "heldout.npz", "fit.npz", "heldout_used.npz", "activations.npz", "evaluator.safetensors"}
)
"""Files of an audit that hold private images, what a cut model makes of them, or what was learned from them."""
CACHED = ("evaluator", "projection", "prior-measure", "reference", "fisher")
"""Kinds of cache entries that were learned from private images, or keep what was while they are made."""
UNFINISHED_FOR, ANSWERS_FOR = timedelta(days=2), timedelta(days=1)
"""For so long an upload may stay incomplete, and the answer to an Idempotency-Key is kept."""
_PAGE = 200
R = TypeVar("R")


@dataclass
class Swept:
    """What a sweep finds, and what it deleted.

    Attributes:
        over: by team, what has artifacts whose time is over, and these.
        kept: artifacts that something else still needs.
        deleted: artifacts that are gone.
    """

    over: dict[str, list[tuple[Job | Upload | DataSet, frozenset[str]]]] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)

    @property
    def due(self) -> set[str]:
        """Artifacts that may go."""
        return {digest for rows in self.over.values() for _, digests in rows for digest in digests} - self.kept


class Retention:
    """Sweeps; run it once a day.

    Args:
        database: the database.
        store: the artifacts.
        clock: the time.
        folder: of uploads that are not complete.
        caches: folder of the teams' content caches on this machine.
    """

    def __init__(self, *, database: Database, store: ArtifactStore, clock: Clock, folder: Path, caches: Path) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        self._folder = folder
        self._caches = caches

    def sweep(self) -> int:
        """Delete what is due in every team; returns how many artifacts that were.

        An artifact that two jobs or teams have in common is kept as long as the longest of them keeps it. Uploads and
        data sets are forgotten after their artifacts: what could not be deleted, the next sweep finds. Meanwhile no
        data set is made of an upload whose time is over.
        """
        swept = Swept()
        with self._database() as tx:
            teams = list(_pages(tx.teams.page, lambda row: (row.created_at, row.id)))
            for team in teams:
                self._find_due(tx, team, swept)
            self._forget_old(tx)
        try:
            for digest in swept.due:
                if delete_old(self._store, digest, self._clock):
                    swept.deleted.add(digest)
        finally:
            left = {digest for digest in swept.due - swept.deleted if self._store.exists(digest)}
            with self._database() as tx:
                for team in teams:
                    self._forget_deleted(tx, team, swept, left)
        return len(swept.deleted)

    def _find_due(self, tx: UnitOfWork, team: Team, swept: Swept) -> None:
        now, over = self._clock.now(), swept.over.setdefault(team.id, [])
        pictures_before, private_before = team.pictures_before(now), team.private_before(now)
        if private_before is not None:
            for kind in CACHED:
                ContentCache(self._caches / team.id).forget(kind, private_before)
        jobs = _pages(tx.jobs.page, lambda row: (row.created_at, row.id))
        for job in (job for job in jobs if job.team_id == team.id):
            ended = None if job.state not in TERMINAL else job.finished_at
            swept.kept.update(_others(tx, job))
            for names, before in ((PICTURES, pictures_before), (PRIVATE, private_before)):
                digests = _files(tx, job, names)
                if before is None or ended is None or ended >= before:
                    swept.kept.update(digests)
                    continue
                if names is PICTURES:
                    digests.update(tx.reports.without_pictures(job.id))
                over.append((job, frozenset(digests)))
        for data_set in _pages(tx.data_sets.page, lambda row: (row.created_at, row.id), team_id=team.id):
            if private_before is not None and data_set.created_at < private_before:
                over.append((data_set, frozenset(data_set.digests.values())))
            else:
                swept.kept.update(data_set.digests.values())
        for upload in _pages(tx.uploads.page, lambda row: (row.created_at, row.id), team_id=team.id):
            digests = {upload.sha256} if upload.complete else set()
            if private_before is not None and upload.created_at < private_before:
                over.append((upload, frozenset(digests)))
            else:
                swept.kept.update(digests)

    def _forget_deleted(self, tx: UnitOfWork, team: Team, swept: Swept, left: Set[str]) -> None:
        """Take away the rows whose artifacts are gone, or something else's, and note how much a team has lost."""
        found = 0
        for row, digests in swept.over[team.id]:
            if isinstance(row, Job):
                found += not digests.isdisjoint(swept.deleted)
            elif not digests.isdisjoint(left):
                continue
            elif isinstance(row, DataSet):
                found += tx.data_sets.remove(row.id)
            else:
                found += tx.uploads.remove(row.id, {"complete": row.complete})
                (self._folder / f"{row.id}.part").unlink(missing_ok=True)
        if found:
            now, told = self._clock.now(), {"deleted": str(found)}
            tx.trail.add(Trail(secrets.token_hex(16), now, team.id, "(retention)", "retention.sweep", team.name, told))

    def _forget_old(self, tx: UnitOfWork) -> None:
        """Uploads that were given up, answers that nobody asks for again, sessions that are over."""
        now = self._clock.now()
        old = now - UNFINISHED_FOR
        for upload in _pages(tx.uploads.page, lambda row: (row.created_at, row.id), (old, ""), complete=False):
            tx.uploads.remove(upload.id)
            (self._folder / f"{upload.id}.part").unlink(missing_ok=True)
        for path in self._folder.glob("*.part"):  # a process may have died between completing an upload and this
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < old.timestamp():
                    path.unlink()
        for answer in _pages(tx.answers.page, lambda row: (row.created_at, row.id), (now - ANSWERS_FOR, "")):
            tx.answers.remove(answer.id)
        yesterday = now - timedelta(days=1)
        for session in _pages(tx.sessions.page, lambda row: (row.created_at, row.id), (yesterday, "")):
            if session.expires_at < now:
                tx.sessions.remove(session.id)


def _files(tx: UnitOfWork, job: Job, names: frozenset[str]) -> set[str]:
    """Artifacts that a job was given, or left, under one of these names."""
    return {digest for name, digest in _artifacts(tx, job) if _role(name) in names}


def _others(tx: UnitOfWork, job: Job) -> set[str]:
    """All the others: a job keeps its model and whatever else is neither a picture nor a private image."""
    return {digest for name, digest in _artifacts(tx, job) if _role(name) not in PICTURES | PRIVATE}


def _role(name: str) -> str:
    """The file's name where it was made: what an attack left is `attack-0-1.` and that name where it is read."""
    return name.partition(".")[2] if name.startswith("attack-") else name


def _artifacts(tx: UnitOfWork, job: Job) -> Iterator[tuple[str, str]]:
    tables = [tx.submissions.get(job.submission_id).inputs, *(job.payload.get(key, {}) for key in ("inputs", "data"))]
    for unit in tx.units.of_job(job.id):
        tables += [unit.spec.inputs, {} if unit.result is None else unit.result.outputs]
    for table in tables:
        yield from table.items()


def _pages(
    read: Callable[..., Sequence[R]], place: Callable[[R], Place], after: Place | None = None, **equal: object
) -> Iterator[R]:
    """Every row, or every row older than `after`, page by page."""
    while rows := read(_PAGE, after, **equal):
        yield from rows
        after = place(rows[-1])
