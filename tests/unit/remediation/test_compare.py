import pytest

from auditor.contracts.base import digest_of
from auditor.contracts.cards import OverlapCheck
from auditor.contracts.jobs import UnitSpec
from auditor.contracts.manifest import Manifest, ModelSpec, RepairBudget
from auditor.contracts.outcome import OutcomeStatus
from auditor.contracts.policy import Verdict
from auditor.contracts.prepared import PreparedAudit
from auditor.contracts.repair import FreezePlan, NormMode, RepairReport, RepairStart, TrainedCandidate
from auditor.contracts.scores import NotMeasured
from auditor.errors import InvalidInput
from auditor.service.candidates import with_adaptive
from auditor.service.workspace import Workspace
from auditor.tensors import RunContext
from auditor.testing.evidence import measured, sample_outcome
from auditor.testing.reports import sample_report
from remediation.compare import (
    audited_candidate,
    better_third,
    choose,
    pareto_front,
    repair_report,
    require_same_measures,
    require_same_plan,
    within_budget,
)
from remediation.offers import OFFERS
from remediation.stages import repair_choose, repair_compare

BUDGET = RepairBudget(max_accuracy_loss=0.03)
BEFORE = measured("heldout_accuracy", 0.75)


def trained(boundary, accuracy=0.74):
    plan = FreezePlan(
        boundary=boundary, n_units=7, units=(), parameters=(), norm_mode=NormMode.FROZEN, tuned_parameters=1,
        total_parameters=2, digest_before="a", digest_after="a",
    )  # fmt: skip
    return TrainedCandidate(
        freeze=plan, proposed_by="quantile", best_epoch=3, epochs=10, validation_accuracy=measured("v", accuracy),
        heldout_accuracy=measured("heldout_accuracy", accuracy), model_digest=digest_of(boundary),
        model_format="safetensors", parity_max_abs_error=None,
    )  # fmt: skip


def quick(*lifts, **options):
    """A report whose attacks have these upper bounds of the lift."""
    attacks = tuple(sample_outcome(f"a{i}", lift=(high - 0.1, high - 0.2, high)) for i, high in enumerate(lifts))
    return sample_report(attacks=attacks, **options)


def candidate(boundary, report, accuracy=0.74):
    return audited_candidate(trained(boundary, accuracy), report, BEFORE, BUDGET)


def start():
    return RepairStart(
        defense="tl-dmi", paper="p", pretraining="public", weights_digest="w", network="small-cnn", n_units=7,
        boundaries={2: "fisher", 4: "quantile", 5: "quantile"}, accuracy_before=BEFORE,
    )  # fmt: skip


def test_the_smallest_upper_bound_under_the_worst_attack_wins():
    found = choose([candidate(2, quick(0.2, 0.5)), candidate(4, quick(0.4, 0.4)), candidate(5, quick(0.1, 0.6))])
    assert found == (4, ())


def test_among_equals_the_most_accurate_is_chosen():
    assert choose([candidate(2, quick(0.43), accuracy=0.75), candidate(4, quick(0.40))])[0] == 2
    assert choose([candidate(2, quick(0.47), accuracy=0.75), candidate(4, quick(0.40))])[0] == 4


def test_candidates_over_the_budget_do_not_count():
    assert choose([candidate(2, quick(0.4)), candidate(5, quick(0.1), accuracy=0.70)])[0] == 2
    chosen, notes = choose([candidate(5, quick(0.1), accuracy=0.5)])
    assert chosen is None
    assert "budget" in notes[0]


def test_the_budget_is_inclusive_and_unknown_accuracy_is_over_it():
    assert within_budget(measured("x", 0.75), measured("x", 0.72), BUDGET)
    assert not within_budget(measured("x", 0.75), measured("x", 0.7199), BUDGET)
    assert not within_budget(measured("x", 0.75), NotMeasured(metric="x", reason="r"), BUDGET)


def unmeasured(report, metrics):
    attacks = tuple(
        outcome.model_copy(
            update={
                "scores": tuple(
                    NotMeasured(metric=s.metric, reason="r") if s.metric in metrics else s for s in outcome.scores
                )
            }
        )
        for outcome in report.attacks
    )
    return report.model_copy(update={"attacks": attacks})


def test_what_was_not_measured_never_looks_best():
    known, unknown = candidate(2, quick(0.6)), candidate(4, unmeasured(quick(0.1), {"lift"}))
    chosen, notes = choose([known, unknown])
    assert chosen == 2
    assert any("boundary 4" in note for note in notes)
    chosen, notes = choose([unknown])
    assert chosen == 4
    assert "both_agree" in notes[0]
    nothing = candidate(5, unmeasured(quick(0.1), {"lift", "both_agree", "evaluator_top1"}))
    assert choose([nothing])[0] is None


