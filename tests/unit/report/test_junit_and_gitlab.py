"""JUnit and GitLab's code quality: what fails there is what fails the gate."""

from __future__ import annotations

import base64
import html
import json
from xml.etree import ElementTree

import jsonschema
import pytest
from junitparser import Error, Failure, JUnitXml, Skipped

from auditor.contracts.base import digest_of
from auditor.contracts.policy import RiskLevel, Verdict
from auditor.contracts.report import Finding
from auditor.contracts.scores import NotMeasured
from auditor.report.display import Display
from auditor.report.formats import render
from auditor.report.wording import PASS_CAVEAT
from auditor.testing.reports import sample_attacks, sample_gallery, sample_report, sample_target


def cases(report):
    document = JUnitXml.fromstring(render(report, "junit").encode())
    (suite,) = list(document)
    return suite, {(case.classname.rpartition(".")[2], case.name): case for case in suite}


def results(case):
    return [type(result) for result in case.result]


def counted(report):
    kinds = [result for case in cases(report)[1].values() for result in results(case)]
    return kinds.count(Failure), kinds.count(Error), kinds.count(Skipped)


class TestJunit:
    def test_it_fails_exactly_where_the_gate_fails(self, decided):
        failures, errors, _ = counted(decided)
        verdict = decided.decision.verdict
        assert (failures > 0) is (verdict is Verdict.FAIL)
        if verdict is Verdict.INCONCLUSIVE:
            assert errors > 0
        if verdict is Verdict.PASS:
            assert errors == 0
        suite, by_name = cases(decided)
        assert (suite.failures, suite.errors, suite.tests) == (failures, errors, len(by_name))

    def test_passing_checks_are_passing_cases(self):
        _, by_name = cases(sample_report(Verdict.PASS))
        passed = {name for name, case in by_name.items() if not case.result}
        attacks = {("attacks", outcome.key) for outcome in sample_attacks()}
        assert passed >= attacks | {("gate", "verdict"), ("checks", "evaluator"), ("checks", "judge")}
        assert ("checks", "coverage") in passed

    def test_one_case_for_each_attack_with_its_numbers(self):
        _, by_name = cases(sample_report())
        tree = ElementTree.fromstring(render(sample_report(), "junit"))  # noqa: S314 - our own
        rows = tree.iterfind(".//testcase[@name='ppa']/properties/property")
        said = {row.get("name"): row.get("value") for row in rows}
        assert said["lift"] == "0.38 [0.31, 0.46]"
        assert said["lift_low"] == "0.3100"
        assert said["coverage"] == "1.0000"
        assert results(by_name["attacks", "ppa"]) == [Failure]
        assert results(by_name["attacks", "control/vae"]) == []

    def test_waived_is_skipped_with_reason_and_expiry(self, under):
        suite, by_name = cases(under("waived"))
        (result,) = by_name["attacks", "ppa"].result
        assert isinstance(result, Skipped)
        for part in ("accepted until the next release", "privacy board", "2026-06-01"):
            assert part in result.message
        assert {prop.name: prop.value for prop in suite.properties()}["headline"] == "PASS WITH WAIVERS · high"
        _, by_name = cases(under("partly waived"))
        assert results(by_name["attacks", "ppa"]) == [Skipped]
        assert results(by_name["attacks", "mirror-b"]) == [Failure]
        assert results(by_name["gate", "verdict"]) == [Failure]

    def test_an_expired_waiver_is_told_and_does_nothing(self, under):
        suite, by_name = cases(under("expired"))
        assert results(by_name["attacks", "ppa"]) == [Failure]
        assert "EXPIRED on 2026-06-01" in {p.name: p.value for p in suite.properties()}["waiver.W-attack-ppa"]

    def test_known_is_skipped_and_a_regression_fails(self, under):
        suite, by_name = cases(under("known"))
        assert results(by_name["attacks", "ppa"]) == [Skipped]
        assert "Nothing rose" in {p.name: p.value for p in suite.properties()}["baseline"]
        (result,) = cases(under("regression"))[1]["attacks", "ppa"].result
        assert isinstance(result, Failure)
        assert "worse than the baseline" in result.text

    def test_inconclusive_is_an_error_and_never_a_pass(self):
        _, by_name = cases(sample_report(Verdict.INCONCLUSIVE))
        assert results(by_name["gate", "verdict"]) == [Error]
        assert results(by_name["attacks", "ppa"]) == [Error]

    def test_a_crash_is_an_error(self, under):
        _, by_name = cases(under("crashed"))
        assert results(by_name["attacks", "mirror-b"]) == [Error]
        assert results(by_name["attacks", "ppa"]) == [Failure]
        assert results(by_name["checks", "coverage"]) == [Error]
        assert counted(under("crashed and waived"))[0] == 0

    def test_what_has_no_result_is_an_error(self):
        gone = NotMeasured(metric="x", reason="no private data")
        _, by_name = cases(sample_report(evaluator=gone, judge=gone, fisher=gone, attacks=()))
        assert results(by_name["attacks", "ppa"]) == [Error]
        assert results(by_name["checks", "evaluator"]) == [Error]

    @pytest.mark.parametrize("code", ["no-private-data", "a-code-of-tomorrow"])
    def test_a_problem_of_any_kind_is_in_some_check(self, code):
        report = sample_report(Verdict.INCONCLUSIVE)
        problem = Finding(code=code, severity="problem", message="look here")
        _, by_name = cases(report.model_copy(update={"findings": (*report.findings, problem)}))
        (where,) = [name for name, case in by_name.items() if any(r.message == "look here" for r in case.result)]
        assert where == ("checks", "data" if code == "no-private-data" else "other")

    def test_an_attack_that_cannot_clear_is_no_passing_case_of_an_open_audit(self):
        attacks = tuple(
            outcome if outcome.is_control else outcome.model_copy(update={"unvetted": ("steps",)})
            for outcome in sample_attacks((0.15, 0.11, 0.20))
        )
        report = sample_report(attacks=attacks)
        assert report.verdict.verdict is Verdict.INCONCLUSIVE
        _, by_name = cases(report)
        assert results(by_name["attacks", "ppa"]) == [Error]

    def test_names_that_xml_cannot_hold(self):
        hostile = 'a\x00<b>\x1b[31m\ufffe & ]]> "c"'
        text = render(sample_report(target=sample_target(warnings=(hostile,))), "junit")
        tree = ElementTree.fromstring(text)  # noqa: S314 - our own
        assert "<b>" in tree.findtext(".//testcase[@name='model']/system-out")


