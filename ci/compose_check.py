"""docker-compose.yml really started, on the CPU: is it closed, does it audit, does it survive what the docs promise?

    python ci/compose_check.py [--project auditor-check] [--keep]

Needs a Docker engine with compose 2, the images that the file names (`docker compose build` makes our own), this
project installed, and port 8000 free. Where something is missing it says what, and exits 0 with `skipped`. Everything
is made under a project name of its own, and removed afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml

ROOT = Path(__file__).resolve().parents[1]
URL, PASSWORD = "http://127.0.0.1:8000", "correct-horse-battery"
SERVERS, OURS = ("postgres", "redis", "store"), ("api", "worker-cpu")
OUTSIDE = "pypi.org"
"""What is tried from inside, if it can be reached from outside."""
MANIFEST: dict[str, Any] = {
    "version": 1,
    "model": {"name": "compose-check", "input": {"channels": 3, "height": 16, "width": 16}, "n_classes": 24},
    "data": {role: {"path": f"{role}.npz"} for role in ("private", "heldout", "public")},
    "plan": {
        "preset": "quick",
        "n_classes": 22,
        "samples_per_class": 1,
        "attacks": [
            {"name": "ppa", "params": {"pool": 200, "candidates": 1, "steps": 15, "transforms": 4}},
            {"name": "mirror-b", "params": {"pool": 200, "population": 8, "generations": 4}},
        ],
        "priors": [{"name": "vae", "params": {"latent_dim": 32, "width": 8, "steps": 60}}],
        "overrides": {
            "n_control_samples": 200,
            "n_bootstrap": 200,
            "evaluator": {"epochs": 3},
            "judge": {"epochs": 1, "embedding_dim": 16},
            "fisher": {"n_classes": 20, "images_per_class": 2, "exact_up_to": 1, "label_samples": 1},
        },
    },
}
"""Every stage, in a minute or two on two cores; the verdict is inconclusive, as so little must be."""
MAKE_FILES = """
import numpy as np
from pathlib import Path
from auditor.contracts.manifest import InputSpec
from auditor.demo.identities import private_and_public
from auditor.demo.target import train_demo_target
from auditor.loading.onnx_export import export_onnx
from auditor.tensors import RunContext
private, heldout, public = private_and_public(24, 40, 10, 8, 16, 0)
model = train_demo_target(private, (3, 16, 16), 24, RunContext())
export_onnx(model, InputSpec(channels=3, height=16, width=16), Path("model.onnx"), n_classes=24)
for name, images in (("private", private), ("heldout", heldout), ("public", public)):
    np.savez(f"{name}.npz", images=images.images, labels=images.labels)
"""
PROBE = """
import socket, sys
for address, port in (place.rsplit(":", 1) for place in sys.argv[1:]):
    try:
        socket.create_connection((address, int(port)), 3)
        print(f"{address}:{port}")
    except OSError:
        pass
