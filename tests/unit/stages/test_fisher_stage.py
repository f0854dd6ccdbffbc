"""The Fisher unit on files: which attacks it follows, what it refuses, and that a stopped one goes on."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from auditor.contracts.cards import OverlapCheck
from auditor.contracts.fisher import FisherReport
from auditor.contracts.jobs import UnitSpec
from auditor.contracts.manifest import InputSpec, ModelSpec
from auditor.contracts.plan import AttackSpec, AuditPlan, FisherSpec, PriorSpec
from auditor.contracts.prepared import PreparedAudit
from auditor.contracts.scores import NotMeasured
from auditor.data.bundles import save_bundle
from auditor.data.image_set import ImageSet
from auditor.errors import Cancelled, UnsupportedModel
from auditor.loading.inspection import inspect_model
from auditor.service.stages.attack import save_reconstructions
from auditor.service.stages.fisher import run
from auditor.service.workspace import Workspace
from auditor.targets.architectures import build_architecture
from auditor.tensors import Reconstructions, RunContext, Snapshot

PLAN = AuditPlan(
    name="t",
    attacks=(AttackSpec(name="ppa"), AttackSpec(name="pixel-tv")),
    priors=(PriorSpec(name="vae"), PriorSpec(name="pixels")),
    n_bootstrap=200,
    fisher=FisherSpec(n_classes=3, images_per_class=2, exact_up_to=1, label_samples=1, trajectory=(0.0, 1.0)),
)


def reconstructions(classes, seed, *, points=2):
    n = 2 * len(classes)
    generator = torch.Generator().manual_seed(seed)
    pictures = [torch.rand(n, 1, 16, 16, generator=generator) for _ in range(points)]
    flat = torch.zeros(n)
    labels = torch.tensor(classes).repeat_interleave(2)
    snapshots = tuple(Snapshot(index / max(points - 1, 1), images) for index, images in enumerate(pictures))
    images = pictures[-1] if pictures else torch.zeros(n, 1, 16, 16)
    return Reconstructions(images, labels, torch.tensor([0, 1] * len(classes)), flat, flat, snapshots)


@pytest.fixture
def inputs(tmp_path):
    """What the pipeline gives the unit: two attacks, the first in two chunks of classes."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    torch.manual_seed(0)
    module = build_architecture("small-cnn", n_classes=4, channels=1)
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, folder / "model")
    spec = InputSpec(channels=1, height=16, width=16)
    card = inspect_model(folder / "model", ModelSpec(name="m", architecture="small-cnn", input=spec, n_classes=4))
    absent = NotMeasured(metric="x", reason="not needed here")
    prepared = PreparedAudit(
        classes=(0, 1, 2, 3), class_names=tuple("abcd"), attacks=(), data=(), overlap=OverlapCheck(checked=False),
        evaluator=absent, judge=absent, priors=(),
    )  # fmt: skip
    for name, value in (("target.json", card), ("prepared.json", prepared), ("plan.json", PLAN)):
        (folder / name).write_text(value.model_dump_json())
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 1), dtype=np.uint8)
    save_bundle(ImageSet("fit", pixels, np.arange(16) % 4), folder / "fit.npz")
    np.savez(folder / "placebo.npz", images=np.random.default_rng(1).integers(0, 256, (9, 1, 16, 16), dtype=np.uint8))
    for name, classes, seed in (("0-0", (0, 1), 1), ("0-1", (2, 3), 2), ("1-0", (0, 1, 2, 3), 3)):
        made = reconstructions(classes, seed)
        save_reconstructions(made, folder / f"attack-{name}.recon.npz", torch.arange(len(made.labels)))
    return folder


def unit(*rows):
    ppa = {
        "attack": "ppa",
        "prior": "vae",
        "prior_free": False,
        "files": ["attack-0-0.recon.npz", "attack-0-1.recon.npz"],
    }
    tv = {"attack": "pixel-tv", "prior": "pixels", "prior_free": True, "files": ["attack-1-0.recon.npz"]}
    params = {"trajectories": [ppa, tv] if not rows else list(rows)}
    return UnitSpec(kind="fisher", key="fisher", params=params, inputs={"model": "a digest"})


def stored(tmp_path):
    return FisherReport.model_validate_json((tmp_path / "outputs" / "fisher.json").read_bytes())


def test_both_attacks_are_followed_with_the_same_few_classes(tmp_path, inputs):
    value = run(unit(), Workspace(tmp_path, tmp_path / "cache"), RunContext())
    report = stored(tmp_path)
    assert value == {"verdict": report.verdict}
    assert [(row.attack, row.prior, row.prior_free) for row in report.followed] == [
        ("ppa", "vae", False),
        ("pixel-tv", "pixels", True),
    ]
    assert [(row.n_classes, row.n_images, row.fracs) for row in report.followed] == [(3, 6, (0.0, 1.0))] * 2
    assert report.n_classes == 3
    assert report.n_images == 6


def test_a_stopped_unit_goes_on_and_a_finished_one_is_not_made_again(tmp_path, inputs):
    """What was scored lies in the shared cache: the process that goes on has another scratch folder."""
    again, seen = tmp_path / "again", []
    again.mkdir()
    (again / "inputs").symlink_to(inputs)
    ctx = RunContext(on_tick=lambda stage, *_: seen.append(stage), is_cancelled=lambda: len(seen) == 3)
    with pytest.raises(Cancelled):
        run(unit(), Workspace(tmp_path, tmp_path / "cache"), ctx)
    stages = list(seen)
    assert not (tmp_path / "outputs" / "fisher.json").exists()
    run(unit(), Workspace(again, tmp_path / "cache"), ctx)
    assert set(stages[:2]) & set(seen[len(stages) :]) == set()
    n_ticks = len(seen)
    run(unit(), Workspace(tmp_path, tmp_path / "cache"), ctx)
    assert len(seen) == n_ticks
    whole = Workspace(tmp_path, tmp_path / "other")
    resumed = stored(tmp_path)
    run(unit(), whole, RunContext())
    assert stored(tmp_path) == resumed


def test_without_any_snapshot_there_is_nothing_to_score(tmp_path, inputs):
    empty = reconstructions((0, 1), 4, points=0)
    save_reconstructions(empty, inputs / "attack-2-0.recon.npz", torch.arange(4))
    row = {"attack": "gmi", "prior": "dcgan", "prior_free": False, "files": ["attack-2-0.recon.npz"]}
    with pytest.raises(UnsupportedModel, match="trajectory"):
        run(unit(row), Workspace(tmp_path, tmp_path / "cache"), RunContext())
