"""The policy contract's own rules, access order, and validation messages."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from auditor.contracts.access import Access
from auditor.contracts.base import Contract, digest_of
from auditor.contracts.manifest import Manifest
from auditor.contracts.policy import Policy, RiskLevel, Thresholds
from auditor.contracts.problems import problems_in
from auditor.contracts.report import AuditReport
from auditor.contracts.service import NewAudit
from auditor.testing.reports import sample_gallery, sample_report


def test_access_covers_what_is_weaker():
    assert Access.WHITE_BOX.covers(Access.LABEL)
    assert Access.SCORE.covers(Access.SCORE)
    assert not Access.LABEL.covers(Access.SCORE)
    assert [access.rank for access in Access] == [0, 1, 2, 3]


def test_levels_are_ordered():
    assert [level.rank for level in RiskLevel] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "bad",
    [{"clear_lift": 0.4}, {"high_lift": 0.6}, {"critical_lift": 1.2}, {"min_classes": 1}, {"min_classes": 61}],
)
def test_thresholds_that_cannot_be_meant(bad):
    with pytest.raises(ValidationError):
        Thresholds(**bad)


def test_digests_follow_content():
    assert digest_of(Policy()) == digest_of(Policy())
    assert digest_of(Policy(fail_on=RiskLevel.MEDIUM)) != digest_of(Policy())
    assert digest_of(Policy.model_validate_json(Policy().model_dump_json())) == digest_of(Policy())


def test_the_built_in_policys_name_is_told_of_it_alone():
    for name in ("default", "Default", "default ", "default@medium", "", "@low"):
        assert Policy(name=name, version="2").label == "(unnamed)"
        assert Policy(name=name, fail_on=RiskLevel.CRITICAL).label == "default@critical"
        assert Policy(name=name).label == "default"
    for name in ("team", "team@v2", "default-strict"):
        assert Policy(name=name, fail_on=RiskLevel.CRITICAL).label == name


def test_what_is_made_to_fail_on_another_level_is_not_called_the_same():
    strict = Policy(name="strict", fail_on=RiskLevel.LOW)
    assert strict.failing_on(RiskLevel.LOW) is strict
    looser = strict.failing_on(RiskLevel.HIGH)
    assert (looser.name, looser.label, looser.fail_on) == ("strict@high", "strict@high", RiskLevel.HIGH)
    assert looser.failing_on(RiskLevel.CRITICAL).name == "strict@critical"
    assert Policy(name="team@v2").failing_on(RiskLevel.LOW).name == "team@v2@low"
    assert Policy().failing_on(RiskLevel.LOW).failing_on(RiskLevel.HIGH).label == "default"
    long = Policy(name="a" * 120)
    assert long.failing_on(RiskLevel.LOW).name == "a" * 120 + "@low", "no two policies come to one name"


def test_a_level_behind_a_name_is_the_one_that_it_fails_on():
    for name in ("strict@low", "strict@LOW ", "strict@low@low", "strict@low@critical", "strict@critical"):
        policy = Policy(name=name, fail_on=RiskLevel.CRITICAL)
        assert (policy.family, policy.label) == ("strict", "strict@critical")
    endless = "a" + "@low" * 500_000
    assert Policy(name=endless).family == "a"
    assert Policy(name=f"{endless}x").family == f"{endless}x", "at once, however long"
    for name in ("low", "strict@lower", "strict@v2", "strict-low"):
        assert Policy(name=name, fail_on=RiskLevel.CRITICAL).label == name


def test_a_report_round_trips():
    report = sample_report()
    assert AuditReport.model_validate_json(report.model_dump_json()) == report


def test_problems_know_nested_keys_and_lists():
    with pytest.raises(ValidationError) as caught:
        Manifest.model_validate(
            {"model": {"name": "m", "arhitecture": "x"}, "plan": {"attacks": [{"name": "ppa", "pramas": {}}]}, "zzz": 1}
        )
    lines = problems_in(caught.value, Manifest, where="auditor.yaml")
    text = "\n".join(lines)
    assert len(lines) == 3
    assert "model.arhitecture: unknown key. Did you mean 'architecture'?" in text
    assert "plan.attacks.0.pramas: unknown key. Did you mean 'params'?" in text
    assert "auditor.yaml: zzz: unknown key. Known: version, model" in text


def test_keys_are_told_however_blank_and_tags_of_unions_never():
    sent = {"model": "f" * 32, "manifest": {"model": {"name": "m"}}, "policy": {" ": 1, "name": "x"}}
    with pytest.raises(ValidationError) as caught:
        NewAudit.model_validate(sent)
    (line,) = problems_in(caught.value, NewAudit)
    assert line.startswith("policy. : unknown key. Known: name, version")


def test_every_picture_is_judged():
    row = sample_gallery(1).rows[0]
    with pytest.raises(ValidationError, match="4 of 5 reconstructions are judged"):
        type(row).model_validate(row.model_dump() | {"accepted": row.accepted[1:]})


def test_problems_behind_a_union_tag():
    class Holder(Contract):
        report: AuditReport

    raw = sample_report().model_dump(mode="json")
    raw["attacks"][0]["scores"][0]["valeu"] = 1
    with pytest.raises(ValidationError) as caught:
        Holder.model_validate({"report": raw})
    assert any("valeu" in line for line in problems_in(caught.value, Holder))
