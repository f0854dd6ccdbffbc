"""Files sent in parts: any part may be the last before the line breaks, and the next goes on where it ended."""

from __future__ import annotations

import secrets
from pathlib import Path

from auditor.contracts.base import digest_of_file
from auditor.contracts.service import NewUpload
from auditor.errors import Conflict, InvalidInput, NotFound, StorageFailure, TooLarge
from auditor.service.accounts import DataSet, Upload
from auditor.service.people import Identity
from auditor.service.ports import ArtifactStore, Clock
from auditor.service.repositories import Database
from auditor.service.trail import note

_AT_ONCE, _IN_TURN = "another part of this file came at the same time", "Send one after the other."


class Part:
    """Bytes that are being written to a file, from `offset` on.

    Attributes:
        offset: where the next byte goes.
    """

    def __init__(self, path: Path, upload: Upload, offset: int) -> None:
        self.offset = offset
        self._size = upload.size
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            self._handle = path.open("r+b")
            self._handle.seek(offset)
        except OSError as error:
            raise StorageFailure(f"the upload could not be written: {error.strerror}") from error

    def write(self, data: bytes) -> None:
        """Raises TooLarge when the file would become longer than was said."""
        if self.offset + len(data) > self._size:
            raise TooLarge(f"the file is longer than the {self._size} bytes that were announced")
        try:
            self._handle.write(data)
        except OSError as error:
            raise StorageFailure(f"the upload could not be written: {error.strerror}") from error
        self.offset += len(data)

    def close(self) -> None:
        """Flush."""
        try:
            self._handle.close()
        except OSError as error:
            raise StorageFailure(f"the upload could not be written: {error.strerror}") from error


