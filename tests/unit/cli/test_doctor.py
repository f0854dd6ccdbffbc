"""`auditor doctor` tries what the settings name."""

import boto3
import pytest
from typer.testing import CliRunner

from auditor.cli.main import app


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