"""
BEHIND_S3 = {"master": 9333, "volume": 8080, "filer": 8888, "Iceberg": 8181, "Lance": 9101}
"""What of SeaweedFS answers anybody, or is not used."""


class Failed(Exception):
    """A check that did not hold."""


class Compose:
    """One project: its environment and its commands."""

    def __init__(self, project: str, work: Path) -> None:
        self.docker = shutil.which("docker") or ""
        self.work = work
        names = ("POSTGRES", "REDIS", "S3")
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("AUDITOR_")}
        self.environment |= {f"AUDITOR_{name}_PASSWORD": secrets.token_hex(12) for name in names}
        self.environment |= {"COMPOSE_PROJECT_NAME": project, "COMPOSE_PROFILES": "cpu", "AUDITOR_WORK": str(work)}
        self.environment |= {"BACKUP": str(work / "backup"), "NO_COLOR": "1"}

    def __call__(self, *arguments: str, codes: Sequence[int] = (0,), stdin: str = "") -> str:
        """What `docker compose` prints on stdout."""
        return self.run([self.docker, "compose", *arguments], codes=codes, stdin=stdin)

    def run(self, command: Sequence[str], *, codes: Sequence[int] = (0,), stdin: str = "", **more: str) -> str:
        """What any command prints on stdout, with this project's environment."""
        done = subprocess.run(  # noqa: S603
            command, cwd=ROOT, env=self.environment | more, input=stdin, capture_output=True, text=True, check=False
        )
        if done.returncode not in codes:
            raise Failed(f"{' '.join(command[:6])} exited {done.returncode}: {done.stdout[-800:]}{done.stderr[-1500:]}")
        return done.stdout

    def auditor(self, home: str, *arguments: str, codes: Sequence[int] = (0,), stdin: str = "") -> str:
        """The command line of somebody outside, whose data folder this is."""
        command = [str(Path(sys.executable).with_name("auditor")), *arguments]
        return self.run(command, codes=codes, stdin=stdin, AUDITOR_HOME=str(self.work / home), PYTHONPATH=str(ROOT))

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine says about the container of a service."""
        row: dict[str, Any]
        (row,) = json.loads(self.run([self.docker, "inspect", self("ps", "-a", "-q", service).strip()]))
        return row

    def follow(self, title: str) -> None:
        """A recipe of docs/operations.md, word for word."""
        text = (ROOT / "docs" / "operations.md").read_text()
        (section,) = re.findall(rf"^### {title}\n(.*?)(?=^##|\Z)", text, flags=re.S | re.M)
        (block,) = re.findall(r"```sh\n(.*?)```", section, flags=re.S)
        self.run(["/bin/bash", "-euc", block])


def told(text: str) -> None:
    """A line about what was done."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {text}\n")
    sys.stdout.flush()


def hold(name: str, condition: object, shown: object = "") -> None:
    """Go on if this is so."""
    if not condition:
        raise Failed(f"{name}: {shown}")
    told(f"ok    {name}")


