"""`auditor convert` and `auditor diff`."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from auditor.cli import report as commands
from auditor.contracts.plan import AttackSpec
from auditor.contracts.policy import RiskLevel, Verdict
from auditor.errors import InvalidInput, StorageFailure, UnknownName
from auditor.report.formats import render
from auditor.report.read import read_audit_report
from auditor.report.wording import score_text
from auditor.risk.gate import decide_gate
from auditor.service.candidates import with_adaptive
from auditor.testing.evidence import measured
from auditor.testing.reports import (
    sample_gallery,
    sample_outcome,
    sample_plan,
    sample_repair_report,
    sample_report,
    sample_target,
)


@pytest.fixture(scope="module")
def app():
    app = typer.Typer()
    commands.register(app)
    return app


@pytest.fixture
def run(app):
    def call(*arguments):
        result = CliRunner().invoke(app, list(map(str, arguments)))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(render(sample_report(), "json"))
    return path


class TestConvert:
    def test_what_a_stricter_gate_failed_is_shown_as_failed(self, run, tmp_path):
        report = sample_report(Verdict.PASS, lift=(0.15, 0.11, 0.20))
        decided = decide_gate(report, report.policy.model_copy(update={"fail_on": RiskLevel.MEDIUM}))
        path = tmp_path / "out.json"
        path.write_text(render(decided, "json", stored=report))
        shown = run("convert", path, "-f", "junit")
        assert "<failure" in shown.stdout
        assert "policy 'default@medium': fail" in shown.stderr

    @pytest.mark.parametrize("fmt", ["json", "html", "markdown", "md"])
    def test_to_stdout(self, run, stored, fmt):
        result = run("convert", stored, "-f", fmt)
        assert result.stdout == render(sample_report(), fmt)
        assert result.stderr == ""

    @pytest.mark.parametrize(
        ("name", "start"),
        [("r.html", "<!doctype"), ("r.md", "## "), ("r.json", "{"), ("r.sarif", "{"), ("r.xml", "<?xml")],
    )
    def test_to_a_file_by_its_name(self, run, stored, tmp_path, name, start):
        result = run("convert", stored, "-o", tmp_path / name)
        assert (tmp_path / name).read_text().startswith(start)
        assert result.stdout == ""
        assert f"wrote {tmp_path / name}" in result.stderr

    def test_the_verdict_does_not_set_the_exit_code(self, run, stored):
        assert read_audit_report(stored).verdict.verdict is Verdict.FAIL
        assert run("convert", stored, "-f", "md").exit_code == 0

    def test_repair_reports(self, run, tmp_path):
        path = tmp_path / "repair.json"
        path.write_text(render(sample_repair_report(), "json"))
        assert "Before and after the repair" in run("convert", path, "-f", "html").stdout

    def test_pictures(self, run, stored, tmp_path):
        gallery = tmp_path / "gallery.json"
        gallery.write_text(sample_gallery().model_dump_json())
        assert "data:image/png" in run("convert", stored, "-f", "html", "--gallery", gallery).stdout
        with pytest.raises(InvalidInput, match="--gallery"):
            run("convert", stored, "-f", "md", "--gallery", gallery)

    def test_refusals(self, run, stored, tmp_path):
        with pytest.raises(UnknownName, match="Did you mean 'html'"):
            run("convert", stored, "-f", "htlm")
        with pytest.raises(InvalidInput, match="no format"):
            run("convert", stored)
        with pytest.raises(InvalidInput, match="no format"):
            run("convert", stored, "-o", tmp_path / "report.pdf")
        with pytest.raises(InvalidInput, match="cannot be read"):
            run("convert", tmp_path / "absent.json", "-f", "md")

    def test_nothing_half_written(self, run, stored, tmp_path, monkeypatch):
        target = tmp_path / "out.md"
        target.write_text("before")

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(commands.os, "fdopen", full)
        with pytest.raises(StorageFailure, match="No space left"):
            run("convert", stored, "-o", target)
        assert target.read_text() == "before"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out.md", "report.json"]
        with pytest.raises(StorageFailure):
            run("convert", stored, "-o", tmp_path / "absent" / "out.md")


class TestDiff:
    @pytest.fixture
    def pair(self, tmp_path):
        def write(before, after):
            paths = tmp_path / "a.json", tmp_path / "b.json"
            for path, report in zip(paths, (before, after), strict=True):
                path.write_text(render(report, "json"))
            return paths

        return write

    def test_a_repair_that_helped(self, run, pair):
        result = run("diff", *pair(sample_report(Verdict.FAIL), sample_report(Verdict.PASS)), "-f", "json")
        answer = json.loads(result.stdout)
        assert answer["before"]["verdict"] == "fail"
        rows = {(row["attack"], row["metric"]): row for row in answer["differences"]}
        assert rows["ppa", "both_agree"]["difference"]["low"] > 0
        assert rows["ppa", "lift"]["difference"]["low"] > 0

    @pytest.mark.parametrize("fmt", ["table", "markdown", "json"])
    def test_what_the_difference_cost_in_accuracy_stands_beside_it(self, run, pair, fmt):
        """A model that recognises nobody leaks nothing."""
        before = sample_report()
        useless = before.evaluator.model_copy(update={"target_heldout_accuracy": measured("accuracy", 0.042)})
        told = run("diff", *pair(before, sample_report(evaluator=useless)), "-f", fmt).stdout
        if fmt == "json":
            assert json.loads(told)["after"]["accuracy"]["value"] == 0.042
            assert json.loads(told)["before"]["accuracy"]["value"] == before.target_accuracy.value
        else:
            told = told.replace("\\[", "[")
            assert f"accuracy {score_text(useless.target_heldout_accuracy)}" in told
            assert f"accuracy {score_text(before.target_accuracy)}" in told

    @pytest.mark.parametrize("fmt", ["table", "markdown"])
    def test_in_words(self, run, pair, fmt):
        better = run("diff", *pair(sample_report(Verdict.FAIL), sample_report(Verdict.PASS)), "-f", fmt).stdout
        assert "B leaks less" in better
        worse = run("diff", *pair(sample_report(Verdict.PASS), sample_report(Verdict.FAIL)), "-f", fmt).stdout
        assert "B leaks more" in worse
        same = run("diff", *pair(sample_report(), sample_report()), "-f", fmt).stdout
        assert "no proven difference" in same
        assert "B leaks less" not in same

    def test_different_plans_are_refused_unless_forced(self, run, pair):
        other = sample_plan().model_copy(update={"samples_per_class": 9, "seed": 3})
        paths = pair(sample_report(), sample_report(plan=other))
        with pytest.raises(InvalidInput) as caught:
            run("diff", *paths)
        assert [line.split(":")[1].strip() for line in caught.value.problems] == ["seed", "samples_per_class"]
        assert "--force" in caught.value.remedy
        forced = run("diff", *paths, "--force")
        assert "warning: the plans differ: seed: 0 and 3" in forced.stderr
        assert forced.exit_code == 0

    def test_a_repairs_own_pair_is_compared_and_what_only_one_was_attacked_by_is_named(self, run, pair):
        """A repair adds attacks that know the defense to the plan of the audit before."""
        before = sample_report(Verdict.FAIL)
        plan = with_adaptive(before.plan, (AttackSpec(name="ppa", label="adaptive-averaged", params={"averaged": 6}),))
        knowing = sample_outcome("adaptive-averaged", attack="ppa", lift=(0.5, 0.4, 0.6))
        after = sample_report(Verdict.PASS, plan=plan, attacks=(*sample_report(Verdict.PASS).attacks, knowing))
        told = run("diff", *pair(before, after))
        assert told.exit_code == 0
        assert "adaptive-averaged stands in B alone (lift 0.50 [0.40, 0.60])" in told.stderr
        with pytest.raises(InvalidInput, match="plans differ"):
            run("diff", *pair(after, before))

    def test_another_judge_is_warned_of(self, run, pair):
        other = sample_report().judge.model_copy(update={"digest": "other"})
        told = run("diff", *pair(sample_report(), sample_report(judge=other)))
        assert "had different judges" in told.stderr

    def test_stored_reports_are_found_by_their_ids(self, run, monkeypatch):
        reports = {"aaaa": sample_report(Verdict.FAIL), "bbbb": sample_report(Verdict.PASS)}
        house = SimpleNamespace(
            audits=SimpleNamespace(
                get_report=reports.__getitem__, find_report=lambda _: SimpleNamespace(is_trial=False)
            )
        )
        monkeypatch.setattr("auditor.cli.options.services", lambda: house)
        assert "B leaks less" in run("diff", "aaaa", "bbbb").stdout

    def test_a_plan_of_another_name_only_is_no_difference(self, run, pair):
        renamed = sample_plan().model_copy(update={"name": "full"})
        assert run("diff", *pair(sample_report(), sample_report(plan=renamed))).exit_code == 0

    def test_refusals(self, run, pair):
        with pytest.raises(InvalidInput, match="cannot be paired"):
            run("diff", *pair(sample_report(), sample_report(target=sample_target(n_classes=10))), "--force")
        with pytest.raises(InvalidInput, match="no attack in common"):
            run("diff", *pair(sample_report(), sample_report(attacks=())))
        with pytest.raises(UnknownName):
            run("diff", *pair(sample_report(), sample_report()), "-f", "pdf")
