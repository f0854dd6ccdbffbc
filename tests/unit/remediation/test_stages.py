import numpy as np
import pytest
import torch

from auditor.contracts.jobs import UnitSpec
from auditor.contracts.repair import RepairStart, TrainedCandidate
from auditor.contracts.submission import TargetCard
from auditor.data.bundles import load_bundle, save_bundle
from auditor.loading.target_loading import load_target
from auditor.targets.architectures import build_architecture
from auditor.tensors import RunContext
from auditor.training import top_k_accuracy
from remediation.preparation import read_inputs
from remediation.stages import repair_pretrain, repair_train

CTX = RunContext(batch_size=64)


def start_of(submission, **inputs):
    workspace = submission.workspace()
    repair_pretrain(UnitSpec(kind="repair-pretrain", key="pretrain"), workspace, CTX)
    return workspace, RepairStart.model_validate_json((workspace.root / "outputs/start.json").read_text())


def train(submission, started, boundary):
    workspace = submission.workspace(f"k{boundary}", take=started)
    unit = UnitSpec(kind="repair-train", key=f"k{boundary}/train", params={"boundary": boundary})
    value = repair_train(unit, workspace, CTX)
    return workspace, TrainedCandidate.model_validate(value)


@pytest.mark.parametrize("kind", ["safetensors", "onnx", "onnx-named", "state-dict"])
def test_a_submission_is_retrained_and_comes_back_in_its_format(make_submission, kind):
    submission = make_submission(kind)
    started, start = start_of(submission)
    assert start.n_units == 7
    assert len(start.boundaries) == 3
    assert start.network == ("submitted graph" if kind == "onnx" else "small-cnn")
    assert start.accuracy_before.value > 0.9
    assert "5 classes" in start.pretraining
    workspace, candidate = train(submission, started, 3)
    freeze = candidate.freeze
    assert freeze.boundary == 3
    assert len(freeze.units) == 3
    assert freeze.digest_before == freeze.digest_after
    assert 0 < freeze.tuned_parameters < freeze.total_parameters
    assert candidate.validation_accuracy.value > 0.8
    assert candidate.heldout_accuracy.value > 0.8
    assert candidate.model_format == submission.card.format
    if kind.startswith("onnx"):
        assert candidate.parity_max_abs_error < 1e-3
    card = TargetCard.model_validate_json((workspace.root / "outputs/target.json").read_text())
    assert card.digest == candidate.model_digest != submission.card.digest
    assert card.weights_digest == candidate.model_weights_digest != submission.card.weights_digest
    assert card.answers == candidate.model_answers != submission.card.answers
    assert card.public_front is not None  # the re-audit meets the attacker who has the weights it started from
    target = load_target(workspace.root / "outputs/model", card, torch.device("cpu"))
    heldout = load_bundle(workspace.input("heldout.npz")).batch(target.image_shape)
    assert top_k_accuracy(target.logits, heldout, CTX) == pytest.approx(candidate.heldout_accuracy.value, abs=0.03)


def test_the_held_out_images_are_halved_and_the_submission_is_measured_on_both(make_submission):
    submission = make_submission()
    held = read_inputs(submission.workspace("read")).heldout()
    halves = [{image.tobytes() for image in half.images} for half in (held.choice, held.test)]
    assert halves[0].isdisjoint(halves[1])
    assert sum(map(len, halves)) == len(submission.data["heldout.npz"])
    started, start = start_of(submission)
    assert start.test_accuracy_before.n == len(held.test)
    _, candidate = train(submission, started, 3)
    assert (candidate.heldout_accuracy.n, candidate.test_accuracy.n) == (len(held.choice), len(held.test))


def test_held_out_images_too_few_to_be_halved_choose_and_measure_and_that_is_said(make_submission, data):
    submission = make_submission()
    rows = np.unique(data["heldout.npz"].labels, return_index=True)[1]
    save_bundle(data["heldout.npz"].select(np.isin(np.arange(40), rows)), submission.root / "inputs/heldout.npz")
    _, start = start_of(submission)
    assert start.test_accuracy_before is None
    assert start.accuracy_before.n == 4
    assert any("choose among candidates and measure" in note for note in start.notes)


def test_a_repaired_model_can_be_repaired_again_and_the_report_says_so(make_submission):
    first = make_submission()
    started, start = start_of(first)
    assert not any("repaired from them before" in note for note in start.notes)
    workspace, _ = train(first, started, 3)
    for name in ("model", "target.json"):
        (first.root / "inputs" / name).write_bytes((workspace.root / "outputs" / name).read_bytes())
    again = first.workspace("again")
    repair_pretrain(UnitSpec(kind="repair-pretrain", key="pretrain"), again, CTX)
    start = RepairStart.model_validate_json((again.root / "outputs/start.json").read_text())
    assert any("features.0.weight" in note and "repaired from them before" in note for note in start.notes)


@pytest.mark.parametrize(
    ("defense", "kind", "written", "boundary"),
    [
        ("mid", "safetensors", "safetensors", 0),
        ("calor", "safetensors", "onnx", 0),
        ("confidence-adaptation", "onnx", "onnx", 0),
        ("rolss", "onnx", "onnx", 0),
        ("dp-sgd", "safetensors", "safetensors", 6),
    ],
)
def test_every_defense_tries_its_own_boundary_and_its_file_is_read_back(
    make_submission, defense, kind, written, boundary
):
    module = build_architecture("small-resnet", n_classes=4, channels=1).eval() if defense == "rolss" else None
    submission = make_submission(kind, module=module, defense=defense, epochs=2, pretrain_epochs=3)
    started, start = start_of(submission)
    assert tuple(start.boundaries) == (boundary,)
    workspace, candidate = train(submission, started, boundary)
    assert candidate.model_format == written
    assert candidate.notes
    card = TargetCard.model_validate_json((workspace.root / "outputs/target.json").read_text())
    target = load_target(workspace.root / "outputs/model", card, torch.device("cpu"))
    heldout = load_bundle(workspace.input("heldout.npz")).batch(target.image_shape)
    assert top_k_accuracy(target.logits, heldout, CTX) == pytest.approx(candidate.heldout_accuracy.value, abs=0.03)
