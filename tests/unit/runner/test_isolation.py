"""What a runner process cannot do, tried in real ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from auditor.contracts.jobs import UnitSpec
from auditor.errors import RunnerFailure
from auditor.runner import isolation, seccomp
from auditor.runner.isolation import Layer, layers_here, require
from auditor.runner.memory import memory_here
from auditor.runner.process import ProcessRunner

CODE = f"{Path(__file__).parent}:{Path(isolation.__file__).parents[2]}"
LAYERS = {layer.name: layer for layer in layers_here(Path("/nowhere"), 1 << 40)}
needs_all = pytest.mark.skipif(
    not all(layer.active for layer in LAYERS.values()), reason=f"this machine lacks layers: {LAYERS}"
)


@pytest.fixture
def trespass(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", CODE)
    private = tmp_path / "home"
    (private / "place").mkdir(parents=True)
    (private / "auditor.db").write_text("secret")
    (private / "place" / "model").write_text("model")
    (private / "cache" / "other").mkdir(parents=True)
    (private / "cache" / "other" / "model").write_text("learned from their images")
    (tmp_path / "secret").write_text("of the installation")

    def call(isolation="required", kind="do_trespass", device="cpu", **changes):
        root = private / "scratch" / "unit"
        (root / "inputs").mkdir(parents=True)
        params = {"private": str(private), "elsewhere": str(tmp_path / "elsewhere"), "secret": str(tmp_path / "secret")}
        unit = UnitSpec(kind=kind, key="x", params=params, places=(str(private / "place"),), **changes)
        runner = ProcessRunner(
            handlers="runner_handlers:table",
            cache=private / "cache",
            device=device,
            memory_bytes=memory_here(),
            isolation=isolation,
            private=private,
            secret=tmp_path / "secret",
        )
        finished = runner.run(unit, root, team_id="ours", on_message=lambda _m: None, should_stop=lambda: False)
        return finished.value

    return call


@needs_all
@pytest.mark.parametrize("around", ["beside", "in the code's folder"])
def test_a_unit_reads_what_it_was_given_and_reaches_nothing_else(trespass, tmp_path, monkeypatch, around):
    if around == "in the code's folder":
        monkeypatch.setenv("PYTHONPATH", f"{CODE}:{tmp_path}")
    came = trespass()
    allowed = {"own file", "cache", "own place", "library", "pair of sockets", "device", "signal to itself"}
    assert {key for key, outcome in came.items() if outcome == "done"} == allowed
    assert {came[key] for key in ("database", "secret", "write elsewhere", "shared memory")} == {"EACCES"}
    assert {came[key] for key in ("another team's cache", "what another team cached")} == {"EACCES"}
    refused = {"socket", "socket of another thread", "local connection", "trace", "database by a child"}
    refused |= {"rights of a file", "owner of a file", "datagram", "signal to the parent"}
    refused |= {"program", "program in its place", "copy of itself", "copy, asked otherwise", "leaving its group"}
    assert {came[key] for key in refused} == {"EPERM"}
    assert (int(came["capabilities"], 16), came["core dump"]) == (0, 0)


@needs_all
def test_code_in_the_very_folder_that_should_be_hidden_is_told(trespass, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{CODE}:{tmp_path / 'home'}")
    with pytest.raises(RunnerFailure, match=r"files \(.*/home cannot be hidden: code"):
        trespass()


@needs_all
def test_a_unit_that_compiles_starts_programs_which_reach_no_more_than_it_does(trespass):
    came = trespass(starts_processes=True)
    assert came["program"] == came["copy of itself"] == came["copy, asked otherwise"] == "done"
    assert (came["program in its place"], came["database by a child"]) == ("ENOENT", "exit 1")
    assert came["socket"] == came["leaving its group"] == "EPERM"


@needs_all
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_what_is_left_is_enough_to_compute(trespass, device):
    assert trespass("required", "do_gradients", device) == {"device": device, "finite": True}


@needs_all
def test_what_fetches_keeps_network_and_files(trespass):
    came = trespass(needs_network=True)
    assert came["socket"] == came["database"] == "done"
    assert came["core dump"] == 0


def test_it_can_be_switched_off(trespass):
    came = trespass("off")
    assert came["socket"] == came["database"] == came["write elsewhere"] == "done"


@needs_all
@pytest.mark.skipif(os.getuid() != 0, reason="needs the right to become another user")
def test_it_works_without_any_privilege():
    code = (
        "import os, pathlib\n"
        "from auditor.runner.isolation import isolate\n"
        "os.setgroups([]), os.setgid(65534), os.setuid(65534)\n"
        "layers = isolate(readable=[], writable=[], hidden=[pathlib.Path('/root')], memory_bytes=1 << 40)\n"
        "assert all(layer.active for layer in layers), layers\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603


@pytest.mark.skipif(os.getuid() != 0, reason="needs the right to become another user")
def test_where_less_memory_is_allowed_already_that_is_the_limit():
    code = (
        "import os, resource\n"
        "from auditor.runner.isolation import limit\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (5 << 30, 5 << 30))\n"
        "os.setgroups([]), os.setgid(65534), os.setuid(65534)\n"
        "limit(8 << 30)\n"
        "assert resource.getrlimit(resource.RLIMIT_DATA) == (5 << 30, 5 << 30)\n"
        "limit(4 << 30)\n"
        "assert resource.getrlimit(resource.RLIMIT_DATA) == (4 << 30, 4 << 30)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603


def test_a_machine_that_lacks_a_layer_is_told_apart(monkeypatch):
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match="not known for riscv64"):
        seccomp.this_machine()
    layers = (Layer("network", False, "not known for riscv64"), Layer("files", True), Layer("limits", False))
    with pytest.raises(RunnerFailure, match=r"network \(not known for riscv64\)$") as caught:
        require(layers)
    assert "AUDITOR_ISOLATION=auto" in caught.value.remedy
    require(layers[1:])


def test_everything_around_a_hidden_folder_is_shown(tmp_path):
    for name in ("a/hidden/deep", "a/shown", "b"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "a" / "hidden")
    shown = set(isolation._around(tmp_path, {tmp_path / "a" / "hidden"}))
    assert shown == {tmp_path / "a" / "shown", tmp_path / "b", tmp_path / "file"}
