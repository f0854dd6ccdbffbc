"""The probe on a real, tiny submission, and its measuring parts against answers known by hand."""

import numpy as np
import pytest
import torch

from auditor.contracts.base import canonical_json
from auditor.contracts.estimate import PlanEstimate
from auditor.contracts.jobs import UnitSpec
from auditor.contracts.manifest import InputSpec, Manifest
from auditor.contracts.plan import AuditPlan
from auditor.contracts.policy import Policy
from auditor.data.image_set import ImageSet
from auditor.errors import InvalidInput
from auditor.loading.onnx_export import export_onnx
from auditor.service.stages import probe, rates
from auditor.service.workspace import Workspace
from auditor.targets.architectures import build_architecture
from auditor.tensors import RunContext

SIZE, K = 16, 4
CPU = torch.device("cpu")
MANIFEST = {
    "model": {
        "name": "m",
        "input": InputSpec(channels=1, height=SIZE, width=SIZE).model_dump(mode="json"),
        "n_classes": K,
    },
    "data": {"private": {"path": "private.npz"}, "public": {"path": "public.npz"}},
    "plan": {
        "attacks": [
            {"name": "ppa", "params": {"pool": 20, "steps": 4}},
            {"name": "ppa", "label": "averaged", "params": {"pool": 20, "steps": 4, "averaged": 2}},
            {"name": "mirror-b", "params": {"pool": 30, "population": 4, "generations": 2}},
        ],
        "priors": [{"name": "vae", "params": {"latent_dim": 8, "width": 4, "steps": 20}}],
        "n_classes": 3,
        "samples_per_class": 2,
        "overrides": {"evaluator": {"epochs": 2}, "judge": {"epochs": 2, "embedding_dim": 8}, "batch_size": 16},
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("probe")
    torch.manual_seed(0)
    network = build_architecture("small-cnn", n_classes=K, channels=1).eval()
    export_onnx(network, InputSpec(channels=1, height=SIZE, width=SIZE), where / "model.onnx", n_classes=K)
    rng = np.random.default_rng(0)
    for role, n_classes in (("private", K), ("public", 8)):
        labels = np.repeat(np.arange(n_classes), 6)
        pixels = rng.integers(0, 256, (len(labels), SIZE, SIZE, 1), dtype=np.uint8)
        np.savez(where / f"{role}.npz", images=pixels, labels=labels)
    return where


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(rates, "PASS_S", 0.01)
    monkeypatch.setattr(rates, "TRAINING_S", 0.01)


def run(folder, tmp_path, **params):
    manifest = Manifest.model_validate(MANIFEST)
    workspace = Workspace(tmp_path / "ws", tmp_path / "cache")
    inputs = workspace.root / "inputs"
    inputs.mkdir(parents=True)
    (inputs / "manifest.json").write_text(canonical_json(manifest))
    (inputs / "policy.json").write_text(canonical_json(Policy()))
    given = {"model": str(folder / "model.onnx"), "base": str(folder), "manifest": manifest.model_dump(mode="json")}
    unit = UnitSpec(kind="probe", key="probe", params=given | {"budget_s": None, "keep": False} | params)
    value = probe.run(unit, workspace, RunContext())
    return PlanEstimate.model_validate(value["estimate"]), workspace


@pytest.mark.usefixtures("short")
def test_a_dry_run_measures_everything_and_leaves_nothing(folder, tmp_path):
    found, workspace = run(folder, tmp_path)
    assert not (workspace.root / "outputs").exists()
    assert not workspace.cache.exists()
    measured = found.rates
    assert measured.forward.image_s > 0
    assert measured.gradient.image_s > 0
    assert measured.priors["vae"].training.seconds > 0
    assert measured.priors["vae"].refine_steps == 20
    assert measured.evaluator.seconds > 0
    assert measured.judge.seconds > 0
    assert measured.n_images == {"private": 24, "public": 48}
    assert measured.unit_s > 0
    assert [row.key for row in found.attacks] == ["ppa", "averaged", "mirror-b", "control/vae"]
    assert all(row.runnable and row.seconds > 0 and row.memory_bytes > 0 for row in found.attacks)
    assert found.n_attacked == 3
    assert found.plan.left_out == ()


@pytest.mark.usefixtures("short")
def test_a_budget_cuts_the_plan_that_is_left(folder, tmp_path, monkeypatch):
    measure, measured = probe._measure, []

    def measure_once(*arguments):
        measured.append(measured[0] if measured else measure(*arguments))
        return measured[0]

    monkeypatch.setattr(probe, "_measure", measure_once)
    whole, _ = run(folder, tmp_path / "whole")
    budget_s = whole.seconds - 0.5 * min(row.seconds for row in whole.attacks)
    found, workspace = run(folder, tmp_path / "cut", budget_s=budget_s, keep=True)
    assert found.seconds <= found.budget_s == budget_s
    assert found.plan.left_out
    stored = AuditPlan.model_validate_json(workspace.output("plan.json").read_text())
    assert stored == found.plan
    assert workspace.output("private.npz").exists()
    assert {spec.key for spec in stored.attacks} == {row.key for row in found.attacks if not row.is_control}


@pytest.mark.usefixtures("short")
def test_a_budget_for_nothing_is_refused(folder, tmp_path):
    with pytest.raises(InvalidInput, match="no attack fits"):
        run(folder, tmp_path, budget_s=0.001)


def test_peak_memory_of_known_tensors():
    """Two tensors of 4 MB live at once, then one of them dies before a third is made."""

    def work():
        first = torch.zeros(10**6)
        second = first + 1
        del first
        return second * 2

    assert rates.peak_bytes(work, CPU) == 2 * 4 * 10**6


def test_a_graph_keeps_its_inputs():
    weight = torch.ones(1000, requires_grad=True)

    def forward_only():
        with torch.no_grad():
            return weight.exp().exp().exp()

    assert rates.peak_bytes(lambda: weight.exp().exp().exp(), CPU) > rates.peak_bytes(forward_only, CPU)


class Clock:
    """Time that passes only when told; every reading of `time` in the measuring module comes from here."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(rates.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(rates.time, "perf_counter", lambda: self.now)


def test_a_training_is_carried_on_at_its_pace(monkeypatch):
    """100 steps of a second after a start of 5 and a first step of 3."""
    clock, seen = Clock(monkeypatch), []

    def train(ctx):
        clock.now += 5
        for step in range(100):
            clock.now += 3 if step == 0 else 1
            seen.append(step)
            ctx.tick("train", step + 1, 100)

    found = rates.time_training(train, RunContext())
    assert len(seen) == 3
    assert found.seconds == pytest.approx(5 + 3 + 99)
    assert found.extrapolated


def test_a_short_training_is_measured_whole(monkeypatch):
    clock = Clock(monkeypatch)

    def train(ctx):
        clock.now += 1.5
        ctx.tick("train", 1, 1)

    found = rates.time_training(train, RunContext())
    assert found.seconds == 1.5
    assert not found.extrapolated


def test_passes_of_two_sizes_give_call_and_image_time(monkeypatch):
    clock = Clock(monkeypatch)

    def run(n):
        clock.now += 0.01 + 0.001 * n

    found = rates.time_pass(run, RunContext())
    assert found.call_s == pytest.approx(0.01)
    assert found.image_s == pytest.approx(0.001)


def test_the_few_images_of_a_labelled_set_hold_two_of_many_classes():
    labels = np.repeat(np.arange(200), 5)
    few = rates._few(ImageSet("s", np.zeros((1000, 2, 2, 1), np.uint8), labels, ()))
    assert len(few) == 256
    counts = np.bincount(few.labels)
    assert len(counts) >= 128
    assert set(counts[:128]) == {2}