CODE_QUALITY = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["description", "check_name", "fingerprint", "severity", "location"],
        "properties": {
            "description": {"type": "string", "minLength": 1},
            "check_name": {"type": "string", "minLength": 1},
            "fingerprint": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
            "severity": {"enum": ["info", "minor", "major", "critical", "blocker"]},
            "location": {
                "type": "object",
                "required": ["path", "lines"],
                "properties": {
                    "path": {"type": "string", "pattern": "^[^/.]"},
                    "lines": {"type": "object", "required": ["begin"], "properties": {"begin": {"const": 1}}},
                },
            },
        },
    },
}
"""https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format"""


def gitlab(report, **display):
    return json.loads(render(report, "gitlab", display=Display(**display)))


class TestGitlab:
    def test_it_keeps_to_the_format(self, decided):
        entries = gitlab(decided)
        jsonschema.validate(entries, CODE_QUALITY)
        prints = [entry["fingerprint"] for entry in entries]
        assert len(set(prints)) == len(prints)

    def test_severities(self, under):
        def severity(report, subject="ppa"):
            return {e["severity"] for e in gitlab(report) if f"attack:{subject} " in e["description"]}

        assert severity(sample_report(lift=(0.6, 0.52, 0.7))) == {"blocker"}
        assert severity(sample_report()) == {"critical"}
        assert severity(under("waived")) == severity(under("known")) == {"info"}
        assert any(entry["severity"] == "blocker" for entry in gitlab(sample_report(Verdict.INCONCLUSIVE)))

    def test_fingerprints_stay_over_retrainings(self):
        after = sample_report(lift=(0.6, 0.52, 0.7), target=sample_target(digest="00" * 32))
        prints = [{entry["fingerprint"] for entry in gitlab(report)} for report in (sample_report(), after)]
        assert prints[0] == prints[1]

    def test_waivers_and_baseline_are_said(self, under):
        assert any("Waived: accepted until the next release" in e["description"] for e in gitlab(under("waived")))
        assert any("EXPIRED on 2026-06-01" in entry["description"] for entry in gitlab(under("expired")))
        assert any("known in the baseline" in entry["description"] for entry in gitlab(under("known")))
        assert any("worse than the baseline" in entry["description"] for entry in gitlab(under("regression")))

    def test_the_anchor_and_the_filter(self):
        shown = gitlab(sample_report(), anchor="models/auditor.yaml", min_severity=RiskLevel.HIGH)
        assert {entry["location"]["path"] for entry in shown} == {"models/auditor.yaml"}
        assert len(shown) == 3
        assert gitlab(sample_report(Verdict.INCONCLUSIVE), min_severity=RiskLevel.CRITICAL) != []


