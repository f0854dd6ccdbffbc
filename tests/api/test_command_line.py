"""The same commands, output and exit codes, with the work done by a server."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from api_house import PASSWORD, good
from api_specimen import specimen

from auditor.client.credentials import credentials_of
from auditor.contracts.people import Role, Scope
from auditor.errors import InvalidInput
from auditor.service.records import LOCAL_TEAM
from auditor.settings import Settings

pytestmark = pytest.mark.slow
AUDITOR = str(Path(sys.executable).with_name("auditor"))


class CommandLine:
    """`auditor` in a process and a home of its own."""

    def __init__(self, home, **environment):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AUDITOR_")}
        self.environment = kept | {"AUDITOR_HOME": str(home), "NO_COLOR": "1"} | environment
        self.home = home

    def __call__(self, *arguments, stdin=""):
        command = [AUDITOR, *map(str, arguments)]
        return subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, env=self.environment, input=stdin, timeout=100, check=False
        )


@pytest.fixture
def here(tmp_path):
    return CommandLine(tmp_path / "laptop")


@pytest.fixture
def there(house, here):
    """A command line that has logged in."""
    done = here("login", house.url, stdin=house.tokens[LOCAL_TEAM, Role.SUBMITTER] + "\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return here


@pytest.fixture
def model(tmp_path):
    """A model file, a folder of images and an npz of them, and the manifest."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in ("ann", "bob"):
        (tmp_path / "private" / label).mkdir(parents=True)
        for number in range(3):
            image = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
            image.save(tmp_path / "private" / label / f"{number}.png")
    np.savez(tmp_path / "public.npz", images=rng.integers(0, 255, (6, 16, 16, 3), dtype=np.uint8))
    (tmp_path / "model.onnx").write_bytes(b"weights")
    manifest = {
        "model": {"name": "remote"},
        "data": {"private": {"path": "private"}, "public": {"path": "public.npz"}},
    }
    (tmp_path / "auditor.yaml").write_text(yaml.safe_dump(manifest))
    return tmp_path / "model.onnx"


def test_the_token_is_kept_where_nobody_else_reads_it(there, house):
    path = there.home / "credentials.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert there("logout").returncode == 0
    assert not path.exists()


def test_a_wrong_token_is_exit_code_4_and_not_stored(here, house):
    done = here("login", house.url, stdin="aud_wrong\n")
    assert (done.returncode, done.stdout) == (4, "")
    assert "auditor login" in done.stderr
    assert not (here.home / "credentials.json").exists()


def test_a_token_does_not_leave_the_machine_unencrypted(here):
    done = here("login", "http://audits.example", stdin="aud_x\n")
    assert done.returncode == 2
    assert "not encrypted" in done.stderr


def test_a_server_without_a_token_is_exit_code_4(here, house):
    here.environment["AUDITOR_SERVER_URL"] = house.url
    done = here("list")
    assert done.returncode == 4
    assert "AUDITOR_TOKEN" in done.stderr


def test_a_token_that_may_not_is_exit_code_4(here, house):
    token = house.token_of(house.users[LOCAL_TEAM, Role.SUBMITTER], (Scope.READ,))
    here.environment |= {"AUDITOR_SERVER_URL": house.url, "AUDITOR_TOKEN": token}
    job = specimen(house, LOCAL_TEAM).ids["job_id"]
    assert here("status", job).returncode == 0
    done = here("cancel", job)
    assert done.returncode == 4
    assert "submit" in done.stderr


def test_a_server_that_is_away_is_exit_code_2_with_its_address(here):
    here.environment |= {"AUDITOR_SERVER_URL": "http://127.0.0.1:9", "AUDITOR_TOKEN": "aud_x"}
    done = here("list")
    assert done.returncode == 2
    assert "http://127.0.0.1:9 could not be reached" in done.stderr


def test_a_submission_is_audited_there_and_answered_here(there, house, model):
    done = there("submit", model, "-f", "json", "-q", "--priority", "7", "-o", f"markdown={model.parent}/r.md")
    assert done.returncode == 1, done.stderr  # the report of the fast handlers fails
    report = json.loads(done.stdout)
    job = done.stderr.split("job ")[1].split()[0]
    with house.services.database() as tx:
        found = tx.jobs.get(job)
        assert tx.submissions.get(found.submission_id).manifest.data.private.path == Path("private.npz")
    assert (found.name, found.priority) == ("remote", 7)
    assert (model.parent / "r.md").read_text()
    assert not (there.home / "auditor.db").exists(), "nothing was done here"
    again = there("submit", model, "-q", "--no-wait")
    assert (again.returncode, again.stdout.strip()) == (0, found.id)
    assert "stored already" in again.stderr
    waited = there("wait", job, "-q", "-f", "json")
    assert (waited.returncode, json.loads(waited.stdout)) == (1, report)


