import pytest
import torch

from auditor.contracts.access import Access
from auditor.contracts.scores import Measured
from auditor.tensors import ImageBatch, RunContext
from auditor.testing import ToyTarget, toy_templates
from remediation.utility import CHANGES, calibration_error, measure_utility

TEMPLATES = toy_templates(4, (1, 8, 8))


def logits_of(confidence, guessed, n_classes=4):
    rest = (1 - confidence) / (n_classes - 1)
    rows = torch.full((len(guessed), n_classes), rest, dtype=torch.float64)
    rows[torch.arange(len(guessed)), guessed] = confidence
    return rows.log()


@pytest.mark.parametrize(("n_right", "error"), [(8, 0.0), (4, 0.4), (10, 0.2)])
def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy(n_right, error):
    guessed = torch.zeros(10, dtype=torch.int64)
    labels = torch.tensor([0] * n_right + [1] * (10 - n_right))
    assert calibration_error(logits_of(0.8, guessed), labels) == pytest.approx(error, abs=1e-9)


def test_over_and_under_confidence_do_not_cancel_between_bins():
    sure, unsure = (
        logits_of(0.95, torch.zeros(10, dtype=torch.int64)),
        logits_of(0.45, torch.zeros(10, dtype=torch.int64)),
    )
    labels = torch.tensor([0] * 5 + [1] * 5 + [0] * 9 + [1])
    assert calibration_error(torch.cat([sure, unsure]), labels) == pytest.approx(0.45, abs=1e-9)


def test_the_figures_of_a_model(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(b"12345")
    heldout = ImageBatch(TEMPLATES.repeat(5, 1, 1, 1), torch.arange(4).repeat(5))
    found = measure_utility(ToyTarget(TEMPLATES), path, heldout, RunContext())
    assert found.size_bytes == 5
    assert found.latency_ms > 0
    assert set(found.robust_accuracy) == {f"{size:g}" for size in CHANGES}
    assert all(isinstance(score, Measured) and score.value == 1.0 for score in found.robust_accuracy.values())


def test_an_image_between_two_classes_falls_to_a_small_change(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(b"1")
    middle = TEMPLATES[:1] + 0.4999 * (TEMPLATES[1:2] - TEMPLATES[:1])
    heldout = ImageBatch(middle.repeat(4, 1, 1, 1), torch.zeros(4, dtype=torch.int64))
    found = measure_utility(ToyTarget(TEMPLATES), path, heldout, RunContext())
    assert found.robust_accuracy["0.001"].value == 0.0
    blind = ToyTarget(TEMPLATES, access=(Access.SCORE, Access.LABEL))
    assert measure_utility(blind, path, heldout, RunContext()).robust_accuracy == {}
