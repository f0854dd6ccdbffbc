import pytest
import torch
from torch import nn

from auditor.contracts.access import Access
from auditor.contracts.jobs import UnitSpec
from auditor.contracts.manifest import RepairBudget
from auditor.contracts.policy import Policy, Verdict
from auditor.contracts.repair import TrainedCandidate
from auditor.contracts.submission import TargetCard
from auditor.data.bundles import load_bundle
from auditor.errors import AuditorError, InvalidInput
from auditor.loading import inspection
from auditor.loading.inspection import inspect_model
from auditor.loading.target_loading import load_target
from auditor.tensors import RunContext
from auditor.testing.reports import sample_report, sample_target
from remediation.defenses.catalog import DEFENSES
from remediation.defenses.output_controls import ControlledScores, OutputControlsConfig
from remediation.stages import repair_pretrain, repair_train

CTX = RunContext(batch_size=64)
PROBS = torch.tensor([[0.62, 0.28, 0.08, 0.02], [0.30, 0.34, 0.26, 0.10]])


def controlled(**params):
    return ControlledScores(nn.Identity(), OutputControlsConfig(**params))(PROBS.log()).exp()


def test_values_by_hand():
    torch.testing.assert_close(controlled(decimals=1)[0], torch.tensor([0.6, 0.3, 0.1, 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(controlled(top_k=2)[0], torch.tensor([0.62, 0.28, 0, 0]) / 0.9, atol=1e-6, rtol=0)
    torch.testing.assert_close(controlled(label_only=True), torch.eye(4)[[0, 1]], atol=1e-6, rtol=0)


@pytest.mark.parametrize("params", [{"decimals": 1}, {"top_k": 1}, {"label_only": True}, {"decimals": 2, "top_k": 2}])
def test_the_winner_stays_the_winner_also_where_rounding_ties_it(params):
    """0.34 and 0.30 both round to 0.3."""
    assert controlled(**params).argmax(1).tolist() == [0, 1]


@pytest.mark.parametrize("params", [{"decimals": None}, {"decimals": 1, "label_only": True}, {"decimals": 4}])
def test_what_controls_nothing_or_contradicts_itself_is_refused(params):
    with pytest.raises(InvalidInput):
        DEFENSES.build("output-controls", params)


def test_by_default_two_decimals_are_given():
    config = DEFENSES.build("output-controls", {}).config
    assert (config.decimals, config.top_k, config.label_only) == (2, None, False)


def test_a_winner_that_rounding_ties_or_erases_gets_one_step_more():
    flat = ControlledScores(nn.Identity(), OutputControlsConfig(decimals=1))(torch.zeros(1, 40)).exp()
    torch.testing.assert_close(flat, torch.eye(40)[:1], atol=1e-6, rtol=0)  # every 0.025 rounds to 0
    tied = torch.tensor([0.3, 0.4, 0.3, 0.1]) / 1.1  # 0.34 and 0.30 round to 0.3, 0.26 to 0.3, 0.10 to 0.1
    torch.testing.assert_close(controlled(decimals=1)[1], tied, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("params", "edge"),
    [
        ({"decimals": 2}, [0.625, 0.275, 0.08, 0.02]),  # halfway between two steps
        ({"top_k": 2}, [0.6, 0.15, 0.15, 0.1]),  # a tie for the last place
        ({"label_only": True}, [0.4, 0.4, 0.1, 0.1]),  # a tie for the first
    ],
)
def test_rows_that_the_last_digit_decides_are_not_compared_and_others_are(params, edge):
    """Else one file in a hundred is refused for a rounding error, or a wrong one passes under a wide tolerance."""
    rows = torch.tensor([edge, [0.62, 0.28, 0.08, 0.02]]).log()
    assert ControlledScores(nn.Identity(), OutputControlsConfig(**params)).steady(rows).tolist() == [False, True]


@pytest.mark.parametrize(
    ("deployment", "cut", "reason"),
    [(Access.LABEL, None, "labels only"), (Access.SPLIT, None, "split"), (Access.SCORE, "features.3", "split")],
)
def test_it_is_refused_where_nobody_reads_the_scores(deployment, cut, reason):
    defense = DEFENSES.build("output-controls", {"decimals": 1})
    assert reason in defense.misplaced(deployment, cut)
    assert defense.offer.access == (Access.SCORE,)


def test_a_cut_that_keeps_every_class_is_none(tiny_network):
    assert "all 3 classes" in DEFENSES.build("output-controls", {"top_k": 3}).inapplicable(tiny_network, (), "head")
    assert DEFENSES.build("output-controls", {"top_k": 2}).inapplicable(tiny_network, (), "head") == ""


def prepared(make_submission, deployment, kind="onnx", params=None, **model):
    submission = make_submission(kind)
    budget = RepairBudget(defense="output-controls", params=params or {"decimals": 1})
    policy = Policy(deployment_access=deployment)
    manifest = submission.manifest.model_copy(update={"repair": budget, "policy": policy})
    manifest = manifest.model_copy(update={"model": manifest.model.model_copy(update=model)})
    (submission.root / "inputs/manifest.json").write_text(manifest.model_dump_json())
    return submission


@pytest.mark.parametrize(
    ("deployment", "published"), [(Access.WHITE_BOX, False), (Access.SCORE, True)], ids=["policy", "published"]
)
def test_it_is_refused_where_attackers_have_the_weights(make_submission, deployment, published):
    submission = prepared(make_submission, deployment, weights_published=published)
    with pytest.raises(InvalidInput, match="strips a control"):
        repair_pretrain(UnitSpec(kind="repair-pretrain", key="pretrain"), submission.workspace(), CTX)


@pytest.mark.parametrize("kind", ["onnx", "safetensors"])
@pytest.mark.parametrize("params", [{"decimals": 3}, {"top_k": 2}, {"label_only": True}], ids=lambda p: next(iter(p)))
def test_the_written_model_gives_the_controlled_scores_and_is_read_by_scores_alone(make_submission, kind, params):
    """Gradients of rounded scores are zero: an attack along them finds nothing, which must never look like safety."""
    submission = prepared(make_submission, Access.SCORE, kind, params)
    started = submission.workspace()
    repair_pretrain(UnitSpec(kind="repair-pretrain", key="pretrain"), started, CTX)
    workspace = submission.workspace("k0", take=started)
    value = repair_train(UnitSpec(kind="repair-train", key="k0/train", params={"boundary": 0}), workspace, CTX)
    candidate = TrainedCandidate.model_validate(value)
    assert (candidate.epochs, candidate.freeze.boundary, candidate.freeze.tuned_parameters) == (0, 0, 0)
    path = workspace.root / "outputs/model"
    card = TargetCard.model_validate_json((workspace.root / "outputs/target.json").read_text())
    assert card.access == (Access.SCORE, Access.LABEL)
    assert any("cut or rounded" in warning for warning in card.warnings)
    assert inspect_model(path, submission.manifest.model).access == card.access  # whoever submits it, too
    before = load_target(workspace.input("model"), submission.card, CTX.device)
    after = load_target(path, card, CTX.device)
    heldout = load_bundle(workspace.input("heldout.npz")).batch(after.image_shape).images
    logits = before.logits(heldout).detach()
    wrapped = ControlledScores(nn.Identity(), OutputControlsConfig(**params))
    rows = wrapped.steady(logits)
    assert rows.float().mean() > 0.8
    torch.testing.assert_close(after.logits(heldout)[rows], wrapped(logits)[rows], atol=1e-3, rtol=0)
    assert torch.equal(after.logits(heldout).argmax(1), logits.argmax(1))


@pytest.mark.parametrize("params", [{"decimals": 3}, {"top_k": 2}, {"label_only": True}], ids=lambda p: next(iter(p)))
def test_a_written_control_that_is_not_recognised_is_not_kept(make_submission, monkeypatch, params):
    """Else an exporter's new operator makes it a white-box model whose gradients are zero, and every attack fails."""
    submission = prepared(make_submission, Access.SCORE, "onnx", params)
    started = submission.workspace()
    repair_pretrain(UnitSpec(kind="repair-pretrain", key="pretrain"), started, CTX)
    workspace = submission.workspace("k0", take=started)
    monkeypatch.setattr(inspection, "output_controls", lambda module: ())
    with pytest.raises(AuditorError, match="not recognised"):
        repair_train(UnitSpec(kind="repair-train", key="k0/train", params={"boundary": 0}), workspace, CTX)
    assert not any((workspace.root / "outputs" / name).exists() for name in ("model", "target.json", "candidate.json"))


def test_white_box_attacks_on_such_a_file_do_not_clear_it():
    """The same evidence that clears a differentiable model, on a card such as the repair writes."""
    assert sample_report(Verdict.PASS).verdict.verdict is Verdict.PASS
    served = sample_target(access=(Access.SCORE, Access.LABEL), parity=None, unsupported_operators=("Round",))
    verdict = sample_report(Verdict.PASS, target=served).verdict
    assert verdict.verdict is Verdict.INCONCLUSIVE
    assert any("only score attacks could be run (unsupported operators: Round)" in reason for reason in verdict.reasons)