def test_a_policy_of_the_command_line_is_taken_there(there, house, model, tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text("fail_on: low\n")
    for arguments, fail_on in (
        (("--fail-on", "critical"), "critical"),
        (("--fail-on", "medium"), "medium"),
        (("--policy", policy), "low"),
    ):
        done = there("submit", model, "-q", "--no-wait", *arguments)
        assert done.returncode == 0, done.stderr
        with house.services.database() as tx:
            inputs = tx.submissions.get(tx.jobs.get(done.stdout.strip()).submission_id).inputs
        assert json.loads(house.services.store.get_bytes(inputs["policy.json"]))["fail_on"] == fail_on


def test_a_flag_beside_what_the_team_keeps_is_taken_there(there, house, model, tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text("name: kept-here\nfail_on: low\n")
    with house.client(Role.REVIEWER) as reviewer:
        try:
            good(reviewer.put("/policies/default", json={"name": "default"}))
            good(reviewer.put("/policies/kept-here", json={"name": "kept-here", "fail_on": "low"}))
            for arguments in ((), ("--policy", policy)):
                done = there("submit", model, "-q", "--no-wait", "--fail-on", "medium", *arguments)
                assert done.returncode == 0, done.stderr
        finally:
            good(reviewer.delete("/policies/default"))


def test_a_refused_submission_says_the_same_as_here(there, model):
    (model.parent / "auditor.yaml").write_text(yaml.safe_dump({"model": {"name": "refused"}}))
    done = there("submit", model)
    assert (done.returncode, done.stdout) == (2, "")
    assert "2 problems" in done.stderr
    assert "the model is not a model" in done.stderr


def test_what_is_stored_there_is_shown_as_if_it_were_here(there, house):
    """Byte for byte what a command line on the server's own data prints."""
    local = CommandLine(house.settings.home)
    things = specimen(house, LOCAL_TEAM)
    job, report = things.ids["job_id"], things.ids["report_id"]
    for arguments in (
        ("status", job),
        ("status", job, "-f", "json"),
        ("report", report),
        ("report", job, "-f", "json"),
        ("report", report, "-f", "markdown"),
        ("report", things.ids["repair_id"]),
        ("status", "ffff0000"),
        ("cancel", job),
        ("wait", job, "-q"),
    ):
        mine, theirs = local(*arguments), there(*arguments)
        assert (mine.returncode, mine.stdout, mine.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr), (
            arguments
        )
    listed = there("list", "-n", "3", "-f", "json")
    assert listed.stdout == local("list", "-n", "3", "-f", "json").stdout
    assert len(json.loads(listed.stdout)) == 3


def test_a_repaired_model_comes_here(there, house, tmp_path):
    from auditor.client.client import Client

    things = specimen(house, LOCAL_TEAM)
    with Client(house.url, house.tokens[LOCAL_TEAM, Role.SUBMITTER]) as client:
        client.repaired_model(things.ids["repair_id"], tmp_path / "repaired")
    assert (tmp_path / "repaired").read_bytes() == b"repaired"


def test_serve_prints_a_token_that_makes_the_first_admin(tmp_path):
    server = CommandLine(tmp_path / "server")
    command = [AUDITOR, "serve", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=server.environment)  # noqa: S603
    try:
        lines = []
        while "Uvicorn running on" not in (line := process.stderr.readline()):
            assert line, "".join(lines)
            lines.append(line)
        url = line.split("running on ")[1].split()[0]
        token = next(text for text in "".join(lines).split() if text.startswith("aud_"))
        laptop = CommandLine(tmp_path / "laptop")
        done = laptop("login", url, "--bootstrap", stdin=f"{token}\nann\n{PASSWORD}\n")
        assert done.returncode == 0, done.stderr
        assert "ann (admin) of team local" in done.stderr
        assert laptop("list").returncode == 0
        requests = [json.loads(process.stderr.readline()) for _ in range(3)]
        assert {line["event"] for line in requests} == {"request"}
        assert {"path": "/api/v1/bootstrap", "method": "POST", "status": 201}.items() <= requests[0].items()
        again = CommandLine(tmp_path / "other")("login", url, "--bootstrap", stdin=f"{token}\neve\n{PASSWORD}\n")
        assert again.returncode == 4
    finally:
        process.terminate()
        process.stderr.close()
        process.wait(30)


def test_a_token_does_not_go_over_a_plain_connection(tmp_path):
    settings = Settings(home=tmp_path, server_url="http://audits.example", token="aud_x")  # noqa: S106
    with pytest.raises(InvalidInput, match="not encrypted"):
        credentials_of(settings)
    assert credentials_of(settings.model_copy(update={"server_url": "http://localhost:8000"})) is not None


def test_a_wait_that_runs_out_is_exit_code_5_and_the_job_goes_on(house, there):
    with house.client(Role.SUBMITTER) as client:
        job = house.audit(client, "slow-wait")
        done = there("wait", job, "--timeout", "1s")
        assert (done.returncode, done.stdout) == (5, ""), done.stderr
        assert "it goes on" in done.stderr
        assert job in done.stderr
        assert good(client.get(f"/jobs/{job}"))["state"] in ("queued", "running")
        good(client.post(f"/jobs/{job}/cancel"))
        assert house.wait(client, job)["state"] == "cancelled"
        assert there("cancel", job).stdout == f"{job}  cancelled\n"
