"""`submit` with waivers, a baseline and every format, through the real store, database and runner process."""

from __future__ import annotations

import json

import pytest
import yaml
from junitparser import JUnitXml
from typer.testing import CliRunner

from auditor.bootstrap import build_services
from auditor.cli import audit, jobs, options
from auditor.cli.gating import today
from auditor.cli.main import app
from auditor.contracts.waiver import WaiverFile
from auditor.errors import InvalidInput, NotFound
from auditor.report.formats import FORMATS
from auditor.settings import Settings
from auditor.testing.waivers import waivers_of_all

pytestmark = pytest.mark.slow
HANDLERS = "auditor.testing.handlers:fast_handlers"
OUTPUTS = [part for fmt in FORMATS for part in ("-o", f"{fmt}=out.{fmt}")]


@pytest.fixture
def house(tmp_path, monkeypatch):
    services = build_services(Settings(home=tmp_path / "home", device="cpu"), handlers=HANDLERS)
    for module in (audit, jobs, options):
        monkeypatch.setattr(module, "services", lambda: services)
    yield services
    services.close()


@pytest.fixture
def run(house, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    (tmp_path / "model.onnx").write_bytes(b"weights")
    (tmp_path / "auditor.yaml").write_text("version: 1\nmodel: {name: faces-cnn}\n")
    year = today().year
    until = {"created": today().replace(year=year - 1, day=1), "expires": today().replace(year=year + 1, day=1)}
    file = WaiverFile(max_days=800, waivers=waivers_of_all(**until))
    (tmp_path / "waivers.yaml").write_text(yaml.safe_dump(file.model_dump(mode="json")))

    def call(*arguments):
        result = CliRunner().invoke(app, list(arguments))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


def test_every_door_says_the_same(run, tmp_path):
    failed = run("submit", "model.onnx", "--quiet", *OUTPUTS)
    assert failed.exit_code == 1, failed.output
    assert JUnitXml.fromfile(str(tmp_path / "out.junit")).failures > 0
    (sarif,) = json.loads((tmp_path / "out.sarif").read_text())["runs"]
    assert sarif["properties"]["verdict"] == "fail"
    assert {r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for r in sarif["results"]} == {
        "auditor.yaml"
    }
    waived = run("submit", "model.onnx", "--quiet", "--waivers", "waivers.yaml", *OUTPUTS)
    assert waived.exit_code == 0, waived.output
    assert "PASS WITH WAIVERS" in waived.stdout
    assert JUnitXml.fromfile(str(tmp_path / "out.junit")).failures == 0
    (sarif,) = json.loads((tmp_path / "out.sarif").read_text())["runs"]
    assert sarif["properties"]["verdict"] == "pass"
    assert run("gate", "out.json").exit_code == 1
    assert run("gate", "out.json", "--waivers", "waivers.yaml").exit_code == 0
    summary = (tmp_path / "summary.md").read_text()
    assert summary.index("FAIL") < summary.index("PASS WITH WAIVERS")
    report_id = json.loads((tmp_path / "out.json").read_text())["id"]
    for fmt in FORMATS:
        assert run("report", report_id[:12], "-f", fmt, "--waivers", "waivers.yaml").exit_code == 0
    known = run("submit", "model.onnx", "--quiet", "--baseline", report_id[:12])
    assert known.exit_code == 0, known.output
    assert "PASS AGAINST THE BASELINE" in known.stdout


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (("--baseline", "absent.json"), InvalidInput),
        (("--baseline", "0123456789ab"), NotFound),
        (("--waivers", "absent.yaml"), InvalidInput),
        (("--waivers", "auditor.yaml"), InvalidInput),
        (("--anchor", "/etc/passwd"), InvalidInput),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_runs(run, house, flags, error):
    with pytest.raises(error) as caught:
        run("submit", "model.onnx", "--quiet", *flags)
    assert caught.value.exit_code == 2
    assert house.jobs.list() == ()


def test_no_verdict_no_waiver(run, house):
    with pytest.raises(InvalidInput, match="--no-wait gives none"):
        run("submit", "model.onnx", "--no-wait", "--waivers", "waivers.yaml")
    assert house.jobs.list() == ()
