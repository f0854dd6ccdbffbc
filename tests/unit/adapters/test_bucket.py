"""Artifacts in a bucket: deletions beside writers, uploads in parts, credentials."""

from datetime import UTC, datetime, timedelta

import boto3
import pytest
from botocore.exceptions import ClientError

from auditor.adapters.content_store import ContentStore
from auditor.adapters.s3_blobs import S3Blobs
from auditor.contracts.base import digest_of
from auditor.errors import InvalidInput, NotFound, StorageAway, StorageFailure


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

    def test_a_stranger_is_refused(self, seaweedfs, credentials, monkeypatch):
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed")
        with pytest.raises(StorageFailure, match="403"):
            S3Blobs("s3://artifacts", seaweedfs).make_bucket()

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
        assert not isinstance(caught.value, StorageAway), "waiting would not help"
        assert "AUDITOR_S3_ENDPOINT" in caught.value.remedy

    def test_a_server_that_is_down_is_away(self, bucket):
        store = ContentStore(S3Blobs(bucket, "http://127.0.0.1:1"))
        with pytest.raises(StorageAway, match="EndpointConnectionError"):
            store.get_bytes("0" * 64)

    def test_so_is_one_that_says_it_cannot_now(self, bucket, endpoint, monkeypatch):
        blobs = S3Blobs(bucket, endpoint)
        answer = {"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": 503}}

        def refuse(**_place):
            raise ClientError(answer, "HeadObject")

        monkeypatch.setattr(blobs._client, "head_object", refuse)
        with pytest.raises(StorageAway, match="the store answered SlowDown"):
            ContentStore(blobs).put_bytes(b"x")


def test_a_bucket_that_is_not_there_is_no_empty_bucket(bucket, endpoint):
    """So that whoever asks for nothing in particular hears whether the store can be used."""
    with pytest.raises(NotFound):
        ContentStore(S3Blobs(bucket, endpoint)).get_bytes("0" * 64)
    with pytest.raises(StorageFailure):
        ContentStore(S3Blobs("s3://no-such-bucket/here", endpoint)).get_bytes("0" * 64)
