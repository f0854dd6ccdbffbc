"""Artifacts in a folder and in a bucket, plain and encrypted: one contract."""

import base64
import errno
import hashlib
import io
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import PIPE

import boto3
import pytest
from moto.server import ThreadedMotoServer

from auditor.adapters.content_store import ContentStore
from auditor.adapters.local_blobs import LocalBlobs
from auditor.adapters.s3_blobs import S3Blobs
from auditor.adapters.sealing import MAGIC, Sealer
from auditor.contracts.base import digest_of
from auditor.errors import InvalidInput, NotFound, StorageFailure

KEYS = [base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)]


SERVERS = ("moto", "rclone")


@pytest.fixture(scope="module", autouse=True)
def _session():
    """Of boto3, which keeps the first credentials that it finds, also those of other tests."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(boto3, "DEFAULT_SESSION", None)
        yield


@pytest.fixture(scope="module")
def moto():
    """A server that speaks S3, in memory."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def rclone(tmp_path_factory):
    """A server that speaks S3, on files, which knows its clients by their signatures."""
    beside = Path(sys.executable).parent / "rclone"
    binary = shutil.which("rclone") or (str(beside) if beside.exists() else None)
    if binary is None:
        message = "no rclone on this machine: install the extra `dev`"
        pytest.fail(message) if os.environ.get("CI", "").lower() in ("1", "true") else pytest.skip(message)
    folder = tmp_path_factory.mktemp("rclone")
    (folder / "rclone.conf").touch()
    environment = {"RCLONE_CONFIG": f"{folder}/rclone.conf", "RCLONE_CACHE_DIR": f"{folder}/cache"}
    command = [binary, "serve", "s3", "--addr", "127.0.0.1:0", "--auth-key", "auditor,s3-password", "data"]
    (folder / "data").mkdir()
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=PIPE, text=True) as process:  # noqa: S603
        try:
            address = next(found[0] for line in process.stderr if (found := re.search(r"http://[\d.]+:\d+", line)))
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield address
        finally:
            process.kill()


def place_at(endpoint):
    """Address of an empty place in a bucket."""
    S3Blobs("s3://artifacts", endpoint).make_bucket()
    return f"s3://artifacts/{os.urandom(4).hex()}"


@pytest.fixture
def credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "auditor")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3-password")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture(params=SERVERS)
def endpoint(request, credentials):
    return request.getfixturevalue(request.param)


@pytest.fixture
def bucket(endpoint):
    return place_at(endpoint)


@pytest.fixture(params=["folder", *SERVERS])
def blobs(request, tmp_path, credentials):
    if request.param == "folder":
        return LocalBlobs(tmp_path / "artifacts")
    endpoint = request.getfixturevalue(request.param)
    return S3Blobs(place_at(endpoint), endpoint)


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


def cut(**_place):
    """A request to a server whose answer is lost."""
    raise OSError