def wait_for(name: str, condition: Callable[[], object], seconds: float = 120) -> None:
    """Ask every second."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise Failed(f"{name}: not within {seconds:.0f} s")
        time.sleep(1)
    told(f"ok    {name}")


def obstacle(compose: Compose) -> str | None:
    """Why nothing can be checked on this machine."""
    if not compose.docker:
        return "no docker command"
    try:
        compose.run([compose.docker, "info"])
        images = compose("config", "--images").split()
    except Failed as error:
        return f"no Docker engine with compose 2: {error}"
    for image in images:
        try:
            compose.run([compose.docker, "image", "inspect", image])
        except Failed:
            return f"the image {image} is not on this machine"
    with socket.socket() as trial:
        return "port 8000 is taken" if trial.connect_ex(("127.0.0.1", 8000)) == 0 else None


def is_up(compose: Compose) -> bool:
    """Whether every service runs, and those with a health check are healthy."""
    states = [compose.inspect(service)["State"] for service in (*SERVERS, *OURS)]
    return all(
        state["Running"] and state.get("Health", {"Status": "healthy"})["Status"] == "healthy" for state in states
    )


def check_confinement(compose: Compose) -> None:
    """Users, rights, files, ports, networks: as the engine set them, and as a process inside finds them."""
    for service in (*SERVERS, *OURS):
        row = compose.inspect(service)
        host, ports = row["HostConfig"], {k: v for k, v in row["NetworkSettings"]["Ports"].items() if v}
        found = (host["ReadonlyRootfs"], host["CapDrop"], host["SecurityOpt"], host["Privileged"], host["CapAdd"])
        hold(
            f"{service}: read-only, no rights", found == (True, ["ALL"], ["no-new-privileges:true"], False, None), found
        )
        expected = {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}]} if service == "api" else {}
        hold(f"{service}: published ports", ports == expected, ports)
        status = compose(
            "exec", "-T", service, "sh", "-c", "id -u; cat /proc/1/status; touch /x && echo written", codes=(0, 1)
        )
        user, _, rest = status.partition("\n")
        facts = dict(re.findall(r"^(\w+):\s+(\S+)$", rest, flags=re.M))
        rights = {facts[name].strip("0") for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")}
        hold(
            f"{service}: not root, no capability", user != "0" and rights == {""} and facts["NoNewPrivs"] == "1", status
        )
        hold(f"{service}: its image cannot be written", "written" not in rest)
    networks = {
        network: compose.run([compose.docker, "network", "inspect", network]) for network in networks_of(compose)
    }
    internal = [network for network, text in networks.items() if json.loads(text)[0]["Internal"]]
    hold("only `front` is no internal network", sorted(networks) != internal and len(internal) == len(networks) - 1)
    layers = compose("exec", "-T", "worker-cpu", "auditor", "doctor")
    hold("the worker isolates its runners", "network yes, files yes" in layers, layers)


def networks_of(compose: Compose) -> list[str]:
    """Every network that a container of ours is in."""
    return sorted(
        {name for service in (*SERVERS, *OURS) for name in compose.inspect(service)["NetworkSettings"]["Networks"]}
    )


def check_nothing_reaches_out(compose: Compose) -> None:
    """A name and an address of the internet, from workers and the API."""
    try:
        address = socket.gethostbyname(OUTSIDE)
        socket.create_connection((address, 443), 5).close()
    except OSError:
        told(f"not checked: whether anything inside reaches {OUTSIDE}, since this machine does not either")
        return
    for service in OURS:
        reached = reached_from(compose, service, f"{OUTSIDE}:443", f"{address}:443")
        hold(f"{service}: the internet is out of reach", not reached, reached)


def reached_from(compose: Compose, service: str, *places: str) -> list[str]:
    """Which of these places, each `name:port`, a process inside can connect to."""
    return compose("exec", "-T", service, "python", "-c", PROBE, *places).split()


def check_the_store_wants_a_password(compose: Compose) -> None:
    """S3 is all that others find of it."""
    ports = [f"store:{port}" for port in (8333, *BEHIND_S3.values())]
    reached = reached_from(compose, "api", *ports)
    hold("the store: only S3 listens to others", reached == ["store:8333"], reached)
    asked = "import urllib.request as r; r.urlopen('http://store:8333/auditor')"
    refused = compose("exec", "-T", "api", "sh", "-c", f'python -c "{asked}" 2>&1', codes=(1,))
    hold("the store: S3 refuses who has no password", "403" in refused, refused)


def make_people(compose: Compose) -> None:
    """The first admin with the printed token; a team with an admin, a submitter, and the submitter's token."""
    printed = compose("logs", "--no-log-prefix", "api")
    hold("the printed command can be typed", f"auditor login {URL} --bootstrap" in printed, printed)
    token = re.findall(r"\baud_[\w-]+", printed)[-1]
    compose.auditor("operator", "login", URL, "--bootstrap", stdin=f"{token}\nann\n{PASSWORD}\n")
    in_session("local", "ann", "/teams", {"name": "lab", "admin": "lea", "password": PASSWORD})
    in_session("lab", "lea", "/users", {"name": "sam", "role": "submitter", "password": PASSWORD})
    made = in_session("lab", "sam", "/tokens", {"name": "laptop"})
    compose.auditor("laptop", "login", URL, stdin=f"{made['secret']}\n")
    told("ok    bootstrap, team, user and token")


