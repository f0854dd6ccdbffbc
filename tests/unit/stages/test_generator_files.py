"""A team's own generator through the stages: checked with the model, stored whole, and the attacks' prior."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from auditor.contracts.base import digest_of
from auditor.contracts.jobs import AuditJob, UnitResult, UnitSpec
from auditor.contracts.manifest import InputSpec, Manifest
from auditor.contracts.plan import AttackSpec, AuditPlan, PriorSpec
from auditor.errors import InvalidInput
from auditor.loading.onnx_export import export_onnx
from auditor.service.pipeline import audit_units
from auditor.service.stages import check
from auditor.service.stages.attack import prior_of
from auditor.service.workspace import Workspace
from auditor.targets.architectures import build_architecture
from auditor.tensors import RunContext
from auditor.testing.onnx_models import exported_inputs
from auditor.testing.stylegan import Mapping, Synthesis

SPEC = InputSpec(channels=1, height=16, width=16)
GENERATOR = {"mapping": "m.onnx", "synthesis": "s.onnx", "channels": 1, "height": 8, "width": 8, "low": -8, "high": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("team")
    torch.manual_seed(0)
    export_onnx(
        build_architecture("small-cnn", n_classes=4, channels=1).eval(), SPEC, folder / "model.onnx", n_classes=4
    )
    (folder / "m.onnx").write_bytes(exported_inputs(Mapping(), {"z": torch.randn(2, 16)}))
    synthesis = onnx.load_model_from_string(exported_inputs(Synthesis(), {"w": torch.randn(2, 16)}))
    # as the exporter does with big weights: in a file of their own, beside the graph
    onnx.save_model(synthesis, str(folder / "s.onnx"), save_as_external_data=True, location="s.data", size_threshold=64)
    return folder


def run(folder: Path, root: Path, generator: dict[str, Any]) -> tuple[Workspace, Manifest]:
    manifest = Manifest.model_validate(
        {
            "model": {"name": "m", "input": SPEC.model_dump(mode="json"), "n_classes": 4},
            "data": {"generator": generator},
            "plan": {"priors": [{"name": "onnx"}], "attacks": [{"name": "ppa"}]},
        }
    )
    params = {"model": str(folder / "model.onnx"), "base": str(folder), "manifest": manifest.model_dump(mode="json")}
    workspace = Workspace(root, root / "cache")
    check.run(UnitSpec(kind="check", key="check", params=params), workspace, RunContext())
    return workspace, manifest


def test_both_files_are_stored_whole_and_become_the_prior(folder: Path, tmp_path: Path) -> None:
    workspace, manifest = run(folder, tmp_path / "check", GENERATOR)
    later = Workspace(tmp_path / "attack", tmp_path / "cache")
    (later.root / "inputs").mkdir(parents=True)
    for name in ("generator.onnx", "generator-mapping.onnx"):
        (later.root / "inputs" / name).write_bytes(workspace.output(name).read_bytes())
    (later.root / "inputs" / "manifest.json").write_text(manifest.model_dump_json())
    prior = prior_of(later, "onnx", RunContext(), n_classes=4)
    assert (prior.name, prior.latent_dim, prior.image_shape) == ("onnx", 16, (1, 8, 8))
    assert prior.decode(torch.randn(2, 16)).shape == (2, 1, 8, 8)


def test_units_that_draw_get_both_files(folder: Path, tmp_path: Path) -> None:
    names = ("model", "manifest.json", "plan.json", "target.json", "generator.onnx", "generator-mapping.onnx")
    plan = AuditPlan(name="t", attacks=(AttackSpec(name="ppa"),), priors=(PriorSpec(name="onnx"),))
    job = AuditJob(name="m", plan=plan, inputs={name: digest_of(name.encode()) for name in names})
    (prepare,) = audit_units(job, {}, {})
    ready = [{"key": "ppa", "runnable": True, "prior": "onnx", "access": "white-box"}]
    done = {"prepare": UnitResult(value={"classes": [0], "attacks": ready}, outputs={"prepared.json": "0" * 64})}
    attacks = [unit for unit in audit_units(job, done, {}) if unit.kind == "attack"]
    assert attacks
    for unit in (prepare, *attacks):
        assert {"generator.onnx", "generator-mapping.onnx"} <= set(unit.inputs)


def test_what_is_wrong_with_the_files_comes_with_the_rest(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        run(folder, tmp_path, GENERATOR | {"mapping": "nowhere.onnx", "channels": 3})
    text = "\n".join(caught.value.problems)
    assert "draws 3 channels, the model takes 1" in text
    assert "nowhere.onnx" in text
    assert not (tmp_path / "outputs").exists()
    with pytest.raises(InvalidInput, match="tells 16 classes apart, but the model has 4"):
        run(folder, tmp_path, {**GENERATOR, "mapping": None, "synthesis": None, "path": "s.onnx"} | LABELS)


LABELS = {"inputs": {"w": {"kind": "labels"}}}
