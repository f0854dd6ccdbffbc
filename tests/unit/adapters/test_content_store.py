"""Artifacts in a folder and in a bucket, plain and encrypted: one contract."""

import base64
import errno
import hashlib
import io
import os
import stat
import threading
from datetime import UTC, datetime, timedelta

import pytest

from auditor.adapters.content_store import ContentStore
from auditor.adapters.local_blobs import LocalBlobs
from auditor.adapters.sealing import MAGIC, Sealer
from auditor.contracts.base import digest_of
from auditor.errors import InvalidInput, NotFound, StorageFailure

KEYS = [base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)]


@pytest.fixture(params=["plain", "encrypted"])
def store(request, blobs):
    return ContentStore(blobs, Sealer(KEYS) if request.param == "encrypted" else None)


@pytest.fixture
def folder(tmp_path):
    return ContentStore(LocalBlobs(tmp_path / "artifacts"))


def files_of(tmp_path):
    return [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_what_goes_in_comes_out_under_its_sha256(store, tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "in").write_bytes(data)
    assert store.put_file(tmp_path / "in") == store.put_bytes(data) == digest_of(data)
    store.get_path(digest_of(data), tmp_path / "deep" / "out")
    assert (tmp_path / "deep" / "out").read_bytes() == store.get_bytes(digest_of(data)) == data
    assert store.exists(digest_of(data))
    assert [blob.digest for blob in store.list()] == [digest_of(data)]


def test_what_was_deleted_is_not_there(store):
    kept, gone = store.put_bytes(b"kept"), store.put_bytes(b"gone")
    assert store.delete(gone)
    assert not store.delete(gone)
    assert not store.exists(gone)
    assert [blob.digest for blob in store.list()] == [kept]


def test_what_was_stored_again_since_is_not_deleted(store):
    digest, now = store.put_bytes(b"of a submission"), datetime.now(UTC)
    assert not store.delete(digest, now - timedelta(hours=2))
    assert store.exists(digest)
    assert store.delete(digest, now + timedelta(hours=2))
    assert not store.exists(digest)


@pytest.mark.parametrize("digest", ["0" * 64, "../../etc/passwd", "", "A" * 64])
def test_what_is_not_there_is_not_found(store, digest, tmp_path):
    with pytest.raises(NotFound):
        store.get_bytes(digest)
    with pytest.raises(NotFound):
        store.get_path(digest, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["path", "bytes"])
def test_a_damaged_blob_is_never_given_out(store, blobs, tmp_path, how):
    digest = store.put_bytes(b"the truth")
    with blobs.open(digest) as source:
        stored = source.read()
    blobs.delete(digest)
    blobs.write(digest, io.BytesIO(stored[:-1] + bytes([stored[-1] ^ 1])))
    with pytest.raises(StorageFailure, match="damaged"):
        store.get_path(digest, tmp_path / "out") if how == "path" else store.get_bytes(digest)
    assert not (tmp_path / "out").exists()


def test_many_writers_of_one_artifact_leave_it_whole(store):
    data = os.urandom(2 << 20)
    writers = [threading.Thread(target=store.put_bytes, args=(data,)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert store.get_bytes(digest_of(data)) == data


@pytest.mark.parametrize("after", [b"after!", b"", b"aft", b"longer" * 10, os.urandom(9 << 20)])
@pytest.mark.parametrize("known", [True, False])
def test_a_file_that_changes_while_it_is_stored_is_refused_and_what_has_its_digest_stays(
    store, tmp_path, monkeypatch, after, known
):
    path, before = tmp_path / "in", b"before"
    path.write_bytes(before)
    if known:
        store.put_file(path)
        monkeypatch.setattr("auditor.adapters.s3_blobs.FRESH", timedelta(0))
    real = hashlib.file_digest

    def changed_next(*args):
        found = real(*args)
        path.write_bytes(after)
        return found

    monkeypatch.setattr(hashlib, "file_digest", changed_next)
    with pytest.raises(StorageFailure, match="changed while"):
        store.put_file(path)
    assert store.exists(digest_of(before)) == known
    assert not known or store.get_bytes(digest_of(before)) == before
    assert len(files_of(tmp_path)) in (0, known)


class TestEncryption:
    def test_nothing_of_the_plain_bytes_is_stored(self, blobs):
        secret = b"a private face" * 100_000
        digest = ContentStore(blobs, Sealer(KEYS)).put_bytes(secret)
        with blobs.open(digest) as source:
            stored = source.read()
        assert b"a private face" not in stored
        assert stored.startswith(MAGIC)

    def test_an_older_key_still_opens_and_the_newest_seals(self, blobs):
        old = ContentStore(blobs, Sealer(KEYS[1:])).put_bytes(b"old")
        both = ContentStore(blobs, Sealer(KEYS))
        new = both.put_bytes(b"new")
        assert (both.get_bytes(old), both.get_bytes(new)) == (b"old", b"new")
        with pytest.raises(StorageFailure, match="another key"):
            ContentStore(blobs, Sealer(KEYS[1:])).get_bytes(new)

    def test_turning_it_on_keeps_what_was_plain(self, blobs):
        digest = ContentStore(blobs).put_bytes(b"plain")
        assert ContentStore(blobs, Sealer(KEYS)).get_bytes(digest) == b"plain"

    def test_without_keys_it_says_which_setting_is_missing(self, blobs):
        digest = ContentStore(blobs, Sealer(KEYS)).put_bytes(b"sealed")
        with pytest.raises(StorageFailure, match="no key") as caught:
            ContentStore(blobs).get_bytes(digest)
        assert "AUDITOR_ENCRYPTION_KEYS" in caught.value.remedy

    @pytest.mark.parametrize("change", ["cut", "swapped", "extended", "renamed"])
    def test_parts_cannot_be_dropped_moved_or_taken_elsewhere(self, tmp_path, change):
        blobs = LocalBlobs(tmp_path)
        store = ContentStore(blobs, Sealer(KEYS))
        digest = store.put_bytes(os.urandom(3 << 20))
        with blobs.open(digest) as source:
            stored = source.read()
        size, head = (1 << 20) + 16, len(MAGIC) + 16
        header, parts = stored[:head], [stored[at : at + size] for at in range(head, len(stored), size)]
        assert len(parts) == 3
        if change == "cut":
            parts.pop()
        elif change == "swapped":
            parts[0], parts[1] = parts[1], parts[0]
        elif change == "extended":
            parts.append(parts[-1])
        else:
            digest = "0" * 64
        blobs.write(digest, io.BytesIO(header + b"".join(parts)))
        with pytest.raises(StorageFailure, match="seal is broken"):
            store.get_bytes(digest)

    @pytest.mark.parametrize("key", ["", "short", "!" * 44, base64.b64encode(b"x" * 16).decode()])
    def test_what_is_no_key_is_refused_with_how_to_make_one(self, key):
        with pytest.raises(InvalidInput, match="32 bytes") as caught:
            Sealer([KEYS[0], key])
        assert "openssl rand" in caught.value.remedy


class TestFolder:
    def test_a_stored_file_cannot_be_written_by_accident_and_a_copy_can(self, folder, tmp_path):
        digest = folder.put_bytes(b"x")
        (path,) = files_of(tmp_path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o400
        folder.get_path(digest, tmp_path / "copy")
        assert os.access(tmp_path / "copy", os.W_OK)

    @pytest.mark.parametrize("step", ["fsync", "replace", "write"])
    def test_a_full_disk_leaves_nothing_half_written(self, folder, tmp_path, monkeypatch, step):
        def full(*_args, **_kwargs):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        if step == "fsync":
            monkeypatch.setattr(os, "fsync", full)
        elif step == "replace":
            monkeypatch.setattr("pathlib.Path.replace", full)
        else:
            real = os.fdopen

            def fdopen(*args, **kwargs):
                handle = real(*args, **kwargs)
                return Full(handle)

            class Full:
                def __init__(self, handle):
                    self.handle = handle

                def __enter__(self):
                    return self

                def __exit__(self, *_error):
                    self.handle.close()

                write = full

            monkeypatch.setattr(os, "fdopen", fdopen)
        with pytest.raises(StorageFailure, match="No space left"):
            folder.put_bytes(b"data")
        monkeypatch.undo()
        assert files_of(tmp_path) == []
        assert not folder.exists(digest_of(b"data"))

    def test_a_really_full_file_system_is_a_storage_failure(self, folder, tmp_path):
        (tmp_path / "artifacts").write_text("a file where the folder should be")
        with pytest.raises(StorageFailure):
            folder.put_bytes(b"data")

    def test_storing_a_damaged_artifact_again_heals_it(self, folder, tmp_path):
        digest = folder.put_bytes(b"the truth")
        (path,) = files_of(tmp_path)
        path.chmod(0o600)
        path.write_bytes(b"the trutH")
        assert folder.put_bytes(b"the truth") == digest
        assert folder.get_bytes(digest) == b"the truth"

    def test_a_missing_source_is_a_storage_failure(self, folder, tmp_path):
        with pytest.raises(StorageFailure, match="No such file"):
            folder.put_file(tmp_path / "nowhere")

    def test_what_is_stored_while_its_age_is_looked_at_stays(self, folder, tmp_path, monkeypatch):
        digest, now = folder.put_bytes(b"of two submissions"), datetime.now(UTC)
        (path,) = files_of(tmp_path)
        os.utime(path, (0, 0))
        real, stored = os.unlink, []

        def store_meanwhile(*args, **kwargs):
            if not stored:
                stored.append(threading.Thread(target=folder.put_bytes, args=(b"of two submissions",)))
                stored[0].start()
                stored[0].join(0.3)
            real(*args, **kwargs)

        monkeypatch.setattr(os, "unlink", store_meanwhile)
        folder.delete(digest, now - timedelta(hours=2))
        stored[0].join()
        assert folder.get_bytes(digest) == b"of two submissions"

    def test_what_killed_writers_left_is_deleted_and_what_is_being_written_is_not(self, tmp_path):
        store = ContentStore(LocalBlobs(tmp_path / "artifacts"))
        kept = store.put_bytes(b"kept")
        now = datetime.now(UTC)
        left, new = (tmp_path / "artifacts" / "tmp" / name for name in ("left", "new"))
        for path, hours in ((left, 30), (new, 1)):
            path.write_bytes(b"private images")
            os.utime(path, ((now - timedelta(hours=hours)).timestamp(),) * 2)
        store.tidy(now - timedelta(days=1))
        assert (left.exists(), new.exists(), store.get_bytes(kept)) == (False, True, b"kept")
