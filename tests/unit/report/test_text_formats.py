"""Markdown, JSON, the table of formats, and reading reports back."""

from __future__ import annotations

import json

import pytest

from auditor.contracts.policy import Policy, RiskLevel, Verdict
from auditor.contracts.scores import NotMeasured
from auditor.errors import ExitCode, InvalidInput, UnknownName
from auditor.report.formats import FORMATS, REPAIR_FORMATS, format_named, render
from auditor.report.markdown import plain, table
from auditor.report.read import read_any_report, read_audit_report, read_gallery
from auditor.testing.reports import (
    sample_gallery,
    sample_prior,
    sample_repair_report,
    sample_report,
    sample_target,
)


class TestMarkdown:
    @pytest.mark.parametrize("verdict", list(Verdict))
    def test_the_first_line_is_the_verdict(self, verdict):
        text = render(sample_report(verdict), "markdown")
        assert verdict.upper() in text.splitlines()[0]
        assert ("No attack of this suite succeeded" in text) is (verdict is Verdict.PASS)
        assert ("What would settle it" in text) is (verdict is Verdict.INCONCLUSIVE)

    @pytest.mark.parametrize("fmt", ["markdown", "html", "junit"])
    def test_a_pass_above_the_level_low_is_said_to_be_the_policys(self, fmt):
        medium = sample_report(Verdict.PASS, lift=(0.15, 0.11, 0.20))
        text = render(medium, fmt)
        assert "No attack of this suite succeeded" not in text
        assert ("The evidence puts this model at medium, and this policy fails on high." in text) is (fmt != "junit")

    def test_it_never_says_safe(self):
        for verdict in Verdict:
            assert "safe" not in render(sample_report(verdict), "markdown").lower()

    def test_it_is_far_from_the_limit_of_a_job_summary(self):
        assert len(render(sample_report(n_classes=2000), "markdown").encode()) < 100_000

    def test_names_from_outside_stay_text(self):
        hostile = "a|b\n# c <img src=x> `d` [e](http://f) @g *h* ~i~"
        escaped = plain(hostile)
        assert "\n" not in escaped
        assert "<" not in escaped
        assert "http://" not in escaped
        for mark in "|`*~[":
            assert escaped.count(mark) == escaped.count(f"\\{mark}")
        text = render(sample_report(target=sample_target(name="n", warnings=(hostile,))), "markdown")
        assert "<img" not in text

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("# a", "\\# a"),
            ("- a", "\\- a"),
            ("1. a", "1\\. a"),
            ("28.0% of", "28.0% of"),
            ("-0.3", "-0.3"),
            ("> a", "\\> a"),
        ],
    )
    def test_line_starts(self, text, shown):
        assert plain(text) == shown

    def test_tables_keep_their_width(self):
        lines = table(("a", "b"), [("x|y", 1), ("z", "|")])
        assert lines[1] == "| --- | ---: |"
        assert all(line.replace("\\|", "").count("|") == 3 for line in lines)

    def test_repair(self):
        text = render(sample_repair_report(), "markdown")
        assert "FAIL → INCONCLUSIVE" in text.splitlines()[0]
        assert "2 of 6 (chosen)" in text
        assert "Calibration error | 0.031 | 0.052" in text
        nothing = render(sample_repair_report(chosen=None), "markdown")
        assert "Nothing was repaired" in nothing
        assert "Calibration error" not in nothing
        assert "What it changed" not in nothing


class TestFormats:
    def test_names(self):
        assert tuple(FORMATS) == ("json", "html", "markdown", "sarif", "junit", "gitlab")
        assert format_named("md") == "markdown"
        with pytest.raises(UnknownName, match="Did you mean 'markdown'"):
            format_named("markdwn")

    @pytest.mark.parametrize("fmt", FORMATS)
    def test_every_format_renders_what_it_is_for(self, fmt):
        assert render(sample_report(), fmt).endswith("\n") or fmt == "html"
        if fmt in REPAIR_FORMATS:
            assert render(sample_repair_report(), fmt)


