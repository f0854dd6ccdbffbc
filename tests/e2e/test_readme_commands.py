"""The commands of the README, run as they stand there in a folder as it describes, with a plan of seconds."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
VERDICT_CODES = (1, 3)
"""So small a plan can prove a leak, but never pass."""


def block(start):
    """The lines of the fenced block that starts with `start`, without comments."""
    (text,) = [text for text in re.findall(r"^```\w*\n(.*?)^```", README, re.M | re.S) if text.startswith(start)]
    return [re.sub(r"\s+# .*", "", line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def folder(submission, tmp_path_factory):
    """`model.onnx`, and image folders with a folder for each class."""
    where = tmp_path_factory.mktemp("readme")
    (where / "model.onnx").write_bytes((submission / "model.onnx").read_bytes())
    for role in ("private", "public"):
        with np.load(submission / f"{role}.npz") as data:
            for row, (image, label) in enumerate(zip(data["images"], data["labels"], strict=True)):
                path = where / role / f"person-{label:03d}" / f"{row}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
    (where / "policy.yaml").write_text("fail_on: high\n")
    return where


@pytest.fixture(scope="module")
def shell(folder, tmp_path_factory):
    """Runs one line in the folder and gives the finished process."""
    home = tmp_path_factory.mktemp("readme-home")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AUDITOR_")}
    environment |= {
        "AUDITOR_HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "GITHUB_STEP_SUMMARY": str(folder / "step-summary.md"),
    }

    def run(line):
        return subprocess.run(  # noqa: S602 - a shell is what the README's reader has
            line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
        )

    return run


@pytest.fixture(scope="module")
def audited(folder, submission, shell):
    """`init` and `submit`, with the plan of the tiny submission; the finished `submit`."""
    init, submit, _report, _remediate = block("auditor init")
    done = shell(init)
    assert done.returncode == 0, done.stderr
    manifest = yaml.safe_load((folder / "auditor.yaml").read_text())
    tiny = yaml.safe_load((submission / "auditor.yaml").read_text())
    repair = tiny["repair"] | {"params": tiny["repair"]["params"] | {"n_boundaries": 1}}
    (folder / "auditor.yaml").write_text(yaml.safe_dump(manifest | {"plan": tiny["plan"], "repair": repair}))
    return shell(submit)


def report_id(done):
    return re.findall(r"report ([0-9a-f]{12})", done.stdout)[-1]


def test_init_and_submit(audited):
    assert audited.returncode in VERDICT_CODES, audited.stderr


def test_report_writes_the_page(audited, folder, shell):
    done = shell(block("auditor init")[2].replace("ID", report_id(audited)))
    assert done.returncode == 0, done.stderr
    assert "<html" in (folder / "report.html").read_text()


def test_remediate_repairs_it(audited, shell):
    done = shell(block("auditor init")[3].replace("ID", report_id(audited)))
    assert done.returncode in VERDICT_CODES, done.stderr
    assert "k=" in done.stdout


def test_the_ci_job_and_the_gate(audited, folder, shell):
    (submit,) = (re.sub(r"^- run: ", "", line) for line in block("- run: auditor submit"))
    (folder / "step-summary.md").unlink()  # that of the first submit
    done = shell(submit)
    assert done.returncode == audited.returncode, done.stderr
    assert (folder / "step-summary.md").read_text().startswith("## ")
    assert json.loads((folder / "audit.sarif").read_text())["version"] == "2.1.0"
    assert (folder / "audit.xml").read_text().startswith("<?xml")
    (gate,) = re.findall(r"`(auditor gate [^`]+)`", README)
    assert shell(gate).returncode == audited.returncode
    (resume,) = re.findall(r"`(auditor submit --resume ID)`", README)
    job = re.search(r"job ([0-9a-f]{12})", audited.stderr)[1]
    assert shell(resume.replace("ID", job)).returncode == audited.returncode


def test_plan_explains_what_it_costs(audited, shell):
    for line in block("auditor plan"):
        done = shell(line)
        assert done.returncode == 0, done.stderr
        assert re.search(r"^total +\d", done.stdout, re.M)


def test_migrate_and_the_catalog(shell):
    assert shell("auditor migrate").returncode == 0
    (catalog,) = re.findall(r"`(auditor catalog --json)`", README)
    assert '"attacks"' in shell(catalog).stdout
