import copy

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


def test_a_single_epoch_is_defended_in_full():
    assert ramped(-0.05, 0, ramp_epochs(1, 0.5)) == -0.05


def test_only_epochs_at_the_full_factor_may_be_kept(defended):
    """A submission is at its most accurate before any smoothing, so the first epoch would win on validation."""
    start = defended("tl-dmi", epochs=30).module
    history = defended("neg-ls", start=start, epochs=4, ramp_frac=0.75, lr=1e-5).history
    assert history.validation_accuracy[0] == max(history.validation_accuracy)
    assert history.best_epoch >= 2


def test_the_true_class_ends_higher_and_the_others_lower_than_without(defended, tiny_data):
    images, labels, found = tiny_data.fit.images, tiny_data.fit.labels, []
    trained = defended("tl-dmi", epochs=30).module
    for smoothing in (-1e-6, -0.5):
        module = defended("neg-ls", start=copy.deepcopy(trained), epochs=6, smoothing=smoothing, ramp_frac=0.2).module
        with torch.no_grad():
            log_p = module(images).log_softmax(1)
        others = torch.ones_like(log_p, dtype=torch.bool).scatter_(1, labels[:, None], False)
        found.append((float(log_p[~others].median()), float(log_p[others].median())))
    (plain_true, plain_others), (true, rest) = found
    assert true > plain_true
    assert rest < plain_others - 0.5, found
