import pytest
import torch
from torch.nn.functional import cross_entropy

from auditor.errors import InvalidInput
from remediation.defenses.catalog import DEFENSES
from remediation.defenses.neg_ls import LEAST_LOG_PROBABILITY, ramp_epochs, ramped, smoothed_cross_entropy

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.5, 0.0]])
LABELS = torch.tensor([0, 2])


def test_the_loss_is_the_written_formula_and_torchs_where_torch_has_it():
    log_p = LOGITS.log_softmax(1)
    own = -log_p[torch.arange(2), LABELS]
    by_hand = (1.05 * own - 0.05 * -log_p.mean(1)).mean()
    torch.testing.assert_close(smoothed_cross_entropy(LOGITS, LABELS, -0.05), by_hand)
    torch.testing.assert_close(smoothed_cross_entropy(LOGITS, LABELS, 0.0), cross_entropy(LOGITS, LABELS))


def test_other_classes_are_driven_further_down_than_cross_entropy_asks():
    """Where cross-entropy has almost nothing left to gain, the negative factor still pulls."""
    sure = torch.tensor([[12.0, 0.0, 0.0]], requires_grad=True)
    label = torch.tensor([0])
    plain, smoothed = (torch.autograd.grad(loss, sure)[0] for loss in (
        cross_entropy(sure, label), smoothed_cross_entropy(sure, label, -0.05)
    ))  # fmt: skip
    assert float(plain[0, 1]) < 1e-4
    assert float(smoothed[0, 1]) > 0.01


def test_the_gain_ends_at_the_least_probability():
    far = torch.tensor([[0.0, LEAST_LOG_PROBABILITY - 30, LEAST_LOG_PROBABILITY - 30]], requires_grad=True)
    (slope,) = torch.autograd.grad(smoothed_cross_entropy(far, torch.tensor([0]), -0.05), far)
    assert float(slope.abs().max()) < 1e-6


def test_the_factor_grows_in_equal_steps_to_all_of_it():
    n_ramp = ramp_epochs(10, 0.5)
    assert [round(ramped(-0.05, epoch, n_ramp), 3) for epoch in range(7)] == [
        -0.01, -0.02, -0.03, -0.04, -0.05, -0.05, -0.05
    ]  # fmt: skip


def test_a_positive_factor_helps_the_attacker_and_is_refused():
    with pytest.raises(InvalidInput, match="smoothing"):
        DEFENSES.build("neg-ls", {"smoothing": 0.1})


def test_only_epochs_at_the_full_factor_may_be_kept(defended):
    assert defended("neg-ls", epochs=4).history.best_epoch >= 1
