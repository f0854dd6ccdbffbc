"""A whole audit job without torch: handlers that take milliseconds and leave a valid report.

The runner process loads these by name, `auditor.testing.handlers:fast_handlers`, so tests can drive the real runner,
database and queue. What they should do beyond that is written in the submission's name, see `fast_handlers`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from auditor.contracts.access import Access
from auditor.contracts.base import digest_of_file
from auditor.contracts.estimate import PlanEstimate
from auditor.contracts.jobs import AttackReadiness, UnitSpec
from auditor.contracts.manifest import Manifest
from auditor.contracts.plan import AttackSpec, AuditPlan, PriorSpec
from auditor.contracts.policy import Verdict
from auditor.errors import Cancelled, InvalidInput, UnsupportedModel
from auditor.service.session import Handler, Session
from auditor.service.workspace import Workspace
from auditor.testing.reports import sample_report, sample_target

CLASSES = (0, 1, 2, 3, 4)
PLAN = AuditPlan(
    name="fast",
    attacks=(AttackSpec(name="ppa"), AttackSpec(name="mirror-b")),
    priors=(PriorSpec(name="vae"),),
    classes_per_unit=3,
)
"""Two attacks and one control on two chunks of classes."""
_GO = "go"
"""A file of the cache that those who wait look for."""
_PREPARED = (
    "prepared.json", "fit.npz", "heldout_used.npz", "evaluator.safetensors", "judge.safetensors",
    "prior-vae.safetensors",
)  # fmt: skip


def fast_handlers() -> dict[str, Handler]:
    """The table; a word in the model's name changes what happens.

    `refused`: the check refuses it. `broken-attack`: the first attack raises. `broken-prepare`, `broken-finish`: so do
    they. `killed`: the first attack's process is killed. `noisy`: handlers print. `slow`: the first attack waits
    until it is stopped, or `let_go`. `dawdling`: so does the check. `stubborn`: it waits with a child process,
    and cannot be asked to stop. `paired`: its two units wait for each other. `takes-500ms`: every attack does.
    """
    return {
        "check": _check,
        "probe": _probe,
        "prepare": _prepare,
        "attack": _attack,
        "fisher": _fisher,
        "finish": _finish,
    }


def checked_handlers() -> dict[str, Handler]:
    """The same, but the model is read and run before it is accepted, as any submission is."""
    from auditor.service.stages import check as stage  # this loads torch, which the others do without

    def check(unit: UnitSpec, workspace: Workspace, session: Session) -> dict[str, Any]:
        value = stage.run(unit, workspace, session.context())
        _made_up(workspace, str(unit.params["model"]))
        return value

    return fast_handlers() | {"check": check}


def let_go(home: Path) -> None:
    """Let every unit go on that waits in this installation, and those that would."""
    for cache in (home / "cache").iterdir():
        (cache / _GO).touch()


def hold(home: Path) -> None:
    """From now on they wait again."""
    for path in (home / "cache").glob(f"*/{_GO}"):
        path.unlink()


def _check(unit: UnitSpec, workspace: Workspace, session: Session) -> dict[str, Any]:
    manifest = Manifest.model_validate(unit.params["manifest"])
    if "refused" in manifest.model.name:
        raise InvalidInput(["the model is not a model", "the data is not data"])
    if "dawdling" in manifest.model.name:
        _wait(workspace, session)
    model = workspace.root / str(unit.params["model"])
    target = sample_target(name=manifest.model.name, digest=digest_of_file(model))
    workspace.output("target.json").write_text(target.model_dump_json())
    _made_up(workspace, manifest.model.name)
    session.tick("check", 1, 1)
    return {}


def _made_up(workspace: Workspace, name: str) -> None:
    """A plan, and data that nobody reads."""
    workspace.output("plan.json").write_text(PLAN.model_dump_json())
    for role in ("private", "heldout", "public"):
        workspace.output(f"{role}.npz").write_bytes(f"{role} images of {name}".encode())


def _probe(unit: UnitSpec, workspace: Workspace, session: Session) -> dict[str, Any]:
    """Everything fits into a second, and nothing into less."""
    budget_s = unit.params["budget_s"]
    if isinstance(budget_s, float | int) and budget_s < 1:
        raise InvalidInput("no attack fits into the budget")
    if unit.params["keep"]:
        _check(unit, workspace, session)
    return {"estimate": PlanEstimate(plan=PLAN).model_dump(mode="json")}


def _prepare(unit: UnitSpec, workspace: Workspace, session: Session) -> dict[str, Any]:
    _fail_if(workspace, "broken-prepare")
    for name in _PREPARED:
        workspace.output(name).write_bytes(name.encode() + workspace.input("private.npz").read_bytes())
    session.tick("prepare", 1, 1)
    rows = [
        AttackReadiness(key="ppa", runnable=True, prior="vae", access=Access.WHITE_BOX),
        AttackReadiness(key="mirror-b", runnable=True, prior="vae", access=Access.SCORE),
    ]
    return {"classes": list(CLASSES), "attacks": [row.model_dump(mode="json") for row in rows]}


def _attack(unit: UnitSpec, workspace: Workspace, session: Session) -> dict[str, Any]:
    if unit.key.startswith("attack/ppa/0"):
        _fail_if(workspace, "broken-attack")
        if "killed" in _model_name(workspace):
            os.kill(os.getpid(), signal.SIGKILL)
        if "slow" in _model_name(workspace):
            _wait(workspace, session)
        if "stubborn" in _model_name(workspace):
            _wait_deaf(workspace, session)
    if takes := re.search(r"takes-(\d+)ms", _model_name(workspace)):
        session.stopped.wait(int(takes[1]) / 1000)
    if "paired" in _model_name(workspace) and unit.key.startswith("attack/ppa/"):
        _meet(workspace, unit)
    if "noisy" in _model_name(workspace):
        print("this is not the protocol")  # noqa: T201 - that is the point
        os.write(1, b"nor is this\n")
        sys.stdout.flush()
    workspace.output("recon.npz").write_bytes(unit.key.encode())
    workspace.output("outcome.json").write_text("{}")
    session.tick("attack", 1, 1)
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return {"forward_queries": 10, "classes": unit.params["classes"], "gpu": gpu, "device": session.device}


def _fisher(unit: UnitSpec, workspace: Workspace, session: Session) -> dict[str, Any]:
    workspace.output("fisher.json").write_text("{}")
    return {}


def _finish(unit: UnitSpec, workspace: Workspace, session: Session) -> dict[str, Any]:
    _fail_if(workspace, "broken-finish")
    workspace.output("report.json").write_text(sample_report(Verdict.FAIL).model_dump_json())
    return {"attacks": unit.params["attacks"]}


def _model_name(workspace: Workspace) -> str:
    return Manifest.model_validate_json(workspace.input("manifest.json").read_bytes()).model.name


def _fail_if(workspace: Workspace, word: str) -> None:
    if word in _model_name(workspace):
        raise UnsupportedModel(f"this model is {word}")


def _meet(workspace: Workspace, unit: UnitSpec) -> None:
    (workspace.cache / f"met-{unit.params['chunk']}").write_text("")
    wait_for(lambda: all((workspace.cache / f"met-{chunk}").exists() for chunk in (0, 1)))


def _wait_deaf(workspace: Workspace, session: Session) -> None:
    """With a child, told by its process number in the progress; both go on whatever they are asked."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["/bin/sleep", "60"])
    session.tick(f"{os.getpid()} {child.pid}", 0, 1)
    wait_for(lambda: (workspace.cache / _GO).exists())


def _wait(workspace: Workspace, session: Session) -> None:
    wait_for(lambda: session.stopped.is_set() or (workspace.cache / _GO).exists())
    session.tick("attack", 0, 1)
    if session.stopped.is_set():
        raise Cancelled("the handler was asked to stop")


def wait_for(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    """Wait until `condition` holds; raises TimeoutError when it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the condition never held")
        time.sleep(0.02)
