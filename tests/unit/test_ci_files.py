"""The GitHub action, the pre-commit hook and the GitLab template: what they run is what the command line takes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from auditor.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
HEAD, TEMPLATE = yaml.safe_load_all((ROOT / "ci" / "gitlab-template.yml").read_text())
(HOOK,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
COMMANDS = typer.main.get_command(app).commands
STUB = """#!{python}
import json, os, sys
open(os.environ["STUB_LOG"], "w").write(json.dumps(sys.argv[1:]))
for item in sys.argv:
    if item.startswith("sarif=") and os.environ["STUB_CODE"] != "2":
        open(item.removeprefix("sarif="), "w").write("{{}}")
sys.exit(int(os.environ["STUB_CODE"]))
"""


def parsed(arguments):
    """What the real command line makes of a recorded call; raises where it would refuse it."""
    command = COMMANDS[arguments[0]]
    return command.make_context(arguments[0], list(arguments[1:])).params


@pytest.fixture
def call(tmp_path):
    """Runs a script with a recording `auditor` in front; returns the finished process and the recorded arguments."""
    stub = tmp_path / "bin" / "auditor"
    stub.parent.mkdir()
    stub.write_text(STUB.format(python=sys.executable))
    stub.chmod(0o755)

    def run(script, environment, *, code=0):
        log = tmp_path / "log.json"
        variables = {
            "PATH": f"{stub.parent}{os.pathsep}{os.environ['PATH']}",
            "STUB_LOG": str(log),
            "STUB_CODE": str(code),
            "GITHUB_OUTPUT": str(tmp_path / "output"),
            **environment,
        }
        shell = shutil.which("sh")
        done = subprocess.run(  # noqa: S603
            [shell, "-e", "-c", script], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
        )
        return done, json.loads(log.read_text()) if log.exists() else None

    return run


def leave_files_of_an_earlier_run(folder, arguments):
    """At every path that these arguments write to; returns the paths."""
    paths = [folder / item.partition("=")[2] for item in parsed(arguments)["output"]]
    for path in paths:
        path.write_text("an earlier run's")
    return paths


class TestAction:
    def step(self, name):
        (step,) = [step for step in ACTION["runs"]["steps"] if step["name"] == name]
        return step

    def environment(self, **given):
        """The audit step's variables, as GitHub fills them from inputs and their defaults."""
        filled = {}
        for name, value in self.step("Audit")["env"].items():
            (key,) = re.fullmatch(r"\$\{\{ inputs\.([a-z-]+) \}\}", value).groups()
            filled[name] = given.get(key, ACTION["inputs"][key].get("default", ""))
        return filled

    def test_every_input_is_described_and_used(self):
        text = (ROOT / "action.yml").read_text()
        for name, about in ACTION["inputs"].items():
            assert about["description"].endswith("."), name
            assert about.get("required") or isinstance(about["default"], str), name
            assert re.search(rf"inputs\.{name}\b", text.partition("\nruns:")[2]), name
        used = set(re.findall(r"inputs\.([a-z-]+)", text))
        assert used == set(ACTION["inputs"])

    def test_no_input_is_pasted_into_a_script(self):
        for step in ACTION["runs"]["steps"]:
            assert "${{" not in step.get("run", "")
            assert step.get("shell") or step.get("uses")

    def test_the_defaults_run(self, call):
        done, arguments = call(self.step("Audit")["run"], self.environment(model="model.onnx"))
        assert done.returncode == 0, done.stderr
        params = parsed(arguments)
        assert str(params["model"]) == "model.onnx"
        assert params["step_summary"] is True
        assert {item.partition("=")[0] for item in params["output"]} == {"json", "html", "sarif", "junit"}

    def test_every_input_arrives_whole(self, call, tmp_path):
        given = {
            "model": "my models/$(touch owned).onnx",
            "config": "a b.yaml",
            "plan": "quick",
            "policy": "p.yaml",
            "fail-on": "critical",
            "waivers": "w.yaml",
            "baseline": "b.json",
            "budget": "20m",
            "min-severity": "high",
            "anchor": "models/a.yaml",
            "step-summary": "false",
        }
        done, arguments = call(self.step("Audit")["run"], self.environment(**given))
        assert done.returncode == 0, done.stderr
        params = parsed(arguments)
        for name in ("model", "config", "plan", "policy", "waivers", "baseline", "budget", "anchor", "fail_on"):
            assert str(params[name]) == given[name.replace("_", "-")]
        assert params["min_severity"] == "high"
        assert params["step_summary"] is False
        assert not (tmp_path / "owned").exists()

    @pytest.mark.parametrize(("code", "has_sarif"), [(0, True), (1, True), (3, True), (2, False)])
    def test_findings_are_uploaded_and_the_verdict_decides_afterwards(self, call, tmp_path, code, has_sarif):
        _, arguments = call(self.step("Audit")["run"], self.environment(model="m.onnx"), code=2)
        (tmp_path / "output").unlink()
        outputs = leave_files_of_an_earlier_run(tmp_path, arguments)
        done, _ = call(self.step("Audit")["run"], self.environment(model="m.onnx"), code=code)
        assert {path.name for path in outputs if path.exists()} == ({"audit.sarif"} if has_sarif else set())
        assert done.returncode == 0, "the next step uploads, whatever the verdict"
        output = dict(line.split("=", 1) for line in (tmp_path / "output").read_text().splitlines())
        assert output["exit-code"] == str(code)
        assert ("sarif" in output) is has_sarif
        done, _ = call(self.step("Verdict")["run"], {"CODE": output["exit-code"]})
        assert done.returncode == code

    def test_without_a_verdict_the_action_fails(self, call):
        assert call(self.step("Verdict")["run"], {"CODE": ""})[0].returncode == 2
        assert self.step("Verdict")["if"] == "always()"

    def test_the_upload_has_a_category_and_waits_for_a_file(self):
        step = self.step("Upload to code scanning")
        assert step["uses"].startswith("github/codeql-action/upload-sarif@v")
        assert step["with"]["category"] == "${{ inputs.category }}"
        assert "steps.audit.outputs.sarif != ''" in step["if"]