def test_controls_are_no_attacks():
    report = sample_report(attacks=(sample_outcome("ppa"), sample_outcome("best-of-prior", is_control=True)))
    assert set(candidate(2, report).lift) == {"ppa"}


def test_an_attack_with_nothing_to_work_on_is_not_missing():
    """Else a candidate without a public front could never be ranked beside one that has it."""
    idle = sample_outcome("front").model_copy(update={"status": OutcomeStatus.INAPPLICABLE, "scores": ()})
    found = candidate(2, sample_report(attacks=(*quick(0.4).attacks, idle)))
    assert set(found.lift) == {"a0"}
    assert choose([found])[0] == 2


def test_audits_under_different_plans_are_refused():
    before = sample_report()
    require_same_plan(before, sample_report(Verdict.PASS))
    more_samples = before.plan.model_copy(update={"samples_per_class": 9})
    with pytest.raises(InvalidInput, match="the plan"):
        require_same_plan(before, before.model_copy(update={"plan": more_samples}))
    for field, wanted in (("data_digest", "data"), ("seed", "seed")):
        value = 7 if field == "seed" else "other"
        other = before.model_copy(update={"provenance": before.provenance.model_copy(update={field: value})})
        with pytest.raises(InvalidInput, match=wanted):
            require_same_plan(before, other)
    judged = before.model_copy(update={"judge": before.judge.model_copy(update={"digest": "other"})})
    with pytest.raises(InvalidInput, match="judge"):
        require_same_plan(before, judged)


def prepared_of(report, **changes):
    """What `prepare` would leave for the audit of this report."""
    values = {name: getattr(report, name) for name in ("evaluator", "judge", "priors", "data")} | changes
    overlap = OverlapCheck(checked=False, note="")
    return PreparedAudit(classes=(0,), class_names=("a",), attacks=(), overlap=overlap, **values)


def test_a_repair_that_could_not_be_compared_is_refused_before_it_trains():
    before = sample_report()
    require_same_measures(before, prepared_of(before))
    require_same_measures(before, prepared_of(before, priors=()))  # the quick plan keeps the first prior alone
    other = {"digest": "other"}
    for changes, wanted in (
        ({"evaluator": before.evaluator.model_copy(update=other)}, "the evaluator"),
        ({"judge": before.judge.model_copy(update=other)}, "the judge"),
        ({"priors": tuple(prior.model_copy(update=other) for prior in before.priors)}, "the priors"),
    ):
        with pytest.raises(InvalidInput, match=wanted) as caught:
            require_same_measures(before, prepared_of(before, **changes))
        assert "--fresh" in caught.value.remedy


def test_a_prior_that_is_made_for_each_target_may_differ():
    made = tuple(p.model_copy(update={"target_queries": 9}) for p in sample_report().priors)
    before = sample_report().model_copy(update={"priors": made})
    after = before.model_copy(update={"priors": tuple(p.model_copy(update={"digest": "own"}) for p in made)})
    require_same_plan(before, after)
    require_same_measures(before, prepared_of(after))
    with pytest.raises(InvalidInput, match="the priors"):
        require_same_plan(before, before.model_copy(update={"priors": ()}))


def test_the_audit_after_may_have_further_attacks_but_must_have_those_before():
    before = sample_report()
    more = with_adaptive(before.plan, OFFERS["tl-dmi"].adaptive)
    require_same_plan(before, before.model_copy(update={"plan": more}))
    with pytest.raises(InvalidInput, match="the plan"):
        require_same_plan(before.model_copy(update={"plan": more}), before)


def knowing(static, adaptive, averaged=None):
    """A quick report with one attack that knows nothing of the defense and one that does, by their lifts.

    `averaged` adds the plan's own PPA with averaged gradients, which sees through defenses in general.
    """
    key = OFFERS["tl-dmi"].adaptive[0].key
    own = () if averaged is None else (sample_outcome("ppa-averaged", attack="ppa", lift=averaged, adaptive=True),)
    return sample_report(attacks=(sample_outcome("ppa", lift=static), *own, sample_outcome(key, lift=adaptive)))


def lifts(low):
    return (low + 0.1, low, low + 0.2)


def notes_of(before, after):
    found = repair_report(
        start(), {4: trained(4)}, {4: after}, before=sample_report(), before_quick=before, after=sample_report(),
        budget=BUDGET,
    )  # fmt: skip
    return " ".join(found.notes)


def test_masked_gradients_are_seen_where_the_plan_has_averaged_ones_itself():
    """As every preset has: then not all static attacks find less."""
    before = knowing(lifts(0.6), lifts(0.6), lifts(0.6))
    assert "hides" in notes_of(before, knowing(lifts(0.0), lifts(0.6), lifts(0.6)))
    assert "hides" in notes_of(before, knowing(lifts(0.0), lifts(0.0), lifts(0.6)))
    assert "hides" not in notes_of(before, knowing(lifts(0.0), lifts(0.0), lifts(0.0)))


