import pytest
import torch
from torch import nn

from auditor.contracts.access import Access
from auditor.contracts.jobs import UnitSpec
from auditor.contracts.manifest import RepairBudget
from auditor.contracts.policy import Policy
from auditor.contracts.submission import TargetCard
from auditor.errors import InvalidInput
from auditor.tensors import RunContext
from remediation.defenses.catalog import DEFENSES
from remediation.defenses.output_controls import ControlledScores, OutputControlsConfig
from remediation.stages import repair_pretrain, repair_train

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


@pytest.mark.parametrize("params", [{}, {"decimals": 1, "label_only": True}, {"decimals": 4}])
def test_what_controls_nothing_or_contradicts_itself_is_refused(params):
    with pytest.raises(InvalidInput):
        DEFENSES.build("output-controls", params)


def prepared(make_submission, deployment):
    submission = make_submission("onnx")
    budget = RepairBudget(defense="output-controls", params={"decimals": 1})
    policy = Policy(deployment_access=deployment)
    manifest = submission.manifest.model_copy(update={"repair": budget, "policy": policy})
    (submission.root / "inputs/manifest.json").write_text(manifest.model_dump_json())
    return submission


def test_it_is_refused_where_attackers_have_the_weights(make_submission):
    submission = prepared(make_submission, Access.WHITE_BOX)
    with pytest.raises(InvalidInput, match="strips a control"):
        repair_pretrain(UnitSpec(kind="repair-pretrain", key="pretrain"), submission.workspace(), RunContext())


def test_the_written_model_gives_the_controlled_scores_and_is_read_by_scores_alone(make_submission):
    """Gradients of rounded scores are zero: an attack along them finds nothing, which must never look like safety."""
    submission = prepared(make_submission, Access.SCORE)
    started = submission.workspace()
    repair_pretrain(UnitSpec(kind="repair-pretrain", key="pretrain"), started, RunContext())
    workspace = submission.workspace("k0", take=started)
    repair_train(UnitSpec(kind="repair-train", key="k0/train", params={"boundary": 0}), workspace, RunContext())
    card = TargetCard.model_validate_json((workspace.root / "outputs/target.json").read_text())
    assert card.access == (Access.SCORE, Access.LABEL)
    assert any("cut or rounded" in warning for warning in card.warnings)
