"""`auditor doctor` tries what the settings name."""

import base64

import boto3
import pytest
from typer.testing import CliRunner

from auditor.bootstrap import build_store
from auditor.cli.main import app
from auditor.settings import Settings


@pytest.fixture
def doctor(monkeypatch, tmp_path):
    monkeypatch.setenv("AUDITOR_HOME", str(tmp_path))
    monkeypatch.setenv("AUDITOR_DEVICE", "cpu")
    return lambda: CliRunner().invoke(app, ["doctor"])


def test_a_new_installation_is_well(doctor, tmp_path):
    done = doctor()
    assert f"ok   artifacts  {tmp_path}" in done.output
    assert "FAIL" not in done.output
    assert done.exit_code == 0


def test_a_store_that_cannot_be_reached_is_told(doctor, monkeypatch):
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the first credentials that it finds
    monkeypatch.setenv("AUDITOR_ARTIFACTS", "s3://auditor")
    monkeypatch.setenv("AUDITOR_S3_ENDPOINT", "http://127.0.0.1:1")
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION"):
        monkeypatch.setenv(f"AWS_{name}", "us-east-1")
    done = doctor()
    assert "FAIL artifacts  an artifact could not be listed: EndpointConnectionError" in done.output
    assert done.exit_code == 2


def test_artifacts_of_another_key_are_told(doctor, monkeypatch, tmp_path):
    keys = [base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2)]
    store = build_store(Settings(home=tmp_path, encryption_keys=keys[0]))
    store.put_bytes(b"something")
    build_store(Settings(home=tmp_path)).put_bytes(b"as before keys were set")
    for key, told in ((None, "no key is configured"), (keys[1], "encrypted with another key"), (keys[0], "")):
        if key is not None:
            monkeypatch.setenv("AUDITOR_ENCRYPTION_KEYS", key)
        done = doctor()
        assert (told in done.output, "FAIL artifacts" in done.output, done.exit_code) == (
            True,
            bool(told),
            2 * bool(told),
        )