class Uploads:
    """One person's uploads and data sets, in their team.

    Args:
        database: the database.
        store: where finished files go.
        clock: the time.
        me: who sends.
        folder: for files that are not complete; all API processes share it.
        max_bytes: largest file.
    """

    def __init__(
        self, *, database: Database, store: ArtifactStore, clock: Clock, me: Identity, folder: Path, max_bytes: int
    ) -> None:
        self._transactions = database.of_team(me.team.id)
        self._store = store
        self._clock = clock
        self._me = me
        self._folder = folder
        self._max_bytes = max_bytes

    def start(self, request: NewUpload, request_id: str | None = None) -> Upload:
        """Announce a file, once for each `request_id`; raises TooLarge when it is over the limit."""
        if request.size > self._max_bytes:
            raise TooLarge(f"the file has {request.size} bytes; the limit is {self._max_bytes}")
        upload = Upload(
            id=request_id or secrets.token_hex(16),
            created_at=self._clock.now(),
            team_id=self._me.team.id,
            name=request.name,
            size=request.size,
            sha256=request.sha256,
            created_by=self._me.user.name,
        )
        with self._transactions() as tx:
            made = tx.uploads.find(id=upload.id)
            if made is not None:
                return made
            tx.uploads.add(upload)
        return upload

    def get(self, upload_id: str) -> Upload:
        """Raises NotFound."""
        with self._transactions() as tx:
            return tx.uploads.get(upload_id)

    def open_part(self, upload_id: str, offset: int) -> Part:
        """Where the part that starts at `offset` is written.

        Raises:
            NotFound: no such upload.
            Conflict: the part does not follow what has come; the message says where to go on.
        """
        upload = self.get(upload_id)
        if upload.complete:
            raise Conflict("the upload is complete", remedy="Start another one for another file.")
        if offset != upload.received:
            raise Conflict(
                f"{upload.received} bytes have come, so the next part starts there, not at {offset}",
                remedy=f"Send the bytes from {upload.received} on.",
            )
        return Part(self._path(upload), upload, offset)

    def close_part(self, upload_id: str, started_at: int, part: Part) -> Upload:
        """Count what a part brought; after the last one, check the file and hand it to the store.

        Raises:
            Conflict: another part was written at the same time.
            InvalidInput: the file is not the one announced; it is thrown away, and can be sent again.
        """
        part.close()
        with self._transactions() as tx:
            if not tx.uploads.change(upload_id, {"received": started_at, "complete": False}, received=part.offset):
                raise Conflict(_AT_ONCE, remedy=_IN_TURN)
            upload = tx.uploads.get(upload_id)
        return self._finish(upload) if upload.received == upload.size else upload

    def _finish(self, upload: Upload) -> Upload:
        path = self._path(upload)
        try:
            digest = digest_of_file(path)
            if digest == upload.sha256:
                self._store.put_file(path)
        except (FileNotFoundError, StorageFailure):
            if path.exists():
                raise
            return self._finished_beside(upload)
        if digest != upload.sha256:
            self._start_over(upload)
            raise InvalidInput(
                f"the bytes that came have sha256 {digest}, but {upload.sha256} was announced",
                remedy="Send the file again from its first byte.",
            )
        with self._transactions() as tx:
            tx.uploads.change(upload.id, complete=True)
            note(tx, self._me.user, "upload.complete", upload.id, self._clock.now(), name=upload.name, sha256=digest)
        path.unlink(missing_ok=True)
        return self.get(upload.id)

    def _finished_beside(self, upload: Upload) -> Upload:
        """As it is after another part at the same time has ended and taken the file away."""
        self._start_over(upload)
        ended = self.get(upload.id)
        if not ended.complete:
            raise Conflict(_AT_ONCE, remedy=_IN_TURN)
        return ended

    def _start_over(self, upload: Upload) -> None:
        """Throw away what came, unless it is complete."""
        with self._transactions() as tx:
            tx.uploads.change(upload.id, {"complete": False}, received=0)
        self._path(upload).unlink(missing_ok=True)

    def remove(self, upload_id: str) -> None:
        """Forget an upload; a data set made of it, and audits, keep their bytes."""
        upload = self.get(upload_id)
        with self._transactions() as tx:
            tx.uploads.remove(upload.id)
            note(tx, self._me.user, "upload.remove", upload.id, self._clock.now(), name=upload.name)
        self._path(upload).unlink(missing_ok=True)

    def name_data_set(self, name: str, upload_id: str, request_id: str | None = None) -> DataSet:
        """Give a finished upload a name, once for each `request_id`.

        Raises:
            NotFound: no such upload.
            Conflict: the name is taken, or the upload is not complete, or so old that a sweep may be deleting it.
        """
        now = self._clock.now()
        with self._transactions() as tx:
            made = tx.data_sets.find(id=request_id)
            if made is not None:
                return made
            upload = tx.uploads.get(upload_id)
            if not upload.complete:
                raise Conflict(f"{upload.received} of {upload.size} bytes have come", remedy="Send the rest first.")
            private_before = tx.teams.get(self._me.team.id).private_before(now)
            if private_before is not None and upload.created_at < private_before:
                raise Conflict("the team's retention deletes this upload", remedy="Send the file again.")
            record = DataSet(
                id=request_id or secrets.token_hex(16),
                created_at=now,
                team_id=self._me.team.id,
                name=name,
                digests={"data.npz": upload.sha256},
                size=upload.size,
                created_by=self._me.user.name,
            )
            tx.data_sets.add(record)
            note(tx, self._me.user, "data-set.create", name, now, sha256=upload.sha256)
        return record

    def remove_data_set(self, name: str) -> None:
        """Forget a data set; raises NotFound."""
        with self._transactions() as tx:
            found = tx.data_sets.find(name=name)
            if found is None:
                raise NotFound(f"there is no data set '{name}'")
            tx.data_sets.remove(found.id)
            note(tx, self._me.user, "data-set.remove", name, self._clock.now())

    def _path(self, upload: Upload) -> Path:
        return self._folder / f"{upload.id}.part"