class TestReading:
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "report.json"

    @pytest.mark.parametrize("verdict", list(Verdict))
    def test_what_was_written_is_read_back(self, path, verdict):
        report = sample_report(verdict, policy=Policy(fail_on=RiskLevel.MEDIUM))
        path.write_text(render(report, "json"))
        assert read_audit_report(path) == report
        assert read_any_report(path) == report

    def test_a_decision_in_a_file_is_never_read_back(self, path):
        report = sample_report(Verdict.FAIL)
        raw = json.loads(render(report, "json"))
        raw["gate"] = report.decision.model_copy(update={"verdict": Verdict.PASS}).model_dump(mode="json")
        path.write_text(json.dumps(raw))
        assert read_audit_report(path).decision.verdict is Verdict.FAIL

    def test_reports_from_before_there_were_decisions_are_read(self, path):
        raw = json.loads(render(sample_report(Verdict.FAIL), "json"))
        del raw["gate"]
        path.write_text(json.dumps(raw))
        assert read_audit_report(path) == sample_report(Verdict.FAIL)

    def test_repair_reports_are_told_apart(self, path):
        path.write_text(render(sample_repair_report(), "json"))
        assert read_any_report(path) == sample_repair_report()
        with pytest.raises(InvalidInput):
            read_audit_report(path)

    def changed(self, path, change):
        raw = json.loads(render(sample_report(Verdict.FAIL), "json"))
        change(raw)
        path.write_text(json.dumps(raw))
        with pytest.raises(InvalidInput) as caught:
            read_audit_report(path)
        assert caught.value.exit_code is ExitCode.ERROR
        assert caught.value.remedy
        return "\n".join(caught.value.problems)

    def test_unknown_schema_versions_are_refused(self, path):
        for version in (2, 0, "1", True, None):
            text = self.changed(path, lambda raw, version=version: raw.update(schema_version=version))
            assert "schema" in text
        assert "no `schema_version`" in self.changed(path, lambda raw: raw.pop("schema_version"))

    def test_all_problems_at_once_with_a_suggestion(self, path):
        def change(raw):
            raw["target"]["n_clases"] = 3
            raw["provenance"].pop("device")
            raw["policy"]["fail_on"] = "severe"

        text = self.changed(path, change)
        assert "target.n_clases: unknown key. Did you mean 'n_classes'?" in text
        assert "provenance.device" in text
        assert "policy.fail_on" in text

    def test_an_edited_policy_or_plan_is_noticed(self, path):
        assert "policy" in self.changed(path, lambda raw: raw["policy"]["thresholds"].update(high_lift=0.45))
        assert "plan" in self.changed(path, lambda raw: raw["plan"].update(samples_per_class=50))
        assert "id does not fit" in self.changed(path, lambda raw: raw["target"].update(digest="00" * 32))

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "is empty"),
            (b"{", "not JSON"),
            (b"[1]", "JSON object"),
            (b"\xff\xfe\x00", "cannot be read"),
            (b'{"schema_version": 1, "schema_version": 1}', "given twice"),
            (b'{"schema_version": 1, "id": NaN}', "NaN is not a number"),
            (b"[" * 100_000, "not JSON"),
        ],
    )
    def test_what_is_no_report(self, path, content, said):
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=said):
            read_audit_report(path)

    def test_missing_file_and_folder(self, tmp_path):
        for path in (tmp_path / "absent.json", tmp_path):
            with pytest.raises(InvalidInput, match="cannot be read"):
                read_audit_report(path)

    def test_galleries_of_other_audits_are_refused(self, tmp_path):
        import hashlib

        path = tmp_path / "gallery.json"
        path.write_text(sample_gallery().model_dump_json())
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert read_gallery(path, sample_report(gallery_digest=digest)) == sample_gallery()
        assert read_gallery(path, sample_report()) == sample_gallery()
        with pytest.raises(InvalidInput, match="not the pictures"):
            read_gallery(path, sample_report(gallery_digest="ab" * 32))


class TestFindings:
    def codes(self, report):
        return {finding.code for finding in report.findings}

    def test_false_positives_are_called_out(self):
        report = sample_report(Verdict.FAIL, priors=(sample_prior(0.3),))
        assert {"evaluator-only-success", "evaluator-above-ceiling"} <= self.codes(report)

    def test_missing_parts(self):
        gone = NotMeasured(metric="x", reason="no private data")
        report = sample_report(evaluator=gone, judge=gone, fisher=gone, attacks=())
        assert {"no-evaluator", "no-judge", "fisher-absent"} <= self.codes(report)

    def test_a_wrong_input_description_is_suspected(self):
        from auditor.testing.reports import sample_evaluator

        report = sample_report(evaluator=sample_evaluator(0.75, target_accuracy=0.2))
        assert "target-below-evaluator" in self.codes(report)

    def test_the_id_is_by_content(self):
        assert sample_report(Verdict.PASS).id == sample_report(Verdict.FAIL).id
        assert sample_report(n_classes=30).id != sample_report().id
        assert sample_report(target=sample_target(digest="00" * 32)).id != sample_report().id


def test_a_repair_report_that_was_edited_is_refused(tmp_path):
    path, report = tmp_path / "repair.json", sample_repair_report()
    path.write_text(render(report, "json"))
    assert read_any_report(path) == report
    for change in ({"verdict_after": "pass"}, {"content_digest": ""}):
        path.write_text(json.dumps(json.loads(render(report, "json")) | change))
        with pytest.raises(InvalidInput, match="its content was changed"):
            read_any_report(path)