def in_session(team: str, name: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request of somebody who signs in for it."""
    with httpx.Client(base_url=f"{URL}/api/v1", timeout=30) as web:
        me = web.post("/session", json={"team": team, "name": name, "password": PASSWORD}).raise_for_status().json()
        answer = web.post(path, json=body, headers={"X-CSRF-Token": me["csrf_token"]}).raise_for_status().json()
    return dict(answer)


def make_files(compose: Compose) -> None:
    """Model, images and manifest, made with the image."""
    compose("run", "--rm", "-T", "--entrypoint", "python", "auditor", "-c", MAKE_FILES)
    (compose.work / "auditor.yaml").write_text(yaml.safe_dump(MANIFEST))
    told("ok    a model and its images")


def audit_through_faults(compose: Compose) -> str:
    """Submit through the API; kill the worker and restart every server in the middle; the report."""
    model = str(compose.work / "model.onnx")
    job = compose.auditor("laptop", "submit", model, "--no-wait", "-q").strip()

    def units() -> dict[str, Any]:
        view = json.loads(compose.auditor("laptop", "status", job, "-f", "json"))
        return {unit["key"]: unit for unit in view["units"]}

    def is_running(attempt: int) -> bool:
        unit = units()["prepare"]
        return (unit["state"], unit["attempt"]) == ("running", attempt)

    wait_for("the worker has begun", lambda: is_running(1))
    compose("kill", "worker-cpu")
    compose("up", "-d", "worker-cpu")
    wait_for("a killed worker's unit is begun again", lambda: is_running(2), 180)
    compose("restart", "redis")
    compose("restart", "postgres")
    compose("restart", "store")
    told("ok    Redis, PostgreSQL and the store were restarted")
    compose.auditor("laptop", "wait", job, "-q", codes=(3,))
    attempts = {key: unit["attempt"] for key, unit in units().items()}
    hold("every unit was done, and only the killed one twice", sum(attempts.values()) == len(attempts) + 1, attempts)
    report = compose.auditor("laptop", "report", job, "-f", "json")
    hold("its report", json.loads(report)["target"]["name"] == "compose-check")
    return report


def audit_from_inside(compose: Compose) -> None:
    """`docker compose run --rm auditor submit`, as the head of the file says."""
    report = compose("run", "--rm", "-T", "auditor", "submit", "model.onnx", "-q", "-f", "json", codes=(3,))
    hold("an audit from inside", json.loads(report)["target"]["name"] == "compose-check")


def check_it_is_kept(compose: Compose, report: str) -> None:
    """Whether token and report are there, in the API and from inside."""
    wait_for("every service is healthy", lambda: is_up(compose))
    found = compose.auditor("laptop", "report", json.loads(report)["id"], "-f", "json")
    hold("token and report were kept", found == report)
    collected = compose("run", "--rm", "-T", "auditor", "gc", "--dry-run")
    told(f"ok    {collected.strip() or 'garbage was counted'}")


def check(compose: Compose) -> None:
    """Everything, in order."""
    compose("--profile", "gpu", "config", "-q")
    compose("up", "-d")
    wait_for("every service is healthy", lambda: is_up(compose))
    check_confinement(compose)
    check_nothing_reaches_out(compose)
    check_the_store_wants_a_password(compose)
    make_people(compose)
    make_files(compose)
    report = audit_through_faults(compose)
    audit_from_inside(compose)
    compose("down")
    compose("up", "-d")
    check_it_is_kept(compose, report)
    (compose.work / "backup").mkdir()
    compose.follow("Back up compose")
    told("ok    backed up")
    compose("down", "-v")
    compose.follow("Restore compose")
    check_it_is_kept(compose, report)


def main() -> int:
    """0: it holds, or cannot be checked here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", default="auditor-check", help="Compose project; its volumes are removed.")
    parser.add_argument("--keep", action="store_true", help="Leave everything running at the end.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="auditor-compose-", ignore_cleanup_errors=True) as folder:
        work = Path(folder)
        work.chmod(0o777)  # the image's user writes the model there
        compose = Compose(options.project, work)
        if reason := obstacle(compose):
            told(f"skipped: {reason}")
            return 0
        try:
            check(compose)
        except Failed as error:
            told(f"FAILED {error}")
            told(compose("logs", "--tail", "30"))
            return 1
        finally:
            if not options.keep:
                compose("down", "-v", "--timeout", "5", "--remove-orphans")
    told("everything held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
