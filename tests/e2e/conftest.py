"""A tiny but real submission: procedural identities, a trained network, an ONNX file, a manifest; and the CLI."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

SIZE, N_PRIVATE, N_PUBLIC = 16, 24, 40
TINY_PLAN = {
    "preset": "quick",
    "n_classes": 22,
    "samples_per_class": 1,
    "attacks": [
        {"name": "ppa", "params": {"pool": 200, "candidates": 1, "steps": 15, "transforms": 4}},
        {
            "name": "ppa",
            "label": "ppa-averaged",
            "params": {"pool": 200, "candidates": 1, "steps": 15, "transforms": 4, "averaged": 2},
        },
        {"name": "mirror-b", "params": {"pool": 200, "population": 8, "generations": 4}},
    ],
    "priors": [{"name": "vae", "params": {"latent_dim": 32, "width": 8, "steps": 60}}],
    "overrides": {
        "n_control_samples": 200,
        "n_bootstrap": 200,
        "evaluator": {"epochs": 4},
        "judge": {"epochs": 2, "embedding_dim": 16},
        "fisher": {"n_classes": 20, "images_per_class": 2, "exact_up_to": 1, "label_samples": 1},
    },
}


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    def json(self):
        return json.loads(self.out)


class House:
    """One installation's data folder, and the `auditor` command in a process of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(self, *arguments, cwd=None, env=None) -> Result:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AUDITOR_")}
        environment |= {"AUDITOR_HOME": str(self.home), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"} | (env or {})
        done = subprocess.run(  # noqa: S603
            [str(Path(sys.executable).with_name("auditor")), *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=environment,
            timeout=600,
        )
        return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def submission(tmp_path_factory) -> Path:
    """A folder with model.onnx, model.safetensors, three npz files and auditor.yaml."""
    from safetensors.torch import save_file

    from auditor.contracts.manifest import InputSpec
    from auditor.demo.identities import private_and_public
    from auditor.demo.target import train_demo_target
    from auditor.loading.onnx_export import export_onnx
    from auditor.tensors import RunContext

    folder = tmp_path_factory.mktemp("submission")
    private, heldout, public = private_and_public(N_PRIVATE, N_PUBLIC, 10, 8, SIZE, 0)
    spec = InputSpec(channels=3, height=SIZE, width=SIZE)
    model = train_demo_target(private, (3, SIZE, SIZE), N_PRIVATE, RunContext())
    export_onnx(model, spec, folder / "model.onnx", n_classes=N_PRIVATE)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    for name, images in (("private", private), ("heldout", heldout), ("public", public)):
        np.savez(folder / f"{name}.npz", images=images.images, labels=images.labels)
    manifest = {
        "version": 1,
        "model": {
            "name": "tiny",
            "architecture": "small-cnn",
            "input": {"channels": 3, "height": SIZE, "width": SIZE},
            "n_classes": N_PRIVATE,
        },
        "data": {role: {"path": f"{role}.npz"} for role in ("private", "heldout", "public")},
        "plan": TINY_PLAN,
        "repair": {"params": {"epochs": 2, "pretrain_epochs": 1}, "max_accuracy_loss": 1.0},
    }
    (folder / "auditor.yaml").write_text(yaml.safe_dump(manifest))
    return folder


@pytest.fixture(scope="session")
def house(tmp_path_factory) -> House:
    return House(tmp_path_factory.mktemp("home"))


@pytest.fixture
def new_house(tmp_path):
    """Makes installations that hold nothing yet."""
    return lambda home=None: House(home or tmp_path / "home")


@pytest.fixture(scope="session")
def audited(house, submission) -> Result:
    """The submission, audited once for the whole session."""
    return house("submit", submission / "model.onnx", "-f", "json", "-o", f"html={submission}/report.html")
