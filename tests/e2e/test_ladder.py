"""A ladder whose order is known: random weights <= heavily regularised <= repaired <= normal <= overfitted."""

import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
import yaml

from auditor.contracts.manifest import InputSpec
from auditor.contracts.report import AuditReport
from auditor.demo.identities import private_and_public
from auditor.fisher.units import execution_units
from auditor.loading.onnx_export import export_onnx
from auditor.targets.architectures import build_architecture
from auditor.tensors import RunContext
from auditor.training import TrainConfig, fit_classifier
from remediation.defenses.base import RepairData
from remediation.defenses.catalog import DEFENSES
from remediation.heads import replace_head
from remediation.preparation import validation_split

LADDER = ("random", "regularised", "repaired", "normal", "overfitted")
pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SIZE, N_PRIVATE, N_PUBLIC = 32, 30, 150
SHAPE = (3, SIZE, SIZE)
ONE_CLASS = 1 / N_PRIVATE
"""What rounding on another machine may move a rate by: the pictures of one class."""
TRAINING = {
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
    """A folder with the images, the private ones, the held-out ones and the public ones."""
    folder = tmp_path_factory.mktemp("ladder")
    private, heldout, public = private_and_public(N_PRIVATE, N_PUBLIC, 20, 10, SIZE, 0)
    for name, images in (("private", private), ("heldout", heldout), ("public", public)):
        np.savez(folder / f"{name}.npz", images=images.images, labels=images.labels)
    return folder, private, heldout, public


def fresh(n_classes=N_PRIVATE):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_architecture("small-cnn", n_classes=n_classes, channels=3)


def trained(private, rung):
    network = fresh()
    fit_classifier(network, private.batch(SHAPE), None, TRAINING[rung], RunContext(), stage="rung")
    return network


def repaired(private, heldout, public):
    """TL-DMI over weights that know the public people, five units of them frozen."""
    network, ctx = fresh(N_PUBLIC), RunContext()
    fit_classifier(network, public.batch(SHAPE), None, TrainConfig(epochs=6, lr=4e-3), ctx, stage="public")
    replace_head(network, "head", N_PRIVATE, ctx.rng("head"))
    units = execution_units(network, torch.zeros(1, *SHAPE))
    fit, validation = validation_split(private, 0.15, 0)
    images = (s.batch(SHAPE) for s in (fit, validation, heldout, public))
    defense = DEFENSES.build("tl-dmi", {"epochs": 8, "lr": 4e-3})
    done = defense.fit(network, units, "head", 5, RepairData(*images, flip=True), ctx, prepare=lambda images: images)
    assert done.freeze.digest_before == done.freeze.digest_after
    return done.module


def audit(house, folder, network, rung):
    """The report of one rung."""
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
    }
    (where / "auditor.yaml").write_text(yaml.safe_dump(manifest))
    result = house("submit", where / "model.onnx", "-f", "json", "-q")
    assert result.out, result.err
    return AuditReport.model_validate_json(result.out)


@pytest.fixture(scope="module")
def ladder(house, data):
    """PPA's both-agree rate by rung, from the reports of the product itself."""
    folder, private, *others = data
    networks = {"random": fresh(), "repaired": repaired(private, *others)}
    networks |= {rung: trained(private, rung) for rung in TRAINING}
    reports = {rung: audit(house, folder, network, rung) for rung, network in networks.items()}
    assert {report.evaluator.digest for report in reports.values()} == {reports["random"].evaluator.digest}
    return {rung: report.attacks[0].score("both_agree") for rung, report in reports.items()}


@pytest.mark.parametrize(("lower", "higher"), pairwise(LADDER))
def test_each_rung_is_at_most_the_next(ladder, lower, higher):
    assert ladder[lower].value <= ladder[higher].value + ONE_CLASS


def test_the_ends_are_far_apart(ladder):
    assert ladder["random"].high < ladder["regularised"].low
    assert ladder["regularised"].value < ladder["overfitted"].value - 2 * ONE_CLASS