class TestBucket:
    @pytest.fixture(autouse=True)
    def nothing_is_fresh(self, monkeypatch):
        monkeypatch.setattr("auditor.adapters.s3_blobs.FRESH", timedelta(0))

    @pytest.fixture
    def deletion(self, bucket, endpoint):
        """Another process, to which what is there is old."""
        return S3Blobs(bucket, endpoint), datetime.now(UTC) + timedelta(hours=2)

    def test_who_stores_what_is_being_deleted_is_told_so(self, bucket, endpoint, deletion, monkeypatch):
        store, (garbage, before) = ContentStore(S3Blobs(bucket, endpoint)), deletion
        digest = store.put_bytes(b"of two submissions")
        real = garbage._client.delete_object

        def stored_just_before(**place):
            if place["Key"].endswith(digest):
                with pytest.raises(StorageFailure, match="deleted while it was stored") as caught:
                    store.put_bytes(b"of two submissions")
                assert caught.value.retryable
            return real(**place)

        monkeypatch.setattr(garbage._client, "delete_object", stored_just_before)
        assert garbage.delete(digest, before)
        assert not store.exists(digest)
        assert store.get_bytes(store.put_bytes(b"of two submissions")) == b"of two submissions"

    @pytest.mark.parametrize("fresh", [timedelta(0), timedelta(hours=1)])
    def test_who_stored_what_a_whole_deletion_took_is_told_so(self, bucket, endpoint, deletion, monkeypatch, fresh):
        blobs, (garbage, before) = S3Blobs(bucket, endpoint), deletion
        store = ContentStore(blobs)
        digest = store.put_bytes(b"of two submissions")
        monkeypatch.setattr("auditor.adapters.s3_blobs.FRESH", fresh)
        real = blobs._stays

        def deleted_just_before(name):
            assert garbage.delete(name, before)
            return real(name)

        with monkeypatch.context() as patched:
            patched.setattr(blobs, "_stays", deleted_just_before)
            with pytest.raises(StorageFailure, match="deleted while it was stored"):
                store.put_bytes(b"of two submissions")
        assert store.get_bytes(store.put_bytes(b"of two submissions")) == b"of two submissions"
        assert [blob.digest for blob in store.list()] == [digest]

    def test_a_deletion_that_could_not_be_completed_keeps_writers_out_for_a_while(
        self, bucket, endpoint, deletion, monkeypatch
    ):
        store, (garbage, before) = ContentStore(S3Blobs(bucket, endpoint)), deletion
        digest = store.put_bytes(b"x")
        monkeypatch.setattr(garbage._client, "delete_object", cut)
        with pytest.raises(StorageFailure):
            garbage.delete(digest, before)
        with pytest.raises(StorageFailure, match="deleted while"):
            store.put_bytes(b"x")
        assert [blob.digest for blob in store.list()] == [digest]
        with monkeypatch.context() as later:
            later.setattr("auditor.adapters.s3_blobs._ABANDONED", -timedelta(minutes=1))
            assert store.put_bytes(b"x") == digest
        store.tidy(before)
        assert store.put_bytes(b"x") == digest

    def test_a_deletion_that_dawdled_lets_be(self, bucket, endpoint, deletion, monkeypatch):
        store, (garbage, before) = ContentStore(S3Blobs(bucket, endpoint)), deletion
        digest = store.put_bytes(b"x")
        monkeypatch.setattr("auditor.adapters.s3_blobs._DECIDED", 0)
        with pytest.raises(StorageFailure, match="in time"):
            garbage.delete(digest, before)
        assert store.put_bytes(b"x") == digest

    @pytest.mark.parametrize("interrupted", ["put_object", "head_object"])
    def test_a_deletion_that_sent_no_request_keeps_no_writer_out(
        self, bucket, endpoint, deletion, monkeypatch, interrupted
    ):
        store, (garbage, before) = ContentStore(S3Blobs(bucket, endpoint)), deletion
        digest = store.put_bytes(b"x")
        real = getattr(garbage._client, interrupted)

        def stopped(**place):
            real(**place)
            raise KeyboardInterrupt

        monkeypatch.setattr(garbage._client, interrupted, stopped)
        with pytest.raises(KeyboardInterrupt):
            garbage.delete(digest, before)
        assert store.put_bytes(b"x") == digest

    @pytest.mark.parametrize("fresh", [timedelta(0), timedelta(hours=1)])
    @pytest.mark.parametrize("wrong_by", [timedelta(minutes=-30), timedelta(minutes=30)])
    def test_a_mark_counts_for_ten_minutes_by_the_clock_of_the_store(
        self, bucket, endpoint, deletion, monkeypatch, fresh, wrong_by
    ):
        class Skewed(datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.now(tz) + wrong_by

        blobs, (garbage, before) = S3Blobs(bucket, endpoint), deletion
        store = ContentStore(blobs)
        store.put_bytes(b"x")
        monkeypatch.setattr("auditor.adapters.s3_blobs.datetime", Skewed)
        monkeypatch.setattr("auditor.adapters.s3_blobs.FRESH", fresh)
        monkeypatch.setattr(garbage._client, "delete_object", cut)
        with pytest.raises(StorageFailure, match="OSError"):
            garbage.delete(digest_of(b"x"), before)
        with pytest.raises(StorageFailure, match="deleted while"):
            store.put_bytes(b"x")
        real = blobs._marks
        for minutes, is_stored in ((9, False), (11, True)):
            earlier = timedelta(minutes=minutes)
            monkeypatch.setattr(blobs, "_marks", lambda name, by=earlier: tuple(began - by for began in real(name)))
            if is_stored:
                assert store.exists(store.put_bytes(b"x"))
            else:
                with pytest.raises(StorageFailure, match="deleted while"):
                    store.put_bytes(b"x")

    def test_what_is_fresh_is_written_again_where_a_mark_was_left(self, bucket, endpoint, deletion, monkeypatch):
        """Otherwise its own age would make the mark look younger, for as long as it is fresh."""
        blobs, (garbage, before) = S3Blobs(bucket, endpoint), deletion
        store = ContentStore(blobs)
        digest = store.put_bytes(b"x")
        monkeypatch.setattr("auditor.adapters.s3_blobs.FRESH", timedelta(hours=1))
        real, uploads = blobs._client.upload_fileobj, []

        def upload(*args, **kwargs):
            uploads.append(args)
            real(*args, **kwargs)

        monkeypatch.setattr(blobs._client, "upload_fileobj", upload)
        store.put_bytes(b"x")
        assert not uploads
        monkeypatch.setattr(garbage._client, "delete_object", cut)
        with pytest.raises(StorageFailure, match="OSError"):
            garbage.delete(digest, before)
        with pytest.raises(StorageFailure, match="deleted while"):
            store.put_bytes(b"x")
        assert len(uploads) == 1

    def test_uploads_that_were_never_completed_are_aborted(self, bucket, endpoint):
        store, client = ContentStore(S3Blobs(bucket, endpoint)), boto3.client("s3", endpoint_url=endpoint)
        place = {"Bucket": "artifacts", "Key": f"{bucket.rpartition('/')[2]}/{'a' * 64}"}
        client.create_multipart_upload(**place)

        def left():
            found = client.list_multipart_uploads(Bucket="artifacts").get("Uploads", ())
            return [row["Key"] for row in found if row["Key"] == place["Key"]]

        store.tidy(datetime(2000, 1, 1, tzinfo=UTC))
        assert left() == [place["Key"]]
        store.tidy(datetime.now(UTC) + timedelta(hours=1))
        assert left() == []

    @pytest.mark.parametrize("url", ["artifacts", "s3://", "https://bucket"])
    def test_another_address_is_refused(self, url):
        with pytest.raises(InvalidInput, match="s3://bucket/prefix"):
            S3Blobs(url)

    def test_a_stranger_is_refused(self, rclone, credentials, monkeypatch):
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed")
        with pytest.raises(StorageFailure, match="403"):
            S3Blobs("s3://artifacts", rclone).make_bucket()

    def test_a_bucket_is_made_once(self, bucket, endpoint):
        blobs = S3Blobs("s3://made-by-migrate", endpoint)
        blobs.make_bucket()
        blobs.make_bucket()
        store = ContentStore(blobs)
        assert store.get_bytes(store.put_bytes(b"x")) == b"x"

    def test_a_bucket_that_is_not_there_says_so(self, bucket, endpoint):
        store = ContentStore(S3Blobs("s3://nowhere", endpoint))
        with pytest.raises(StorageFailure, match="NoSuchBucket") as caught:
            store.put_bytes(b"x")
        assert "AUDITOR_S3_ENDPOINT" in caught.value.remedy

    def test_a_server_that_is_down_is_a_storage_failure(self, bucket):
        store = ContentStore(S3Blobs(bucket, "http://127.0.0.1:1"))
        with pytest.raises(StorageFailure, match="EndpointConnectionError"):
            store.get_bytes("0" * 64)