class TestHook:
    def test_it_runs_a_command_that_there_is(self):
        words = HOOK["entry"].split()
        assert words[0] == "auditor"
        assert parsed([*words[1:], "report.json", "--waivers", "waivers.yaml"])["step_summary"] is False
        assert HOOK["pass_filenames"] is False
        assert {"id", "name", "description", "entry", "language"} <= set(HOOK)


class TestGitlab:
    def job(self, **given):
        """The job with its inputs filled in, as GitLab does before it reads the rest."""
        inputs = HEAD["spec"]["inputs"]
        filled = {name: given.get(name, about.get("default")) for name, about in inputs.items()}
        text = yaml.safe_dump(TEMPLATE)
        for name, value in filled.items():
            text = text.replace(f"$[[ inputs.{name} ]]", str(value))
        assert "$[[" not in text
        ((name, job),) = yaml.safe_load(text).items()
        return name, job

    def test_every_input_is_described_and_used(self):
        text = yaml.safe_dump(TEMPLATE)
        for name, about in HEAD["spec"]["inputs"].items():
            assert about["description"].endswith("."), name
            assert f"$[[ inputs.{name} ]]" in text, name
        assert set(re.findall(r"inputs\.([a-z-]+)", text)) == set(HEAD["spec"]["inputs"])

    def test_no_input_is_pasted_into_the_script(self):
        (job,) = TEMPLATE.values()
        assert "$[[" not in "".join(job["script"])

    def test_the_job_runs_and_its_reports_are_collected(self, call):
        name, job = self.job(
            model="my model.onnx", policy="p q.yaml", waivers="w.yaml", baseline="b.json", budget="20m"
        )
        assert name == "model-inversion-audit"
        done, arguments = call(job["script"][0], {key: str(value or "") for key, value in job["variables"].items()})
        assert done.returncode == 0, done.stderr
        params = parsed(arguments)
        assert str(params["model"]) == "my model.onnx"
        assert (str(params["waivers"]), params["baseline"], params["plan"]) == ("w.yaml", "b.json", None)
        assert (str(params["policy"]), params["budget"]) == ("p q.yaml", "20m")
        written = dict(item.split("=") for item in params["output"])
        assert job["artifacts"]["when"] == "always"
        assert written["junit"] == job["artifacts"]["reports"]["junit"]
        assert written["gitlab"] == job["artifacts"]["reports"]["codequality"]
        assert {written["json"], written["html"]} == set(job["artifacts"]["paths"])

    @pytest.mark.parametrize("code", [1, 2, 3])
    def test_the_job_fails_with_the_gate(self, call, code):
        _, job = self.job(model="m.onnx")
        variables = {key: str(value or "") for key, value in job["variables"].items()}
        assert call(job["script"][0], variables, code=code)[0].returncode == code

    def test_a_run_without_a_verdict_leaves_no_report_of_an_earlier_one(self, call, tmp_path):
        _, job = self.job(model="m.onnx")
        variables = {key: str(value or "") for key, value in job["variables"].items()}
        _, arguments = call(job["script"][0], variables, code=2)
        outputs = leave_files_of_an_earlier_run(tmp_path, arguments)
        call(job["script"][0], variables, code=2)
        assert not [path for path in outputs if path.exists()]

    def test_the_script_gets_a_shell_in_the_image_whose_entrypoint_is_the_command(self):
        _, job = self.job(model="m.onnx")
        assert 'ENTRYPOINT ["auditor"]' in (ROOT / "Dockerfile").read_text().splitlines()
        assert job["image"] == {"name": "auditor:local", "entrypoint": [""]}
