import pytest
from repair_candidates import BUDGET, candidate, quick, start, trained, unmeasured

from auditor.contracts.base import digest_of
from auditor.contracts.jobs import UnitSpec
from auditor.contracts.manifest import Manifest, ModelSpec
from auditor.contracts.outcome import OutcomeStatus
from auditor.contracts.policy import Policy, RiskLevel, Verdict
from auditor.contracts.repair import RepairReport
from auditor.contracts.scores import NotMeasured
from auditor.service.workspace import Workspace
from auditor.tensors import RunContext
from auditor.testing.evidence import measured, sample_outcome
from auditor.testing.reports import sample_report
from remediation.choice import choose
from remediation.compare import repair_report
from remediation.decisions import repair_choose, repair_compare
from remediation.offers import OFFERS


def test_controls_are_no_attacks():
    report = sample_report(attacks=(sample_outcome("ppa"), sample_outcome("best-of-prior", is_control=True)))
    assert set(candidate(2, report).lift) == {"ppa"}


def test_an_attack_with_nothing_to_work_on_is_not_missing():
    """Else a candidate without a public front could never be ranked beside one that has it."""
    idle = sample_outcome("front").model_copy(update={"status": OutcomeStatus.INAPPLICABLE, "scores": ()})
    found = candidate(2, sample_report(attacks=(*quick(0.4).attacks, idle)))
    assert set(found.lift) == {"a0"}
    assert choose([found])[0] == 2


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
    assert found.policy_loosened == ()
    loose = sample_report(Verdict.FAIL).model_copy(update={"policy": Policy(fail_on=RiskLevel.CRITICAL)})
    assert report_of(sample_report(Verdict.PASS), before=loose).policy_loosened == loose.policy.loosened() != ()
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