def test_an_attack_that_knows_and_gains_far_less_counts_as_seeing_through_it():
    before = knowing(lifts(0.6), lifts(0.6))
    assert "hides" in notes_of(before, knowing(lifts(0.0), lifts(0.45)))


def test_an_attack_that_knows_and_could_not_be_measured_proves_nothing():
    before, after = knowing(lifts(0.6), lifts(0.6)), knowing(lifts(0.0), lifts(0.0))
    blind, seeing = after.attacks
    unjudged = after.model_copy(update={"attacks": (blind, seeing.model_copy(update={"per_class": ()}))})
    assert "hides" in notes_of(before, unjudged)


@pytest.mark.parametrize(
    ("static", "adaptive", "hides"), [(0.1, 0.6, True), (0.1, 0.1, False), (0.6, 0.6, False), (0.6, 0.1, False)]
)
def test_a_defense_that_only_hides_says_so(static, adaptive, hides):
    """Both attacks had a lift of at least 0.6 before: a fall under the blind one alone removed nothing."""
    before, after = knowing(lifts(0.6), lifts(0.6)), knowing(lifts(static), lifts(adaptive))
    found = repair_report(
        start(), {4: trained(4)}, {4: after}, before=sample_report(), before_quick=before, after=sample_report(),
        budget=BUDGET,
    )  # fmt: skip
    assert {row.attack for row in found.adaptive_differences} == {OFFERS["tl-dmi"].adaptive[0].key}
    assert any("hides" in note for note in found.notes) == hides


def trials_of(rows):
    """Trials from (lift, accuracy) by boundary."""
    return [candidate(k, quick(lift), accuracy) for k, (lift, accuracy) in rows.items()]


def test_a_sweep_keeps_a_third_that_may_end_within_the_budget():
    """Every frozen unit costs accuracy and leak: all are on the front, and only the first three are near the leader."""
    rows = {
        0: (0.8, 0.95),
        1: (0.7, 0.93),
        2: (0.65, 0.92),
        3: (0.5, 0.71),
        4: (0.4, 0.5),
        5: (0.3, 0.3),
        6: (0.2, 0.2),
    }
    trials = trials_of(rows)
    assert pareto_front(trials) == tuple(range(7))
    assert better_third(trials, 0.03) == (0, 1, 2)
    assert better_third(trials, 0.03, always=[5]) == (0, 1, 2, 5)
    assert better_third(trials, 1.0) == (0, 3, 6), "ends and middle of the front, not the three that are broken most"
    assert better_third(trials, 0.0) == (0, 1, 6), "the leader, then the ends of the rest"
    assert len(better_third(trials + trials_of(dict.fromkeys(range(7, 12), (0.4, 0.65))), 1.0)) == 4
    assert better_third([], 0.1) == ()


def test_what_is_dominated_or_could_not_be_judged_is_kept_last():
    """Boundary 1 leaks more than 0 and is less accurate."""
    trials = trials_of({0: (0.6, 0.8), 1: (0.7, 0.7), 2: (0.5, 0.7), 3: (0.1, 0.4), 4: (0.65, 0.6), 5: (0.9, 0.3)})
    assert pareto_front(trials) == (0, 2, 3)
    assert better_third(trials, 1.0) == (0, 2, 3)
    unjudged = [candidate(6, unmeasured(quick(0.2), {"lift"}), 0.9)]
    assert 6 not in pareto_front(trials + unjudged)
    assert 6 not in better_third(trials + unjudged, 1.0)


def test_without_lifts_the_rates_say_who_is_on_the_front():
    rows = {0: (0.9, 0.9), 1: (0.7, 0.8), 2: (0.8, 0.7)}
    trials = [
        candidate(k, unmeasured(quick(0.5), {"lift"}), accuracy).model_copy(
            update={"both_agree": {"a0": measured("both_agree", rate)}}
        )
        for k, (rate, accuracy) in rows.items()
    ]
    assert pareto_front(trials) == (0, 1)


def report_of(after, **changes):
    reports = {2: quick(0.5), 4: quick(0.3)}
    arguments = {
        "before": sample_report(Verdict.FAIL), "before_quick": quick(0.7), "after": after, "budget": BUDGET,
    } | changes  # fmt: skip
    return repair_report(start(), {2: trained(2), 4: trained(4), 5: trained(5)}, reports, **arguments)