@pytest.mark.parametrize("fmt", ["json", "html", "markdown", "sarif", "junit", "gitlab"])
class TestEveryFormat:
    def test_the_file_that_was_audited_is_named_by_its_hash(self, under, fmt):
        assert sample_target().digest[:12] in render(under("fail"), fmt)

    @pytest.mark.parametrize("verdict", ["fail", "inconclusive"])
    def test_a_stored_verdict_that_the_evidence_does_not_give_is_told_as_the_reason(self, under, fmt, verdict):
        decided = under(f"stored {verdict}")
        text = html.unescape(render(decided, fmt))
        assert "the stored verdict is worse than what its evidence gives by today's rules" in text
        assert PASS_CAVEAT not in text

    def test_only_the_page_holds_pictures(self, fmt):
        text = render(sample_report(gallery_digest=digest_of(sample_gallery())), fmt, sample_gallery())
        shown = base64.b64encode(sample_gallery().rows[0].nearest_public_png).decode()
        assert (shown in text) == (fmt == "html")

    def test_a_person_newly_exposed_is_named_and_fails(self, under, fmt):
        text = render(under("others"), fmt)
        if fmt == "json":
            gate = json.loads(text)["gate"]
            assert [(found["name"], found["found_now"]) for found in gate["baseline"]["exposed"]] == [
                ("person-009", 11)
            ]
            assert gate["verdict"] == "fail"
        else:
            assert "person-009 (1 of 20, now 11 of 20)" in text
            assert "FAIL · high" in text or fmt == "gitlab"

    def test_waivers_are_shown_with_the_numbers(self, under, fmt):
        text = render(under("waived"), fmt)
        for part in ("W-attack-ppa", "privacy board", "2026-06-01", "accepted until the next release"):
            assert part in text
        assert "0.31" in text

    def test_expired_ones_say_so(self, under, fmt):
        assert "expired" in render(under("expired"), fmt).lower()

    def test_pass_with_waivers_is_told_from_a_pass(self, under, fmt):
        mark = {"json": '"state": "waived"', "gitlab": "Waived: "}.get(fmt, "PASS WITH WAIVERS")
        assert mark in render(under("waived"), fmt)
        assert mark not in render(sample_report(Verdict.PASS), fmt)

    def test_an_excused_leak_has_not_the_mark_of_a_pass(self, under, fmt):
        for name in ("waived", "known"):
            text = render(under(name), fmt)
            if fmt == "html":
                assert '<section class="banner excused"' in text
            if fmt == "markdown":
                assert text.startswith("## ! PASS ")
            assert "\N{CHECK MARK}" not in text.partition("<main")[0]

    def test_regressions_and_known_leaks_are_shown(self, under, fmt):
        assert "rose by at least" in render(under("regression"), fmt)
        assert "known" in render(under("known"), fmt)
