"""S3 servers, in memory and on files, and an empty place on each."""

import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from subprocess import PIPE

import boto3
import pytest
from moto.server import ThreadedMotoServer

from auditor.adapters.local_blobs import LocalBlobs
from auditor.adapters.s3_blobs import S3Blobs

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
