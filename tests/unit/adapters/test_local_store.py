import errno
import os
import stat

import pytest

from auditor.adapters.local_store import LocalStore
from auditor.contracts.base import digest_of
from auditor.errors import NotFound, StorageFailure


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "artifacts")


def files_of(tmp_path):
    return [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]


def test_what_goes_in_comes_out_under_its_sha256(store, tmp_path):
    data = os.urandom(3 << 20)
    (tmp_path / "in").write_bytes(data)
    assert store.put_file(tmp_path / "in") == store.put_bytes(data) == digest_of(data)
    store.get_path(digest_of(data), tmp_path / "deep" / "out")
    assert (tmp_path / "deep" / "out").read_bytes() == store.get_bytes(digest_of(data)) == data
    assert store.exists(digest_of(data))
    assert len(files_of(tmp_path)) == 1


def test_an_empty_file_can_be_stored(store):
    assert store.get_bytes(store.put_bytes(b"")) == b""


def test_a_stored_file_cannot_be_written_by_accident_and_a_copy_can(store, tmp_path):
    digest = store.put_bytes(b"x")
    (path,) = files_of(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    store.get_path(digest, tmp_path / "copy")
    assert os.access(tmp_path / "copy", os.W_OK)


@pytest.mark.parametrize("step", ["fsync", "replace", "write"])
def test_a_full_disk_leaves_nothing_half_written(store, tmp_path, monkeypatch, step):
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
        store.put_bytes(b"data")
    monkeypatch.undo()
    assert files_of(tmp_path) == []
    assert not store.exists(digest_of(b"data"))


def test_a_really_full_file_system_is_a_storage_failure(tmp_path):
    (tmp_path / "artifacts").write_text("a file where the folder should be")
    with pytest.raises(StorageFailure):
        LocalStore(tmp_path / "artifacts").put_bytes(b"data")


@pytest.mark.parametrize("how", ["path", "bytes"])
def test_a_damaged_blob_is_never_given_out(store, tmp_path, how):
    digest = store.put_bytes(b"the truth")
    (path,) = files_of(tmp_path)
    path.chmod(0o600)
    path.write_bytes(b"the trutH")
    with pytest.raises(StorageFailure, match="damaged"):
        store.get_path(digest, tmp_path / "out") if how == "path" else store.get_bytes(digest)
    assert not (tmp_path / "out").exists()
    assert store.put_bytes(b"the truth") == digest
    assert store.get_bytes(digest) == b"the truth", "storing it again heals it"


@pytest.mark.parametrize("digest", ["0" * 64, "../../etc/passwd", "", "A" * 64])
def test_what_is_not_there_is_not_found(store, digest):
    with pytest.raises(NotFound):
        store.get_bytes(digest)


def test_a_missing_source_is_a_storage_failure(store, tmp_path):
    with pytest.raises(StorageFailure, match="No such file"):
        store.put_file(tmp_path / "nowhere")
