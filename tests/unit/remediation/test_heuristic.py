import pytest
from scipy.stats import spearmanr

from auditor.contracts.manifest import RepairBudget
from auditor.contracts.repair import FreezePlan, NormMode, TrainedCandidate
from auditor.contracts.scores import Measured, NotMeasured
from auditor.evaluation.intervals import Bootstrap
from auditor.testing.evidence import measured, sample_fisher, sample_outcome
from auditor.testing.reports import sample_report
from remediation.compare import audited_candidate
from remediation.heuristic import (
    check_heuristic,
    frozen_mass,
    mass_correlation,
    proposed_boundary,
    regret,
    spearman,
)

BOOTSTRAP = Bootstrap(400, 0)
FISHER = sample_fisher()
N_UNITS = len(FISHER.units)


def tried(boundary, *lifts, accuracy=0.74, shape=None):
    """A candidate and its audit; `shape` gives the both-agree rate of each class around its mean."""
    plan = FreezePlan(
        boundary=boundary, n_units=N_UNITS, units=(), parameters=(), norm_mode=NormMode.FROZEN, tuned_parameters=1,
        total_parameters=2,
    )  # fmt: skip
    trained = TrainedCandidate(
        freeze=plan, proposed_by="user", best_epoch=0, epochs=1, validation_accuracy=measured("v", accuracy),
        heldout_accuracy=measured("heldout_accuracy", accuracy), model_digest="d", model_format="safetensors",
        parity_max_abs_error=None,
    )  # fmt: skip
    outcomes = []
    for index, lift in enumerate(lifts):
        outcome = sample_outcome(f"a{index}", lift=(lift, lift - 0.1, lift + 0.1), control=0.0, ceiling=0.5)
        rows = outcome.per_class
        rates = [0.5 * lift * (shape(i) if shape else 1.0) for i in range(len(rows))]
        rows = tuple(row.model_copy(update={"both": rate}) for row, rate in zip(rows, rates, strict=True))
        outcomes.append(outcome.model_copy(update={"per_class": rows}))
    report = sample_report(attacks=tuple(outcomes))
    budget = RepairBudget(max_accuracy_loss=0.03)
    return audited_candidate(trained, report, measured("heldout_accuracy", 0.75), budget), report


def split(*pairs):
    return [candidate for candidate, _ in pairs], {candidate.freeze.boundary: report for candidate, report in pairs}


def test_regret_is_the_lift_left_at_the_proposal_over_the_best_within_the_budget():
    """Boundary 5 leaks least but costs too much accuracy: counting it would blame the scores for the budget."""
    pairs = [tried(2, 0.5), tried(3, 0.4), tried(4, 0.3), tried(5, 0.1, accuracy=0.6)]
    found = regret(split(*pairs)[0], 3, {}, BOOTSTRAP)
    assert found.value == pytest.approx(0.1)
    assert found.n == 3
    assert regret(split(*pairs)[0], 4, {}, BOOTSTRAP).value == 0


def test_the_worst_attack_counts():
    pairs = [tried(2, 0.1, 0.5), tried(3, 0.3, 0.3)]
    assert regret(split(*pairs)[0], 2, {}, BOOTSTRAP).value == pytest.approx(0.2)
    assert regret(split(*pairs)[0], 3, {}, BOOTSTRAP).value == 0


def test_classes_are_resampled_together_at_every_boundary():
    """Classes differ much, boundaries by a constant factor: paired, the regret is proven; the lifts' own intervals
    overlap and could not."""
    candidates, reports = split(*(tried(k, lift, shape=lambda i: 2 * (i % 2)) for k, lift in ((2, 0.40), (3, 0.30))))
    paired, unpaired = regret(candidates, 2, reports, BOOTSTRAP), regret(candidates, 2, {}, BOOTSTRAP)
    assert paired.value == unpaired.value == pytest.approx(0.1)
    assert paired.low > 0.05
    assert paired.high < 0.15
    assert unpaired.low == 0
    assert unpaired.high > 0.25


def test_the_best_on_the_data_may_not_be_the_best():
    """Two boundaries that trade classes: the proposed one has the lower lift by chance, so its regret is open above."""
    candidates, reports = split(
        tried(2, 0.30, shape=lambda i: 2 * (i % 2)), tried(3, 0.31, shape=lambda i: 2 * ((i + 1) % 2))
    )
    found = regret(candidates, 2, reports, BOOTSTRAP)
    assert (found.value, found.low) == (0, 0)
    assert found.high > 0.05


def test_no_success_anywhere_is_no_proof_of_no_regret():
    candidates, reports = split(tried(2, 0.0), tried(3, 0.0))
    found = regret(candidates, 2, reports, BOOTSTRAP)
    assert found.value == 0
    assert 0.05 < found.high < 0.2  # Wilson's bound for 0 of 60 classes over a headroom of 0.5


