"""Controls and ceilings of a prior, and judging as a whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.contracts.scores import Measured, NotMeasured
from auditor.errors import InvalidInput
from auditor.evaluation.base import Reference, hits
from auditor.evaluation.catalog import EVALUATORS
from auditor.evaluation.ceilings import PriorMeasure, control_rates, measure_prior, real_rates
from auditor.evaluation.intervals import Bootstrap
from auditor.evaluation.judgement import acceptance_matrix, choices, eight_bit, judge_images
from auditor.evaluation.knn import nearest_squared
from auditor.evaluation.rates import summarise_attack
from auditor.tensors import RunContext

from .conftest import N_CLASSES, SmallAudit

BOOTSTRAP = Bootstrap(300, 0)


@pytest.fixture(scope="module")
def measure(small_audit: SmallAudit, ctx: RunContext) -> PriorMeasure:
    return measure_prior(small_audit.prior, small_audit.reference, small_audit.heldout, ctx, n_control_samples=300)


def test_a_prior_that_can_draw_them_has_a_high_ceiling_and_a_low_control(measure: PriorMeasure):
    scores = measure.card_scores(BOOTSTRAP)
    assert set(scores) == {"class_coverage", "ceiling_evaluator", "ceiling_judge", "ceiling_both", "control_both"}
    assert all(isinstance(score, Measured) for score in scores.values())
    assert scores["ceiling_both"].value > 0.8
    assert scores["control_both"].value <= 1 / N_CLASSES
    assert measure.real.both.mean() > 0.7
    assert measure.control.evaluator.sum() == pytest.approx(1)


def test_a_prior_that_cannot_draw_them_has_a_low_ceiling(small_audit: SmallAudit, ctx: RunContext):
    class Blind:
        name, latent_dim, image_shape, digest, traits = "blind", 2, (1, 16, 16), "b", frozenset()

        def decode(self, latents: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
            return torch.full((len(latents), 1, 16, 16), 0.5)

        def critic(self, images: torch.Tensor) -> None:
            return None

        def project(self, images, ctx: RunContext, labels=None) -> torch.Tensor:
            return torch.zeros(len(images), 2)

    blind = measure_prior(Blind(), small_audit.reference, small_audit.heldout, ctx, n_control_samples=50)
    assert blind.ceiling.both.mean() <= 1 / N_CLASSES
    judgement = judge_images(small_audit.heldout.images, small_audit.heldout.labels, small_audit.reference, ctx)
    assert isinstance(
        summarise_attack(judgement, blind.control, blind.ceiling, BOOTSTRAP, key="x").score("lift"), NotMeasured
    )


def test_real_images_as_reconstructions_reach_the_ceiling(
    small_audit: SmallAudit, measure: PriorMeasure, ctx: RunContext
):
    heldout = small_audit.heldout
    judgement = judge_images(heldout.images, heldout.labels, small_audit.reference, ctx)
    lift = summarise_attack(judgement, measure.control, measure.ceiling, BOOTSTRAP, key="x").score("lift")
    assert isinstance(lift, Measured)
    assert lift.value > 0.8
    samples = small_audit.prior.decode(torch.randn(N_CLASSES * 10, small_audit.prior.latent_dim))
    unguided = judge_images(samples, np.repeat(np.arange(N_CLASSES), 10), small_audit.reference, ctx)
    none = summarise_attack(unguided, measure.control, measure.ceiling, BOOTSTRAP, key="x").score("lift")
    assert isinstance(none, Measured)
    assert none.value < 0.2


def test_same_seed_same_measure_whatever_the_batch(small_audit: SmallAudit, measure: PriorMeasure):
    again = measure_prior(
        small_audit.prior, small_audit.reference, small_audit.heldout, RunContext(batch_size=17), n_control_samples=300
    )
    for name, array in measure.arrays().items():
        assert np.allclose(array, again.arrays()[name], equal_nan=True), name


def test_arrays_go_through_a_file(measure: PriorMeasure, tmp_path):
    np.savez(tmp_path / "measure.npz", **measure.arrays())
    with np.load(tmp_path / "measure.npz") as stored:
        loaded = PriorMeasure.of_arrays(dict(stored))
    assert loaded.n_control_samples == measure.n_control_samples
    assert all(np.array_equal(a, loaded.arrays()[name], equal_nan=True) for name, a in measure.arrays().items())


def test_control_is_the_mean_of_the_acceptance_matrix(small_audit: SmallAudit, ctx: RunContext):
    images, reference = small_audit.heldout.images, small_audit.reference
    matrix = acceptance_matrix(images, reference.evaluator, reference.judge, ctx)
    assert matrix.shape == (len(images), N_CLASSES)
    assert (matrix.sum(axis=1) <= 1).all()
    assert np.allclose(control_rates(images, reference, ctx).both, matrix.mean(axis=0))
    by_evaluator, by_judge = choices(images, reference.evaluator, reference.judge, ctx)
    assert np.array_equal(matrix.any(axis=1), by_evaluator == by_judge)


def test_a_control_of_nothing_is_not_a_certain_zero(measure: PriorMeasure):
    empty = PriorMeasure(
        control=type(measure.control)(*(np.zeros(N_CLASSES) for _ in range(3)), np.full(N_CLASSES, 300)),
        ceiling=measure.ceiling, real=measure.real, n_control_samples=300,
    )  # fmt: skip
    score = empty.card_scores(BOOTSTRAP)["control_both"]
    assert isinstance(score, Measured)
    assert 0 == score.low < score.high < 0.01


def test_classes_without_a_held_out_image_have_no_rate(small_audit: SmallAudit, ctx: RunContext):
    some = small_audit.heldout.select(small_audit.heldout.labels < 5)
    rates = real_rates(some, small_audit.reference, ctx)
    assert np.isnan(rates.both[5:]).all()
    assert np.isfinite(rates.both[:5]).all()
    score = rates.score("ceiling", "both", BOOTSTRAP)
    assert isinstance(score, Measured)
    assert score.n == 20
    assert isinstance(rates.score("ceiling", "both", BOOTSTRAP, np.array([6, 7])), NotMeasured)


def test_a_measure_needs_both_witnesses(small_audit: SmallAudit, ctx: RunContext):
    alone = Reference(small_audit.evaluator, None)
    with pytest.raises(ValueError, match="control needs"):
        control_rates(small_audit.heldout.images, alone, ctx)
    with pytest.raises(ValueError, match="ceiling needs"):
        real_rates(small_audit.heldout, alone, ctx)


def test_judging_is_on_eight_bits(small_audit: SmallAudit, ctx: RunContext):
    images, labels = small_audit.heldout.images, small_audit.heldout.labels
    stored = (images * 255).round().to(torch.uint8)
    assert torch.equal(eight_bit(images), eight_bit(stored.numpy()))
    first = judge_images(images, labels, small_audit.reference, ctx)
    second = judge_images(stored.numpy(), labels.numpy(), small_audit.reference, ctx)
    for name, rows in first.values.items():
        assert np.array_equal(rows, second.values[name]), name


def test_rows_and_what_is_missing(small_audit: SmallAudit, ctx: RunContext):
    images, labels = small_audit.heldout.images, small_audit.heldout.labels
    full = judge_images(images, labels, small_audit.reference, ctx)
    assert set(full.values) == {"evaluator_top1", "evaluator_top5", "judge_top1", "judge_top5", "knn"}
    assert np.array_equal(full.both, full.evaluator_top1 & full.judge_top1)
    assert (full.evaluator_top5 | ~full.evaluator_top1).all()
    assert (full.judge_top5 | ~full.judge_top1).all()
    lone = judge_images(images, labels, Reference(None, None, reasons={"judge": "no public data"}), ctx)
    assert lone.values == {}
    assert lone.missing["judge_top1"] == "no public data"
    with pytest.raises(InvalidInput, match="there is no evaluator"):
        _ = lone.evaluator_top1
    with pytest.raises(ValueError, match="at least one picture"):
        judge_images(images[:0], labels[:0], small_audit.reference, ctx)


def test_ties_count_against_a_success():
    scores = torch.tensor([[1.0, 1.0, 1.0], [2.0, 1.0, 0.0], [-torch.inf, 1.0, 0.0]])
    assert hits(scores, torch.tensor([0, 0, 0]), 1).tolist() == [0, 1, 0]
    assert hits(scores, torch.tensor([1, 1, 0]), 2).tolist() == [0, 1, 0]


def test_nearest_squared_against_a_slow_loop():
    generator = torch.Generator().manual_seed(0)
    rows, references = torch.randn(7, 3, generator=generator), torch.randn(9, 3, generator=generator)
    labels, owners = torch.tensor([0, 1, 2, 0, 1, 2, 3]), torch.tensor([0, 1, 2] * 3)
    found = nearest_squared(rows, labels, references, owners)
    for i in range(6):
        slow = min(float((rows[i] - references[j]).square().sum()) for j in range(9) if owners[j] == labels[i])
        assert found[i] == pytest.approx(slow, rel=1e-5)
    assert np.isnan(found[6])
    assert np.allclose(nearest_squared(2 * rows, labels, 2 * references, owners)[:6], 4 * found[:6])


def test_the_catalog_describes_itself():
    rows = EVALUATORS.describe()
    assert [row["name"] for row in rows] == ["classifier", "judge", "agreement", "knn"]
    assert all(row["paper"] and row["summary"] for row in rows)
