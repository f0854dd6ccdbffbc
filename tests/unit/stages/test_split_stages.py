"""The stages of an audit on a cut model: which images are seen, who can run, and what is refused."""

import io

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from auditor.contracts.access import Access
from auditor.contracts.jobs import UnitSpec
from auditor.contracts.manifest import InputSpec
from auditor.contracts.plan import AttackSpec
from auditor.contracts.submission import SplitPoint, TargetCard
from auditor.data.image_set import ImageSet
from auditor.errors import ExitCode, InvalidInput, UnsupportedModel
from auditor.service.pipeline import NO_PRIOR
from auditor.service.plans import PRESETS
from auditor.service.stages import check
from auditor.service.stages.split import cut, observed_rows, ready_split_attack, record_activations
from auditor.service.workspace import Workspace
from auditor.targets.architectures import build_architecture
from auditor.targets.split import split_at
from auditor.targets.torch_target import TorchTarget
from auditor.tensors import RunContext
from auditor.testing.onnx_models import model
from auditor.testing.toy import toy_card

SHAPE = (3, 16, 16)


def images(labels):
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 16, 16, 3), dtype=np.uint8)
    return ImageSet("heldout", pixels, np.array(labels, np.int64))


HELDOUT = images([2] * 5 + [0] * 2 + [1] * 4)
PUBLIC = ImageSet("public", images([0] * 40).images)


def target(layer="blocks.0"):
    torch.manual_seed(0)
    network = build_architecture("small-resnet", n_classes=3, channels=3)
    card = toy_card(n_classes=3, image_shape=SHAPE)
    split = None if layer is None else SplitPoint(layer=layer, shape=(32, 8, 8))
    return TorchTarget(network, card.model_copy(update={"split": split}))


def test_the_same_rows_are_seen_every_time_and_never_more_than_asked():
    rows = observed_rows(HELDOUT, (0, 2), 3, RunContext())
    assert rows.labels.tolist() == [0, 0, 2, 2, 2]
    assert rows.sample.tolist() == [0, 1, 0, 1, 2]
    assert (HELDOUT.labels[rows.index] == rows.labels).all()
    assert len(set(rows.index.tolist())) == 5
    again = observed_rows(HELDOUT, (2,), 3, RunContext())
    assert again.index.tolist() == rows.index[2:].tolist()
    assert observed_rows(HELDOUT, (2,), 3, RunContext(seed=1)).index.tolist() != again.index.tolist()
    assert observed_rows(HELDOUT, (), 3, RunContext()).index.tolist() == []


def test_what_is_recorded_is_what_the_device_sends_and_nothing_else(tmp_path):
    plan = PRESETS["quick"].model_copy(update={"samples_per_class": 2})
    record_activations(Workspace(tmp_path, tmp_path), target(), HELDOUT, (0, 1), plan, RunContext())
    with np.load(tmp_path / "outputs" / "activations.npz") as data:
        assert set(data.files) == {"activations", "labels", "sample"}
        rows = observed_rows(HELDOUT, (0, 1), 2, RunContext())
        with torch.no_grad():
            sent = split_at(target(), "blocks.0").encode(HELDOUT.select(rows.index).batch(SHAPE).images)
        torch.testing.assert_close(torch.from_numpy(data["activations"]), sent, atol=1e-5, rtol=1e-5)


def test_who_can_run_and_why_not(tmp_path):
    workspace = Workspace(tmp_path, tmp_path)
    grey = AttackSpec(name="rmle", params={"start": "grey"})
    network = AttackSpec(name="inverse-network", params={"decoder": {"width": 4, "steps": 2, "batch": 4}})

    def ready(spec, heldout=HELDOUT, public=PUBLIC, layer="blocks.0"):
        return ready_split_attack(workspace, spec, target(layer), heldout, public, RunContext())

    assert ready(grey, public=None).runnable
    assert (ready(grey).aids, ready(grey).prior, ready(grey).access) == ("", NO_PRIOR, Access.SPLIT)
    assert "public data" in ready(network, public=None).reason
    assert "private images" in ready(grey, heldout=None).reason
    assert "not cut" in ready(grey, layer=None).reason
    found = ready(network)
    assert found.aid_queries == 8
    assert (tmp_path / "outputs" / found.aids).is_file()
    assert ready(network) == found
    with pytest.raises(UnsupportedModel):
        cut(target(None))


def checked(tmp_path, path, name, layer, **spec):
    manifest = {"version": 1, "model": {"name": name, **spec}, "plan": {"split": layer}}
    unit = UnitSpec(kind="check", key="check", params={"model": str(path), "base": str(tmp_path), "manifest": manifest})
    workspace = Workspace(tmp_path / "work", tmp_path / "cache")
    (tmp_path / "work").mkdir(exist_ok=True)
    check.run(unit, workspace, RunContext())
    return TargetCard.model_validate_json(workspace.output("target.json").read_text())


def test_the_check_notes_the_cut_on_the_card_or_lists_the_possible_ones(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in target().module.state_dict().items()}, path)
    given = {
        "architecture": "small-resnet",
        "input": InputSpec(channels=3, height=16, width=16).model_dump(mode="json"),
    }
    card = checked(tmp_path, path, "m", "blocks.2", **given)
    assert card.split == SplitPoint(layer="blocks", shape=(128, 2, 2))
    assert Access.SPLIT in card.access
    with pytest.raises(InvalidInput, match=r"Possible: stem\.0, stem\.1") as refused:
        checked(tmp_path, path, "m", "blocks.9", **given)
    assert refused.value.exit_code is ExitCode.ERROR


def test_a_score_only_model_is_refused_with_the_reason(tmp_path):
    nodes = [
        onnx.helper.make_node("Flatten", ["x"], ["flat"]),
        onnx.helper.make_node("Gemm", ["flat", "w"], ["scores"]),
        onnx.helper.make_node("Abs", ["scores"], ["positive"]),
        onnx.helper.make_node("Add", ["positive", "one"], ["over"]),
        onnx.helper.make_node("Acosh", ["over"], ["y"]),
    ]
    weights = np.random.default_rng(0).normal(size=(192, 4)).astype(np.float32)
    constants = [
        onnx.numpy_helper.from_array(weights, "w"),
        onnx.numpy_helper.from_array(np.full(1, 1.5, np.float32), "one"),
    ]
    proto = model(nodes, ["N", 3, 8, 8], constants, output_shape=["N", 4])
    buffer = io.BytesIO(proto.SerializeToString())
    path = tmp_path / "model.onnx"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(UnsupportedModel, match=r"only its scores.*Acosh") as refused:
        checked(tmp_path, path, "m", "flat")
    assert refused.value.exit_code is ExitCode.INCONCLUSIVE
