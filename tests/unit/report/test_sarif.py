"""SARIF: the official schema, GitHub's rules beyond it, and what must never look clean.

`sarif-schema-2.1.0.json` is the OASIS schema as SchemaStore distributes it.
"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import jsonschema
import pytest

from auditor.contracts.policy import Policy, RiskLevel, Thresholds, Verdict
from auditor.contracts.scores import NotMeasured
from auditor.errors import InvalidInput
from auditor.report.display import Display
from auditor.report.formats import render
from auditor.report.issues import RULES
from auditor.testing.reports import sample_outcome, sample_repair_report, sample_report, sample_target

SCHEMA = json.loads((Path(__file__).with_name("sarif-schema-2.1.0.json")).read_text())


def sarif(report, **display):
    return json.loads(render(report, "sarif", display=Display(**display)))


def run_of(report, **display):
    (run,) = sarif(report, **display)["runs"]
    return run


def invocation(run):
    (one,) = run["invocations"]
    return one


def keys(run, *, waived=None):
    return {
        (result["ruleId"], result["properties"]["subject"])
        for result in run["results"]
        if waived is None or bool(result.get("suppressions")) is waived
    }


def test_it_keeps_to_the_official_schema(decided):
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.Draft7Validator(SCHEMA, format_checker=jsonschema.FormatChecker()).validate(sarif(decided))


def test_the_schema_would_notice():
    document = sarif(sample_report())
    document["runs"][0]["results"][0]["level"] = "high"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)


def check_github(document):
    """https://docs.github.com/code-security/code-scanning: what an upload needs beyond the schema."""
    assert len(gzip.compress(json.dumps(document).encode())) < 10_000_000
    assert len(document["runs"]) <= 20
    for run in document["runs"]:
        rules = run["tool"]["driver"]["rules"]
        assert re.fullmatch(r"auditor/[^/]+/[^/]+", run["automationDetails"]["id"])
        assert len({rule["id"] for rule in rules}) == len(rules)
        for rule in rules:
            assert 0 < len(rule["name"]) <= 255
            assert 0 < len(rule["shortDescription"]["text"]) <= 1024
            assert 0 < len(rule["fullDescription"]["text"]) <= 1024
            assert rule["help"]["text"]
            assert rule["help"]["markdown"]
            assert rule["helpUri"].startswith("https://")
            assert len(rule["properties"]["tags"]) <= 20
            assert "security" in rule["properties"]["tags"]
            assert 0.0 < float(rule["properties"]["security-severity"]) <= 10.0
            assert isinstance(rule["properties"]["security-severity"], str)
        assert len(run["results"]) <= 5000
        prints = [result["partialFingerprints"]["primaryLocationLineHash"] for result in run["results"]]
        assert len(set(prints)) == len(prints)
        for result in run["results"]:
            assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
            assert result["message"]["text"]
            location = result["locations"][0]["physicalLocation"]
            uri = location["artifactLocation"]["uri"]
            assert uri
            assert not uri.startswith(("/", "file:"))
            assert ".." not in uri.split("/")
            assert location["region"] == {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 1}


def test_github_would_take_it(decided):
    check_github(sarif(decided))


def test_it_never_looks_clean_unless_it_is(decided):
    run = run_of(decided)
    failing = [r for r in run["results"] if r["properties"].get("state") == "failing"]
    verdict = decided.decision.verdict
    unfounded = verdict is Verdict.INCONCLUSIVE or (verdict is Verdict.FAIL and not failing)
    open_or_broken = unfounded or any(outcome.status == "failed" for outcome in decided.attacks)
    assert invocation(run)["executionSuccessful"] is not open_or_broken
    assert bool(invocation(run)["toolExecutionNotifications"]) is open_or_broken
    assert ("PMI900" in {result["ruleId"] for result in run["results"]}) is open_or_broken
    assert verdict is Verdict.PASS or {"PMI001", "PMI900"} & {result["ruleId"] for result in run["results"]}
    assert run["properties"]["verdict"] == decided.decision.verdict


