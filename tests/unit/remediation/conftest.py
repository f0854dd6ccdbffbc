"""A tiny submission of every format, and a workspace as the runner gives it."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from auditor.contracts.manifest import InputSpec, Manifest, ModelSpec, RepairBudget
from auditor.data.bundles import save_bundle
from auditor.data.image_set import ImageSet
from auditor.fisher.units import execution_units
from auditor.loading.inspection import inspect_model
from auditor.loading.onnx_export import export_onnx
from auditor.loading.target_loading import load_target
from auditor.service.workspace import Workspace
from auditor.targets.architectures import build_architecture
from auditor.targets.preprocess import Preprocess
from auditor.tensors import ImageBatch, RunContext
from auditor.training import TrainConfig, fit_classifier
from remediation.defenses.base import RepairData
from remediation.defenses.catalog import DEFENSES
from remediation.heads import find_head
from remediation.model_source import pick_source

SIZE, CHANNELS, N_CLASSES = 16, 1, 4
INPUT = InputSpec(channels=CHANNELS, height=SIZE, width=SIZE, mean=(0.4,), std=(0.3,))
ARCHITECTURE = "small-cnn"


def patterns(n_classes, per_class, *, seed, first=0):
    """Gratings of one direction and frequency per class, with noise: easy to tell apart, no two images alike."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    images, labels = [], []
    for label in range(n_classes):
        angle, frequency = 0.7 * (label + first), 2 + (label + first) % 3
        for _ in range(per_class):
            phase = generator.uniform(0, 0.5)
            wave = np.sin(2 * np.pi * (frequency * (x * np.cos(angle) + y * np.sin(angle)) + phase))
            images.append(np.clip(127 + 90 * wave + generator.normal(0, 12, (SIZE, SIZE)), 0, 255))
            labels.append(label)
    order = generator.permutation(len(labels))
    return np.array(images, dtype=np.uint8)[order][..., None], np.array(labels, dtype=np.int64)[order]


def image_set(name, n_classes, per_class, *, seed, first=0):
    images, labels = patterns(n_classes, per_class, seed=seed, first=first)
    return ImageSet(name, images, labels, tuple(f"class {k}" for k in range(n_classes)))


@pytest.fixture(scope="session")
def data():
    return {
        "fit.npz": image_set("private-fit", N_CLASSES, 24, seed=0),
        "heldout.npz": image_set("private-heldout", N_CLASSES, 10, seed=1),
        "public.npz": image_set("public", 5, 20, seed=2, first=10),
    }


@pytest.fixture(scope="session")
def submitted(data):
    """A small network trained on the private images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build_architecture(ARCHITECTURE, n_classes=N_CLASSES, channels=CHANNELS)
    batch = data["fit.npz"].batch((CHANNELS, SIZE, SIZE))
    config = TrainConfig(epochs=10, batch_size=16, augment=False)
    fit_classifier(module, batch, None, config, RunContext(), stage="submitted", prepare=Preprocess(INPUT))
    return module


PARAMS = {"epochs": 10, "pretrain_epochs": 6, "batch_size": 16, "pretrain_batch_size": 16, "augment": False}


class Submission:
    """A model file and what the runner would put beside it."""

    def __init__(self, root, kind, module, data, defense="tl-dmi", **params):
        self.root, self.data = root, data
        inputs = root / "inputs"
        inputs.mkdir(parents=True)
        if kind.startswith("onnx"):
            export_onnx(module, INPUT, inputs / "model", n_classes=N_CLASSES)
        elif kind == "safetensors":
            save_file({k: v.contiguous() for k, v in module.state_dict().items()}, inputs / "model")
        else:
            torch.save(module.state_dict(), inputs / "model")
        named = ARCHITECTURE if kind != "onnx" else None
        self.manifest = Manifest(
            model=ModelSpec(name="m", architecture=named, input=INPUT, n_classes=N_CLASSES),
            repair=RepairBudget(defense=defense, params=PARAMS | params),
        )
        self.card = inspect_model(inputs / "model", self.manifest.model)
        (inputs / "target.json").write_text(self.card.model_dump_json())
        (inputs / "manifest.json").write_text(self.manifest.model_dump_json())
        for name, images in data.items():
            save_bundle(images, inputs / name)

    def workspace(self, unit="start", take=None):
        """A unit's workspace: the submission's files, and the outputs of an earlier unit."""
        root = self.root / unit
        (root / "inputs").mkdir(parents=True)
        for folder in [self.root / "inputs"] + ([take.root / "outputs"] if take else []):
            for path in folder.iterdir():
                (root / "inputs" / path.name).unlink(missing_ok=True)
                (root / "inputs" / path.name).symlink_to(path)
        return Workspace(root, self.root / "cache")


@pytest.fixture
def make_submission(tmp_path, submitted, data):
    def make(kind="safetensors", *, without=(), module: nn.Module | None = None, **params):
        kept = {name: images for name, images in data.items() if name not in without}
        return Submission(tmp_path / kind, kind, module or submitted, kept, **params)

    return make


class Bench:
    """A network of three classes told apart by brightness, and one defense run on it without any file."""

    PARAMS = {"epochs": 2, "batch_size": 8, "augment": False}

    def __init__(self, architecture="small-cnn"):
        self.data = self.brightness()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.module = build_architecture(architecture, n_classes=3, channels=1)

    @staticmethod
    def brightness():
        generator = torch.Generator().manual_seed(0)

        def batch(n):
            labels = torch.arange(n) % 3
            noise = torch.rand(n, 1, SIZE, SIZE, generator=generator)
            return ImageBatch((noise + labels.view(-1, 1, 1, 1)) / 3, labels)

        return RepairData(batch(24), batch(9), batch(9), ImageBatch(batch(16).images), flip=False)

    @property
    def units(self):
        return execution_units(self.module, torch.zeros(1, 1, SIZE, SIZE))

    @property
    def head(self):
        return find_head(self.module, self.units, 3)

    def fit(self, name, *, boundary=0, seed=0, **params):
        """Trains `self.module` in place."""
        defense = DEFENSES.build(name, self.PARAMS | params)
        return defense.fit(
            self.module,
            self.units,
            self.head,
            boundary,
            self.data,
            RunContext(seed=seed),
            prepare=lambda images: images,
        )

    SPEC = InputSpec(channels=1, height=SIZE, width=SIZE)

    def source(self, folder, kind="safetensors", architecture="small-cnn", *, fresh=True):
        """Where a repair of `self.module`, submitted as `kind` (`onnx`, `safetensors`), would get it from."""
        path = folder / f"submitted-{kind}"
        if kind == "onnx":
            export_onnx(self.module, self.SPEC, path, n_classes=3)
        else:
            save_file({k: v.contiguous() for k, v in self.module.state_dict().items()}, path)
        named = None if kind == "onnx" else architecture
        spec = ModelSpec(name="m", architecture=named, input=self.SPEC, n_classes=3)
        return pick_source(path, inspect_model(path, spec), Manifest(model=spec), fresh=fresh)

    def read_back(self, source, module, folder):
        """The written file as a submission: its card, and the largest difference of its log-probabilities."""
        path = folder / "written"
        source.write(module, path)
        card = inspect_model(path, ModelSpec(name="m", architecture="small-cnn", input=self.SPEC, n_classes=3))
        images = self.data.heldout.images
        target = load_target(path, card, torch.device("cpu"))
        with torch.no_grad():
            return card, float(
                (module.eval()(images).log_softmax(1) - target.logits(images).log_softmax(1)).abs().max()
            )


@pytest.fixture
def make_bench():
    return Bench
