import pytest
import torch

from auditor.contracts.jobs import UnitSpec
from auditor.contracts.repair import RepairStart, TrainedCandidate
from auditor.contracts.submission import TargetCard
from auditor.data.bundles import load_bundle
from auditor.loading.target_loading import load_target
from auditor.tensors import RunContext
from auditor.training import top_k_accuracy
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
    assert card.public_front is not None  # the re-audit meets the attacker who has the weights it started from
    target = load_target(workspace.root / "outputs/model", card, torch.device("cpu"))
    heldout = load_bundle(workspace.input("heldout.npz")).batch(target.image_shape)
    assert top_k_accuracy(target.logits, heldout, CTX) == pytest.approx(candidate.heldout_accuracy.value, abs=0.03)
