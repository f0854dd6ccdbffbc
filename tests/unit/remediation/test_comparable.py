"""Audits that cannot be compared are refused."""

import pytest

from auditor.contracts.cards import OverlapCheck
from auditor.contracts.policy import Verdict
from auditor.contracts.prepared import PreparedAudit
from auditor.errors import InvalidInput
from auditor.service.candidates import with_adaptive
from auditor.testing.reports import sample_report
from remediation.comparable import require_same_measures, require_same_plan
from remediation.offers import OFFERS


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