def test_a_repair_report_pairs_before_and_after_by_class():
    found = report_of(sample_report(Verdict.PASS))
    assert found.chosen == 4
    assert found.model_digest == digest_of(4)
    assert found.verdict_before is Verdict.FAIL
    assert found.verdict_after is Verdict.PASS
    assert {row.metric for row in found.differences} >= {"lift", "both_agree"}
    lift = next(row for row in found.differences if row.metric == "lift")
    assert lift.difference.low > 0
    assert found.quick_lift_before["a0"].high == 0.7
    assert (found.heuristic.proposed, found.heuristic.best) == (4, 4)
    assert found.heuristic.regret.value == 0
    assert found.front == (4,)  # as accurate as 2, and leaks less
    before = sample_report(Verdict.FAIL)
    assert (found.seed, found.weights_digest) == (before.provenance.seed, "w")
    assert found.data == {card.role: card.digest for card in before.data} != {}
    assert any("boundary 5 failed" in note for note in found.notes)
    assert found.model_dump_json() == report_of(sample_report(Verdict.PASS)).model_dump_json()


def test_the_accuracy_reported_is_of_images_that_chose_nothing():
    begun = start().model_copy(update={"test_accuracy_before": measured("heldout_accuracy", 0.71)})
    tested = {k: trained(k).model_copy(update={"test_accuracy": measured("heldout_accuracy", 0.6)}) for k in (2, 4)}
    reports = {"before": sample_report(Verdict.FAIL), "before_quick": quick(0.7), "after": sample_report(Verdict.PASS)}
    found = repair_report(begun, tested, {2: quick(0.5), 4: quick(0.3)}, budget=BUDGET, **reports)
    assert found.chosen == 4  # within the budget on the images that may choose, 0.74 after 0.75
    assert (found.accuracy_before.value, found.accuracy_after.value) == (0.71, 0.6)
    assert found.candidates[0].accuracy.value == 0.6
    assert any("chosen among 2" in note for note in found.notes)


def unkept(trained_ones, reports, **changes):
    arguments = {"before": sample_report(Verdict.FAIL), "before_quick": quick(0.7), "after": None, "budget": BUDGET}
    return repair_report(start(), trained_ones, reports, **arguments | changes)


def test_why_no_model_was_kept_is_told_apart():
    none = unkept({}, {}, failed={"k4/train": "training gave weights that are not finite. Take a lower `lr`."})
    assert none.unkept == "No candidate could be trained."
    assert any("k4/train failed" in note and "lower `lr`" in note for note in none.notes)
    assert unkept({4: trained(4)}, {}).unkept == "No candidate's audit succeeded."
    over = unkept({4: trained(4, 0.5).model_copy(update={"notes": ("epsilon 3",)})}, {4: quick(0.3)})
    assert "accuracy budget" in over.unkept
    assert "boundary 4: epsilon 3" in over.notes
    assert "full audit" in unkept({4: trained(4)}, {4: quick(0.3)}).unkept
    assert (
        "could be judged"
        in unkept({4: trained(4)}, {4: unmeasured(quick(0.3), {"lift", "both_agree", "evaluator_top1"})}).unkept
    )
    assert report_of(sample_report(Verdict.PASS)).unkept == ""


def test_without_fisher_scores_there_is_nothing_to_check():
    bare = sample_report(Verdict.FAIL, fisher=NotMeasured(metric="fisher", reason="no gradients"))
    assert report_of(None, before=bare).heuristic is None


def test_a_failed_audit_after_the_repair_leaves_nothing_proved():
    found = report_of(None)
    assert (found.chosen, found.verdict_after, found.model_digest) == (None, None, None)
    assert isinstance(found.accuracy_after, NotMeasured)
    assert any("not proved" in note for note in found.notes)


def test_the_units_choose_and_compare_from_files(tmp_path):
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    manifest = Manifest(model=ModelSpec(name="m"), repair=BUDGET)
    files = {"manifest.json": manifest, "start.json": start(), "report.json": sample_report(Verdict.FAIL),
             "quick.json": quick(0.7), "after.json": sample_report(Verdict.PASS)}  # fmt: skip
    for k, high in ((2, 0.5), (4, 0.3)):
        files |= {f"k{k}.candidate.json": trained(k), f"k{k}.report.json": quick(high)}
    files["k5.candidate.json"] = trained(5)
    for name, value in files.items():
        (inputs / name).write_text(value.model_dump_json())
    workspace, ctx = Workspace(tmp_path, tmp_path / "cache"), RunContext()
    unit = UnitSpec(kind="repair-choose", key="choose", params={"boundaries": [2, 4, 5]})
    assert repair_choose(unit, workspace, ctx)["chosen"] == 4
    value = repair_compare(unit, workspace, ctx)
    stored = RepairReport.model_validate_json((tmp_path / "outputs/repair.json").read_text())
    assert value["id"] == stored.id
    assert value["chosen"] == stored.chosen == 4
