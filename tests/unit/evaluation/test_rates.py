"""Scores, table and findings of one attack, from judgements made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from auditor.contracts.scores import Measured, NotMeasured
from auditor.evaluation.base import Judgement
from auditor.evaluation.ceilings import ClassRates
from auditor.evaluation.intervals import Bootstrap
from auditor.evaluation.rates import has_moved, named_classes, summarise_attack, worst_class_bound

BOOTSTRAP = Bootstrap(300, 0)
METRICS = (
    "evaluator_top1", "evaluator_top5", "judge_top1", "judge_top5", "both_agree", "implied_fpr", "knn_distance",
    "control_evaluator", "control_judge", "control_both", "ceiling_both", "lift",
)  # fmt: skip


def judged(evaluator, judge, per_class: int, *, n_classes: int | None = None) -> Judgement:
    """Rows class by class; `evaluator` and `judge` are (G * per_class,) hits."""
    evaluator, judge = np.asarray(evaluator, dtype=float), np.asarray(judge, dtype=float)
    labels = np.repeat(np.arange(len(evaluator) // per_class), per_class)
    values = {
        "evaluator_top1": evaluator,
        "evaluator_top5": np.maximum(evaluator, 0),
        "judge_top1": judge,
        "judge_top5": judge,
        "knn": np.linspace(1, 2, len(labels)),
    }
    return Judgement(labels, n_classes or len(labels) // per_class, values, {})


def flat(rate: float, n_classes: int, n: int = 100) -> ClassRates:
    return ClassRates(*(np.full(n_classes, rate) for _ in range(3)), np.full(n_classes, n))


def summary(judgement: Judgement, control=0.01, ceiling=0.6, **options):
    K = judgement.n_classes
    return summarise_attack(judgement, flat(control, K), flat(ceiling, K), BOOTSTRAP, key="ppa", **options)


def value(result, metric: str) -> float:
    score = result.score(metric)
    assert isinstance(score, Measured), score
    return score.value


def test_every_metric_of_the_contract_is_there_once():
    result = summary(judged([1, 0] * 40, [1, 0] * 40, 4))
    assert tuple(score.metric for score in result.scores) == METRICS
    assert all(isinstance(score, Measured) for score in result.scores)


def test_values():
    evaluator, judge = [1, 1, 1, 0] * 20, [1, 0, 0, 1] * 20
    result = summary(judged(evaluator, judge, 4), class_names=["anna"])
    assert value(result, "evaluator_top1") == pytest.approx(0.75)
    assert value(result, "judge_top1") == pytest.approx(0.5)
    assert value(result, "both_agree") == pytest.approx(0.25)
    assert value(result, "implied_fpr") == pytest.approx(1.0)
    assert value(result, "lift") == pytest.approx((0.25 - 0.01) / 0.59)
    row = result.per_class[0]
    assert (row.label, row.name, row.n, row.both, row.control_both, row.ceiling_both) == (0, "anna", 4, 0.25, 0.01, 0.6)
    assert result.per_class[1].name == "1"
    assert row.knn == pytest.approx(np.linspace(1, 2, 80)[:4].mean())


def test_row_order_changes_nothing():
    generator = np.random.default_rng(3)
    plain = judged(generator.random(120) < 0.5, generator.random(120) < 0.4, 4)
    order = generator.permutation(120)
    shuffled = Judgement(plain.labels[order], plain.n_classes, {k: v[order] for k, v in plain.values.items()}, {})
    first, second = summary(plain), summary(shuffled)
    for a, b in zip(first.scores, second.scores, strict=True):
        assert isinstance(a, Measured)
        assert isinstance(b, Measured)
        assert (a.metric, a.n) == (b.metric, b.n)
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), abs=1e-12)
    assert first.named_classes == second.named_classes
    assert first.w95_high == second.w95_high


def test_lift_never_falls_when_a_picture_succeeds():
    evaluator, judge = np.ones(100), np.zeros(100)
    previous = None
    for row in np.random.default_rng(0).permutation(100)[:40]:
        judge[row] = 1
        score = summary(judged(evaluator, judge, 5)).score("lift")
        assert isinstance(score, Measured)
        if previous is not None:
            assert score.value >= previous.value
            assert score.low >= previous.low - 1e-12
            assert score.high >= previous.high - 1e-12
        previous = score


def test_no_success_is_not_a_certain_zero():
    result = summary(judged([0] * 300, [0] * 300, 5))
    both, lift = result.score("both_agree"), result.score("lift")
    assert isinstance(both, Measured)
    assert isinstance(lift, Measured)
    assert (both.value, both.low) == (0, 0)
    assert both.high > 0.05
    assert lift.high > 0.05


def test_a_missing_judge_is_said_and_nothing_is_defaulted():
    judgement = judged([1] * 40, [1] * 40, 2)
    values = {k: v for k, v in judgement.values.items() if not k.startswith("judge")}
    missing = dict.fromkeys(("judge_top1", "judge_top5"), "no public data")
    result = summary(Judgement(judgement.labels, judgement.n_classes, values, missing))
    for metric in ("judge_top1", "judge_top5", "both_agree", "implied_fpr", "lift"):
        score = result.score(metric)
        assert isinstance(score, NotMeasured)
        assert score.reason == "no public data"
    assert isinstance(result.score("evaluator_top1"), Measured)
    assert (result.per_class, result.w95_high, result.named_classes) == ((), None, ())


def test_a_missing_prior_measure_is_said():
    judgement = judged([1] * 40, [1] * 40, 2)
    gone = NotMeasured(metric="control", reason="the prior could not be measured")
    result = summarise_attack(judgement, gone, flat(0.6, 20), BOOTSTRAP, key="x")
    assert isinstance(result.score("control_both"), NotMeasured)
    assert isinstance(result.score("lift"), NotMeasured)
    assert result.per_class == ()
    result = summarise_attack(judgement, flat(0.01, 20), gone, BOOTSTRAP, key="x")
    assert isinstance(result.score("ceiling_both"), NotMeasured)
    assert isinstance(result.score("lift"), NotMeasured)
    assert result.per_class[0].ceiling_both is None


def test_a_prior_that_could_not_draw_them_gives_no_lift():
    score = summary(judged([1, 0] * 20, [1, 0] * 20, 2), control=0.05, ceiling=0.05).score("lift")
    assert isinstance(score, NotMeasured)
    assert "could not have drawn" in score.reason


def test_classes_without_a_reference_are_not_counted_as_failures():
    judgement = judged([1] * 40, [1] * 40, 2)
    judgement.values["judge_top1"][:2] = np.nan
    result = summary(judgement)
    for metric in ("judge_top1", "both_agree", "lift"):
        score = result.score(metric)
        assert isinstance(score, NotMeasured)
        assert "1 attacked classes have no private reference" in score.reason
    assert result.per_class == ()


def test_few_held_out_classes_give_no_lift():
    judgement = judged([1, 0] * 20, [1, 0] * 20, 2)
    ceiling = flat(0.5, 20)
    ceiling.both[:11] = np.nan
    result = summarise_attack(judgement, flat(0.01, 20), ceiling, BOOTSTRAP, key="x")
    assert isinstance(result.score("lift"), NotMeasured)
    ceiling.both[:10] = 0.5
    result = summarise_attack(judgement, flat(0.01, 20), ceiling, BOOTSTRAP, key="x")
    assert isinstance(result.score("lift"), Measured)


def test_top5_of_five_classes_says_nothing():
    result = summary(judged([1] * 10, [1] * 10, 2))
    assert isinstance(result.score("evaluator_top5"), NotMeasured)
    assert isinstance(result.score("evaluator_top1"), Measured)


def test_false_positives_are_a_finding():
    generator = np.random.default_rng(1)
    result = summary(judged(np.ones(200), generator.random(200) < 0.1, 5), ceiling=0.4)
    assert [finding.code for finding in result.findings] == ["evaluator-only-success", "evaluator-above-ceiling"]
    assert "not people" in result.findings[0].message
    agreed = generator.random(200) < 0.3
    assert summary(judged(agreed, agreed, 5), ceiling=0.6).findings == ()


def test_named_classes_need_evidence():
    five = judged([1] * 100, [1] * 100, 5)
    assert len(named_classes(five, flat(0.0, 20), named_rate=0.5)) == 20
    assert named_classes(five, flat(0.5, 20), named_rate=0.5) == ()
    one_of_twenty = np.zeros(100)
    one_of_twenty[:5] = 1
    assert named_classes(judged(one_of_twenty, one_of_twenty, 5), flat(0.0, 20), named_rate=0.5) == ()
    many = np.zeros(400)
    many[:20] = 1
    assert named_classes(judged(many, many, 20), flat(0.0, 20), named_rate=0.5) == (0,)
    most_and_few = (np.arange(2000) % 10 < np.repeat([9, 4], 10)[:, None]).ravel()
    assert named_classes(judged(most_and_few, most_and_few, 2000), flat(0.1, 20), named_rate=0.5) == tuple(range(10))


def test_worst_class_bound_follows_the_posterior():
    assert worst_class_bound(judged(np.zeros(300), np.zeros(300), 5), BOOTSTRAP) == pytest.approx(0.5 / 6)
    hits = np.zeros(300)
    hits[:25] = 1
    assert worst_class_bound(judged(hits, hits, 5), BOOTSTRAP) == pytest.approx(5.5 / 6)


def test_an_attack_that_did_not_move():
    labels = np.repeat(np.arange(30), 3)
    start = np.random.default_rng(0).random(90) * 0.1
    assert has_moved(start, start + 0.2, labels, BOOTSTRAP)
    assert not has_moved(start, start, labels, BOOTSTRAP)
    assert not has_moved(start, start - 0.05, labels, BOOTSTRAP)
    one_class = start.copy()
    one_class[:3] += 0.5
    assert not has_moved(start, one_class, labels, BOOTSTRAP)
    assert not has_moved(start, np.full(90, np.nan), labels, BOOTSTRAP)
    assert not has_moved([], [], np.zeros(0, dtype=np.int64), BOOTSTRAP)
