"""The commands and files of docs/ci.md, run as they stand there, as far as they need no model."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from auditor.cli.main import app
from auditor.contracts.policy import Verdict
from auditor.contracts.waiver import WaiverFile
from auditor.report.formats import render
from auditor.testing.reports import sample_report, sample_target

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "ci.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.M | re.S)
COMMANDS = [line for language, text in BLOCKS if not language for line in text.splitlines()]
OFFLINE = [line for line in COMMANDS if not line.startswith("auditor submit")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the document's commands read."""
    target = sample_target(name="badge-reader")
    for name, verdict in (("report", Verdict.FAIL), ("approved", Verdict.FAIL)):
        (tmp_path / f"{name}.json").write_text(render(sample_report(verdict, target=target), "json"))
    (tmp_path / "policy.yaml").write_text("fail_on: high\n")
    (tmp_path / "auditor.yaml").write_text("version: 1\nmodel: {name: badge-reader}\n")
    (tmp_path / "waivers.yaml").write_text(waiver_block())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def waiver_block():
    (text,) = [text for language, text in BLOCKS if language == "yaml" and "waivers:\n" in text]
    return text


def test_there_are_commands_to_run():
    assert {line.split()[1] for line in OFFLINE} == {"gate", "convert", "waive"}


@pytest.mark.parametrize("line", OFFLINE)
def test_it_runs(folder, line):
    done = CliRunner().invoke(app, shlex.split(line)[1:])
    assert done.exit_code == (1 if " gate " in line and "--baseline" not in line else 0), done.output
    assert done.stdout


def test_the_file_of_waivers_is_valid():
    (waiver,) = WaiverFile.model_validate(yaml.safe_load(waiver_block())).waivers
    assert waiver.finding == "attack:ppa"


def test_the_inputs_and_hooks_that_are_shown_exist():
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    head, _ = yaml.safe_load_all((ROOT / "ci" / "gitlab-template.yml").read_text())
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    shown = [yaml.safe_load(text) for language, text in BLOCKS if language == "yaml"]
    (uses,) = [block["steps"][1] for block in shown if "steps" in block]
    assert set(uses["with"]) <= set(action["inputs"])
    (include,) = [block["include"][0] for block in shown if "include" in block]
    assert (ROOT / include["file"]).exists()
    assert set(include["inputs"]) <= set(head["spec"]["inputs"])
    (repo,) = [block[0] for block in shown if isinstance(block, list)]
    assert [entry["id"] for entry in repo["hooks"]] == [hook["id"]]
