"""Blobs in a bucket that speaks S3: Amazon's, or any compatible server."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from auditor.adapters.blobs import Readable
from auditor.errors import InvalidInput, NotFound, StorageAway, StorageFailure
from auditor.service.records import StoredArtifact

FRESH = timedelta(hours=1)
"""A blob written within this time is not sent again; garbage is collected only when it is much older."""
_DELETING = "deleting/"
"""Under it, a mark for each deletion that is under way."""
_DECIDED = 60.0
"""Seconds that a deletion may take to look and decide; after that it lets be."""
_ABANDONED = timedelta(minutes=10)
"""A mark that is older was left by a process that died: longer than `_DECIDED` and every repetition of one request."""
_REMEDY = "Check AUDITOR_ARTIFACTS, AUDITOR_S3_ENDPOINT and the credentials (AWS_ACCESS_KEY_ID, ...)."
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})


class S3Blobs:
    """Objects under a prefix of one bucket. An upload appears when it is complete, which S3 itself sees to.

    S3 cannot look at an object's age and delete it at once (`If-Match` compares bytes, and those that are stored again
    are the same). So a deletion marks the name before it looks, and a writer looks for marks after it wrote, then for
    the object: either the deletion sees the new object, or the writer sees that it has to write again. Each deletion
    has its own mark, so none ends another's; that of one whose request may still be on its way stays for `_ABANDONED`.

    Credentials are found as boto3 finds them: environment, files of a profile, role of the machine.

    Args:
        url: `s3://bucket` or `s3://bucket/prefix`.
        endpoint: address of a server other than Amazon's.
    """

    def __init__(self, url: str, endpoint: str | None = None) -> None:
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not url.startswith("s3://") or not bucket:
            raise InvalidInput(f"'{url}' is not an address of the form s3://bucket/prefix", remedy=_REMEDY)
        self._bucket, self._prefix = bucket, prefix.strip("/") + "/" if prefix.strip("/") else ""
        config = Config(connect_timeout=5, read_timeout=60, retries={"max_attempts": 3, "mode": "standard"})
        with _failures("reached"):
            self._client: Any = boto3.client("s3", endpoint_url=endpoint, config=config)
        self._transfer = TransferConfig(use_threads=False)

    def make_bucket(self) -> None:
        """Create the bucket unless it is there."""
        with _failures("stored"):
            try:
                self._client.head_bucket(Bucket=self._bucket)
            except ClientError as error:
                if error.response["Error"]["Code"] not in _MISSING:
                    raise
                self._client.create_bucket(Bucket=self._bucket)

    def write(self, name: str, source: Readable) -> None:
        """Upload, in parts where it is large; what was written within the hour is left as it is."""
        with _failures("stored"):
            found = self._head(name)
            if found is None or datetime.now(UTC) - found["LastModified"] > FRESH or self._marks(name):
                self._client.upload_fileobj(source, self._bucket, self._prefix + name, Config=self._transfer)
            if not self._stays(name):
                raise StorageFailure("an artifact was deleted while it was stored", remedy="Store it again.")

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        """The bytes, as they arrive."""
        with _failures("read"):
            try:
                body = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"]
            except ClientError as error:
                if error.response["Error"]["Code"] in _MISSING:
                    raise NotFound(f"there is no blob '{name}'") from None
                raise
            try:
                yield body
            finally:
                body.close()

    def exists(self, name: str) -> bool:
        """Whether it is stored."""
        with _failures("looked up"):
            return self._head(name) is not None

    def delete(self, name: str, before: datetime | None = None) -> bool:
        """Forget it; who writes it meanwhile is told to write it again."""
        started = time.monotonic()
        mark = {"Bucket": self._bucket, "Key": f"{self._prefix}{_DELETING}{name}/{uuid.uuid4().hex}"}
        with _failures("deleted"):
            with self._taken_back(mark):
                self._client.put_object(**mark, Body=b"")
                found = self._head(name)
                goes = found is not None and (before is None or found["LastModified"] <= before)
                if goes and time.monotonic() - started > _DECIDED:
                    raise StorageFailure("an artifact could not be deleted in time", remedy="Try it again.")
            if goes:
                self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)
            self._client.delete_object(**mark)
        return goes

    def list(self) -> Iterator[StoredArtifact]:
        """All of them."""
        with _failures("listed"):
            for row in self._rows(""):
                if not row["Key"].startswith(self._prefix + _DELETING):
                    yield StoredArtifact(row["Key"].removeprefix(self._prefix), row["Size"], row["LastModified"])

    def tidy(self, before: datetime) -> None:
        """Abort uploads in parts that began before this and were never completed; forget marks of deletions."""
        with _failures("deleted"):
            for row in self._rows(_DELETING):
                if row["LastModified"] < before:
                    self._client.delete_object(Bucket=self._bucket, Key=row["Key"])
            for row in self._unfinished():
                if row["Initiated"] < before:
                    place = {"Bucket": self._bucket, "Key": row["Key"], "UploadId": row["UploadId"]}
                    self._client.abort_multipart_upload(**place)

    def _unfinished(self) -> Iterator[dict[str, Any]]:
        """Uploads in parts that were begun; some servers say that there is no upload where there never was one."""
        pages = self._client.get_paginator("list_multipart_uploads")
        try:
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
                yield from page.get("Uploads", ())
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") != "NoSuchUpload":
                raise

    @contextmanager
    def _taken_back(self, mark: dict[str, str]) -> Iterator[None]:
        """The mark goes with a deletion that failed before it sent its request, and keeps no writer out."""
        try:
            yield
        except BaseException:
            with suppress(ClientError, BotoCoreError, OSError):  # `_ABANDONED` ends it
                self._client.delete_object(**mark)
            raise

    def _stays(self, name: str) -> bool:
        """Whether what was just written is there, and no deletion is under way: by the store's clock, not by ours."""
        marks = self._marks(name)
        found = self._head(name)
        return found is not None and all(found["LastModified"] - mark >= _ABANDONED for mark in marks)

    def _marks(self, name: str) -> tuple[datetime, ...]:
        """When each deletion began that did not end."""
        return tuple(row["LastModified"] for row in self._rows(f"{_DELETING}{name}/"))

    def _rows(self, under: str) -> Iterator[dict[str, Any]]:
        """What the bucket lists under this part of the prefix."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix + under)
        for page in pages:
            yield from page.get("Contents", ())

    def _head(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)
        except ClientError as error:
            if error.response["Error"]["Code"] in _MISSING:
                return None
            raise
        return found


@contextmanager
def _failures(verb: str) -> Iterator[None]:
    """What boto3 reports, without addresses or keys."""
    try:
        yield
    except ClientError as error:
        code = error.response["Error"].get("Code", "unknown")
        kind = StorageAway if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500 else StorageFailure
        raise kind(f"an artifact could not be {verb}: the store answered {code}", remedy=_REMEDY) from error
    except (BotoCoreError, OSError) as error:
        raise StorageAway(f"an artifact could not be {verb}: {type(error).__name__}", remedy=_REMEDY) from error