def test_an_audit_without_anything_is_not_clean():
    gone = NotMeasured(metric="x", reason="no private data")
    run = run_of(sample_report(evaluator=gone, judge=gone, fisher=gone, attacks=()), min_severity=RiskLevel.CRITICAL)
    assert not invocation(run)["executionSuccessful"]
    assert [result["ruleId"] for result in run["results"]] == ["PMI900"]


class TestFindings:
    def test_every_rule_is_there_even_without_a_result(self):
        run = run_of(sample_report(Verdict.PASS))
        assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == [rule.id for rule in RULES]
        assert invocation(run)["executionSuccessful"]
        assert {result["ruleId"] for result in run["results"]} <= {"PMI030"}

    def test_levels_follow_the_risk(self):
        def one(lift):
            run = run_of(sample_report(lift=lift))
            (result,) = [result for result in run["results"] if result["properties"]["subject"] == "ppa"]
            return result["level"], run["tool"]["driver"]["rules"][0]["properties"]["security-severity"]

        assert one((0.6, 0.52, 0.7)) == ("error", "9.5")
        assert one((0.38, 0.31, 0.46)) == ("error", "8.0")
        assert one((0.15, 0.11, 0.20)) == ("warning", "5.5")

    @pytest.mark.parametrize(("fail_on", "lift"), [("medium", (0.15, 0.11, 0.20)), ("low", (0.0, -0.02, 0.03))])
    def test_what_fails_by_a_stricter_policy_stops_who_blocks_on_errors(self, fail_on, lift):
        report = sample_report(Verdict.FAIL, lift=lift, policy=Policy(name="strict", fail_on=fail_on))
        assert (report.decision.verdict, report.decision.level) == (Verdict.FAIL, fail_on)
        run = run_of(report)
        failing = [result for result in run["results"] if result["properties"].get("state") == "failing"]
        assert {(result["level"], result["properties"]["riskLevel"]) for result in failing} == {("error", fail_on)}
        assert run["tool"]["driver"]["rules"][0]["properties"]["security-severity"] == "8.0"
        gitlab = json.loads(render(report, "gitlab"))
        assert "critical" in {entry["severity"] for entry in gitlab}

    def test_named_classes_are_one_result_and_not_one_each(self, under):
        (result,) = [result for result in run_of(under("named"))["results"] if result["ruleId"] == "PMI002"]
        assert "person-003, person-004" in result["message"]["text"]

    def test_fingerprints_stay_over_retrainings(self):
        before = sample_report()
        after = sample_report(lift=(0.6, 0.52, 0.7), target=sample_target(digest="00" * 32))
        prints = [
            {r["properties"]["subject"]: r["partialFingerprints"] for r in run_of(report)["results"]}
            for report in (before, after)
        ]
        assert prints[0] == prints[1]
        other = run_of(sample_report(target=sample_target(name="other")))
        assert not {str(r["partialFingerprints"]) for r in other["results"]} & set(map(str, prints[0].values()))

    def test_two_models_have_two_categories(self):
        ids = [run_of(sample_report(target=sample_target(name=name)))["automationDetails"]["id"] for name in ("a", "b")]
        assert [one.rpartition("/")[0] for one in ids] == ["auditor/a", "auditor/b"]

    def test_the_number_and_the_model_are_in_it(self):
        report = sample_report()
        run = run_of(report)
        (ppa,) = [result for result in run["results"] if result["properties"]["subject"] == "ppa"]
        assert ppa["properties"]["liftLow"] == 0.31
        assert ppa["properties"]["coverage"] == 1.0
        assert run["properties"]["modelSha256"] == report.target.digest

    def test_names_from_outside_make_no_link_and_no_placeholder(self):
        hostile = "[all clear](https://example.org) {0}"
        report = sample_report(target=sample_target(warnings=(hostile,)))
        texts = [result["message"]["text"] for result in run_of(report)["results"]]
        assert "[all clear] (https://example.org) { 0 }" in texts

    def test_long_lists_are_cut_and_names_stay_text(self):
        named = tuple(range(60))
        report = sample_report(attacks=(sample_outcome("ppa", named=named),), target=sample_target(name="n"))
        assert all(len(result["message"]["text"]) <= 1000 for result in run_of(report)["results"])