@pytest.mark.parametrize(
    ("proposed", "said"),
    [(None, "single out no"), (1, "was not tried"), (5, "more accuracy"), (4, "was not measured")],
)
def test_why_there_is_no_regret(proposed, said):
    candidates, _ = split(tried(2, 0.5), tried(3, 0.4), tried(4, 0.4), tried(5, 0.1, accuracy=0.5))
    candidates[2] = candidates[2].model_copy(update={"lift": {"a0": NotMeasured(metric="lift", reason="r")}})
    found = regret(candidates, proposed, {}, BOOTSTRAP)
    assert isinstance(found, NotMeasured)
    assert said in found.reason


def test_a_single_boundary_has_no_regret():
    candidates, _ = split(tried(2, 0.5), tried(5, 0.1, accuracy=0.5))
    assert "no other" in regret(candidates, 2, {}, BOOTSTRAP).reason


def test_frozen_mass_is_the_sum_of_the_frozen_shares():
    shares = [0.4, 0.3, 0.2, 0.1]
    assert [frozen_mass(shares, k, 4) for k in range(5)] == pytest.approx([0, 0.4, 0.7, 0.9, 1])
    assert frozen_mass(shares, 1, 2) == pytest.approx(0.7)
    assert frozen_mass(shares, 1, 8) == pytest.approx(0.2)


@pytest.mark.parametrize("y", [[1.0, 2.0, 3.0, 5.0], [3.0, 1.0, 2.0, 2.0], [4.0, 4.0, 1.0, 0.0]])
def test_spearman_is_the_textbook_one(y):
    import numpy as np

    x = np.array([0.1, 0.3, 0.3, 0.9])
    assert spearman(x, np.array(y)) == pytest.approx(spearmanr(x, y).statistic)
    assert spearman(x, np.ones(4)) is None


@pytest.mark.parametrize(
    ("lifts", "expected"), [((0.5, 0.4, 0.2), 1.0), ((0.2, 0.4, 0.5), -1.0), ((0.3, 0.5, 0.1), 0.5)]
)
def test_correlation_of_frozen_mass_and_reduction(lifts, expected):
    candidates, reports = split(*(tried(k, lift) for k, lift in zip((2, 3, 4), lifts, strict=True)))
    found = mass_correlation(FISHER, candidates, reports, BOOTSTRAP)
    assert found.value == pytest.approx(expected)
    assert found.low <= found.value <= found.high
    assert found.n == 3
    open_end = mass_correlation(FISHER, candidates, {}, BOOTSTRAP)
    assert (open_end.low, open_end.high) == (-1, 1)


def test_when_a_correlation_means_nothing():
    few, _ = split(tried(2, 0.5), tried(3, 0.4))
    assert "fewer than 3" in mass_correlation(FISHER, few, {}, BOOTSTRAP).reason
    flat, _ = split(tried(2, 0.4), tried(3, 0.4), tried(4, 0.4))
    assert "the same" in mass_correlation(FISHER, flat, {}, BOOTSTRAP).reason


def test_a_ranking_by_chance_has_a_wide_interval():
    thirds = [lambda i, part=part: 3 * float(i % 3 == part) for part in range(3)]
    candidates, reports = split(*(tried(k, 0.3, shape=shape) for k, shape in zip((2, 3, 4), thirds, strict=True)))
    lifts = (0.31, 0.30, 0.29)
    candidates = [
        c.model_copy(update={"lift": {"a0": measured("lift", v)}}) for c, v in zip(candidates, lifts, strict=True)
    ]
    found = mass_correlation(FISHER, candidates, reports, BOOTSTRAP)
    assert found.value == 1
    assert found.low < 0


def test_the_check_holds_both_and_says_what_the_correlation_cannot():
    candidates, reports = split(tried(2, 0.5), tried(3, 0.4), tried(4, 0.3))
    found = check_heuristic(FISHER, candidates, reports, BOOTSTRAP)
    assert (found.proposed, found.best) == (3, 4)
    assert isinstance(found.regret, Measured)
    assert [row.boundary for row in found.rows] == [2, 3, 4]
    assert found.rows[1].inversion_mass == pytest.approx(0.24 + 0.22 + 0.18)
    assert found.rows[1].classification_mass == pytest.approx(0.05 + 0.08 + 0.12)
    assert any("grows with the boundary" in note for note in found.notes)
    assert check_heuristic(FISHER, candidates[:1], reports, BOOTSTRAP) is None


def test_an_uninformative_profile_proposes_nothing():
    assert proposed_boundary(sample_fisher("uninformative"), 6) is None
    assert proposed_boundary(FISHER, 12) == 6
