"""A ladder whose order is known: random weights <= heavily regularised <= repaired <= normal <= overfitted."""

import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
import yaml

from auditor.contracts.manifest import InputSpec
from auditor.contracts.repair import RepairReport
from auditor.contracts.report import AuditReport
from auditor.demo.identities import private_and_public
from auditor.loading.onnx_export import export_onnx
from auditor.targets.architectures import build_architecture
from auditor.tensors import RunContext
from auditor.training import TrainConfig, fit_classifier

LADDER = ("random", "regularised", "repaired", "normal", "overfitted")
pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SIZE, N_PRIVATE, N_PUBLIC = 32, 30, 150
ONE_CLASS = 1 / N_PRIVATE
"""What rounding on another machine may move a rate by: the pictures of one class."""
TRAINING = {
    "random": None,
    "regularised": TrainConfig(epochs=8, lr=4e-3, weight_decay=4.0),
    "normal": TrainConfig(epochs=15, lr=4e-3),
    "overfitted": TrainConfig(epochs=40, lr=4e-3, augment=False, weight_decay=0.0),
}
PLAN = {
    "preset": "quick",
    "n_classes": N_PRIVATE,
    "samples_per_class": 3,
    "attacks": [{"name": "ppa", "params": {"pool": 1000, "candidates": 1, "steps": 40, "transforms": 8}}],
    "priors": [{"name": "vae", "params": {"latent_dim": 256, "steps": 0}}],
    "overrides": {
        "n_control_samples": 500,
        "n_bootstrap": 500,
        "evaluator": {"epochs": 10},
        "judge": {"epochs": 2, "embedding_dim": 64},
        "fisher": {"enabled": False},
    },
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with the images, and the private ones."""
    folder = tmp_path_factory.mktemp("ladder")
    private, heldout, public = private_and_public(N_PRIVATE, N_PUBLIC, 20, 10, SIZE, 0)
    for name, images in (("private", private), ("heldout", heldout), ("public", public)):
        np.savez(folder / f"{name}.npz", images=images.images, labels=images.labels)
    return folder, private


def audit(house, folder, private, rung):
    """Train one rung and audit it; its report."""
    shape, config = (3, SIZE, SIZE), TRAINING[rung]
    torch.manual_seed(0)
    network = build_architecture("small-cnn", n_classes=N_PRIVATE, channels=3)
    if config is not None:
        fit_classifier(network, private.batch(shape), None, config, RunContext(), stage="rung")
    where = folder / rung
    where.mkdir()
    spec = InputSpec(channels=3, height=SIZE, width=SIZE)
    export_onnx(network.eval(), spec, where / "model.onnx", n_classes=N_PRIVATE)
    for name in ("private", "heldout", "public"):
        shutil.copy(folder / f"{name}.npz", where)
    manifest = {
        "version": 1,
        "model": {"name": rung, "architecture": "small-cnn", "input": spec.model_dump(mode="json")},
        "data": {role: {"path": f"{role}.npz"} for role in ("private", "heldout", "public")},
        "plan": PLAN,
        "repair": {"params": {"epochs": 8, "lr": 4e-3, "pretrain_epochs": 6}, "max_accuracy_loss": 1.0},
    }
    (where / "auditor.yaml").write_text(yaml.safe_dump(manifest))
    result = house("submit", where / "model.onnx", "-f", "json", "-q")
    assert result.out, result.err
    return AuditReport.model_validate_json(result.out)


@pytest.fixture(scope="module")
def ladder(house, data):
    """PPA's both-agree rate by rung, from the reports of the product itself."""
    folder, private = data
    reports = {rung: audit(house, folder, private, rung) for rung in TRAINING}
    result = house("remediate", reports["normal"].id, "--boundary", 5, "-f", "json", "-q")
    repair = RepairReport.model_validate_json(result.out)
    assert repair.after_report_id is not None, repair.notes
    after = house("report", repair.after_report_id, "-f", "json")
    reports["repaired"] = AuditReport.model_validate_json(after.out)
    assert {report.evaluator.digest for report in reports.values()} == {reports["random"].evaluator.digest}
    return {rung: report.attacks[0].score("both_agree") for rung, report in reports.items()}


@pytest.mark.parametrize(("lower", "higher"), pairwise(LADDER))
def test_each_rung_is_at_most_the_next(ladder, lower, higher):
    assert ladder[lower].value <= ladder[higher].value + ONE_CLASS


def test_the_ends_are_far_apart(ladder):
    assert ladder["random"].high < ladder["regularised"].low
    assert ladder["regularised"].value < ladder["overfitted"].value - 2 * ONE_CLASS