class TestWaivers:
    def test_waived_findings_are_suppressed_with_their_reason(self, under):
        run = run_of(under("waived"))
        assert keys(run, waived=True) == {("PMI001", key) for key in ("ppa", "ppa-averaged", "mirror-b")}
        (said,) = {result["suppressions"][0]["justification"] for result in run["results"]
                   if result["properties"]["subject"] == "ppa"}  # fmt: skip
        for part in ("accepted until the next release", "W-attack-ppa", "privacy board", "2026-06-01"):
            assert part in said
        assert run["properties"]["headline"] == "PASS WITH WAIVERS · high"

    def test_what_is_not_waived_is_not_suppressed(self, under):
        assert keys(run_of(under("partly waived")), waived=False) >= {("PMI001", "mirror-b")}

    def test_expired_ones_are_told_and_suppress_nothing(self, under):
        run = run_of(under("expired"))
        assert keys(run, waived=True) == set()
        assert {rule for rule, _ in keys(run)} >= {"PMI001", "PMI031"}
        assert all("EXPIRED" in note["message"]["text"] for note in invocation(run)["toolConfigurationNotifications"])
        assert len(invocation(run)["toolConfigurationNotifications"]) == 3


class TestBaseline:
    def test_states(self, under):
        states = {r["properties"].get("state") for r in run_of(under("known"))["results"] if r["ruleId"] == "PMI001"}
        assert states == {"known"}
        run = run_of(under("regression"))
        (ppa,) = [r for r in run["results"] if (r["ruleId"], r["properties"]["subject"]) == ("PMI001", "ppa")]
        assert "the lift rose" in ppa["properties"]["regression"]
        assert ("PMI003", "ppa") in keys(run)
        assert run["properties"]["baseline"]["report_id"] == sample_report().id

    def test_people_newly_exposed_are_one_result(self, under):
        (found,) = [result for result in run_of(under("others"))["results"] if result["ruleId"] == "PMI004"]
        assert (
            "1 classes are exposed more than in the baseline: person-009 (1 of 20, now 11 of 20)"
            in found["message"]["text"]
        )
        assert "PMI004" not in {rule for rule, _ in keys(run_of(under("known")))}


class TestDisplay:
    def test_a_filter_hides_findings_and_never_what_fails_or_that_nothing_is_settled(self):
        policy = Policy(thresholds=Thresholds(high_lift=0.4))
        report = sample_report(Verdict.PASS, policy=policy)
        assert {r["ruleId"] for r in run_of(report)["results"]} == {"PMI030"}
        assert run_of(report, min_severity=RiskLevel.HIGH)["results"] == []
        failing = {("PMI001", finding.attack) for finding in sample_report().failures()}
        assert keys(run_of(sample_report(), min_severity=RiskLevel.CRITICAL)) == failing
        hidden = run_of(sample_report(Verdict.INCONCLUSIVE), min_severity=RiskLevel.CRITICAL)
        assert [r["ruleId"] for r in hidden["results"]] == ["PMI900"]

    def test_the_anchor(self):
        uris = [
            result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
            for result in run_of(sample_report(), anchor="./models/my model/auditor.yaml")["results"]
        ]
        assert set(uris) == {"models/my%20model/auditor.yaml"}

    def test_an_anchor_with_what_means_something_in_an_address_still_names_its_file(self):
        document = sarif(sample_report(), anchor="mödels/a#b%20?.yaml")
        jsonschema.Draft7Validator(SCHEMA, format_checker=jsonschema.FormatChecker()).validate(document)
        (uri,) = {
            result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
            for result in document["runs"][0]["results"]
        }
        assert uri == "m%C3%B6dels/a%23b%2520%3F.yaml"

    @pytest.mark.parametrize("anchor", ["/etc/passwd", "../a.yaml", "", ".", "https://a/b", "C:\\x", "a/../../b"])
    def test_anchors_outside_the_repository_are_refused(self, anchor):
        with pytest.raises(InvalidInput, match="--anchor"):
            Display(anchor=anchor)


@pytest.mark.parametrize("fmt", ["sarif", "junit", "gitlab"])
def test_there_is_none_of_a_repair(fmt):
    with pytest.raises(InvalidInput) as caught:
        render(sample_repair_report(), fmt)
    assert sample_repair_report().after_report_id[:12] in caught.value.remedy
