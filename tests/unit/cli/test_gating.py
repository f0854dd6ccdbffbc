"""Waivers, baselines and formats at the command line: the exit code is the gate's, whatever is printed or written."""

from __future__ import annotations

import itertools
import json
from datetime import date
from functools import cache
from types import SimpleNamespace

import pytest
import typer
import yaml
from typer.testing import CliRunner

from auditor.cli import gate, gating, jobs, report, waive
from auditor.cli.conclusion import Telling, conclude
from auditor.cli.gating import Gating
from auditor.contracts.jobs import JobKind, JobState
from auditor.contracts.policy import Verdict
from auditor.contracts.waiver import WaiverFile
from auditor.errors import ExitCode, InvalidInput, NotFound
from auditor.report.display import Display
from auditor.report.formats import FORMATS, render
from auditor.report.read import read_audit_report
from auditor.risk.gate import decide_gate
from auditor.risk.waivers import read_waivers
from auditor.testing.reports import sample_repair_report, sample_report
from auditor.testing.waivers import TODAY, sample_waiver, waivers_of_all

AN_AUDIT = SimpleNamespace(is_trial=False)


@pytest.fixture(autouse=True)
def _a_day(monkeypatch):
    monkeypatch.setattr(gating, "today", lambda: TODAY)
    monkeypatch.setattr(waive, "today", lambda: TODAY)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.fixture(scope="module")
def app():
    app = typer.Typer()
    for module in (gate, report, jobs, waive):
        module.register(app)
    return app


@pytest.fixture
def run(app, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments, code=0):
        result = CliRunner().invoke(app, list(map(str, arguments)))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return call


def written(path, *waivers):
    path.write_text(yaml.safe_dump(WaiverFile(waivers=waivers).model_dump(mode="json")))
    return path


@cache
def stored(verdict):
    return render(sample_report(verdict), "json")


@pytest.fixture
def files(tmp_path):
    """Reports by verdict, and files of waivers."""
    for verdict in Verdict:
        (tmp_path / f"{verdict}.json").write_text(stored(verdict))
    written(tmp_path / "all.yaml", *waivers_of_all())
    written(tmp_path / "some.yaml", *waivers_of_all("ppa"))
    old = [w.model_copy(update={"created": date(2025, 1, 1), "expires": date(2025, 6, 1)}) for w in waivers_of_all()]
    written(tmp_path / "old.yaml", *old)
    return tmp_path


GIVEN = {
    (): {},
    ("--waivers", "all.yaml"): {Verdict.FAIL: 0},
    ("--waivers", "some.yaml"): {},
    ("--waivers", "old.yaml"): {},
    ("--baseline", "fail.json"): {Verdict.FAIL: 0},
    ("--baseline", "pass.json"): {},
    ("--waivers", "some.yaml", "--baseline", "fail.json"): {Verdict.FAIL: 0},
    ("--min-severity", "critical"): {},
    ("--anchor", "models/auditor.yaml"): {},
}
CODES = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3}


@pytest.mark.parametrize(("verdict", "fmt", "flags"), list(itertools.product(Verdict, gate.FORMATS, GIVEN)))
def test_the_exit_code_is_the_same_in_every_format(run, files, verdict, fmt, flags):
    code = GIVEN[flags].get(verdict, CODES[verdict])
    result = run("gate", f"{verdict}.json", "-f", fmt, *flags, code=code)
    if fmt in ("sarif", "gitlab", "json"):
        json.loads(result.stdout)


@pytest.mark.parametrize(("verdict", "flags"), list(itertools.product(Verdict, GIVEN)))
def test_files_beside_it_change_nothing(run, files, verdict, flags):
    code = GIVEN[flags].get(verdict, CODES[verdict])
    outputs = [part for fmt in FORMATS for part in ("-o", f"{fmt}=out.{fmt}")]
    run("gate", f"{verdict}.json", *flags, *outputs, code=code)
    assert all((files / f"out.{fmt}").read_text() for fmt in FORMATS)
    assert read_audit_report(files / "out.json").verdict.verdict is verdict
    assert read_audit_report(files / "out.json").gate is None, "a stored decision is never read back"


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_file_that_cannot_be_written_never_hides_a_failed_gate(run, files, verdict):
    (files / "taken").mkdir()
    run("gate", f"{verdict}.json", "-o", "sarif=taken", code=1 if verdict is Verdict.FAIL else 2)


class TestGate:
    def test_json_says_what_was_waived(self, run, files):
        answer = json.loads(run("gate", "fail.json", "-f", "json", "--waivers", "all.yaml").stdout)
        assert (answer["verdict"], answer["gate"]["evidence"]) == ("pass", "fail")
        assert answer["gate"]["level"] == "high"
        assert {use["state"] for use in answer["gate"]["waivers"]} == {"applied"}

    def test_the_table_tells_a_pass_with_waivers(self, run, files):
        assert "PASS WITH WAIVERS" in run("gate", "fail.json", "--waivers", "all.yaml").stdout
        assert "EXPIRED on 2025-06-01" in run("gate", "fail.json", "--waivers", "old.yaml", code=1).stdout

    def test_waivers_of_other_models_are_mentioned(self, run, files):
        written(files / "other.yaml", *waivers_of_all(model="other"))
        assert "3 waivers are for other models" in run("gate", "fail.json", "--waivers", "other.yaml", code=1).stderr

    @pytest.mark.parametrize("content", [None, "{", "{}", '{"schema_version": 1}'])
    def test_a_baseline_that_cannot_be_read_is_an_error(self, run, files, content):
        if content is not None:
            (files / "base.json").write_text(content)
        with pytest.raises(InvalidInput) as caught:
            run("gate", "fail.json", "--baseline", "base.json")
        assert caught.value.exit_code is ExitCode.ERROR

    def test_a_baseline_that_was_edited_or_is_a_repair_is_an_error(self, run, files):
        raw = json.loads((files / "pass.json").read_text())
        raw["attacks"][0]["end_confidence"] = 0.5
        (files / "base.json").write_text(json.dumps(raw))
        with pytest.raises(InvalidInput, match="changed after it was made"):
            run("gate", "fail.json", "--baseline", "base.json")
        (files / "base.json").write_text(render(sample_repair_report(), "json"))
        with pytest.raises(InvalidInput, match="repair"):
            run("gate", "fail.json", "--baseline", "base.json")

    def test_an_inconclusive_baseline_is_an_error(self, run, files):
        with pytest.raises(InvalidInput, match="inconclusive"):
            run("gate", "fail.json", "--baseline", "inconclusive.json")

    def test_a_stored_baseline_is_found_by_its_id(self, run, files, monkeypatch):
        reports = {"aaaa": sample_report(Verdict.FAIL)}

        def get(reference):
            if reference not in reports:
                raise NotFound(f"no report {reference}")
            return reports[reference]

        house = SimpleNamespace(audits=SimpleNamespace(get_report=get, find_report=lambda _: AN_AUDIT))
        monkeypatch.setattr("auditor.cli.options.services", lambda: house)
        run("gate", "fail.json", "--baseline", "aaaa")
        with pytest.raises(NotFound) as caught:
            run("gate", "fail.json", "--baseline", "bbbb")
        assert caught.value.exit_code is ExitCode.ERROR


class TestAgainstTheApproved:
    """`--baseline approved`; the answers of a real server are in tests/api."""

    @pytest.fixture(autouse=True)
    def _no_server(self, monkeypatch, tmp_path):
        monkeypatch.setenv("AUDITOR_HOME", str(tmp_path / "home"))

    def test_needs_a_server(self, run, files):
        with pytest.raises(InvalidInput, match="kept on a server") as caught:
            run("gate", "fail.json", "--baseline", "approved")
        assert "auditor login" in caught.value.remedy

    def test_a_file_of_that_name_is_named_with_its_folder(self, run, files):
        (files / "approved").write_text(stored(Verdict.FAIL))
        run("gate", "fail.json", "--baseline", "./approved")
        with pytest.raises(InvalidInput, match="kept on a server"):
            run("gate", "fail.json", "--baseline", "approved")

    def test_a_stored_audit_is_decided_by_its_id(self, run, files, monkeypatch):
        house = SimpleNamespace(
            audits=SimpleNamespace(get_report=lambda _: sample_report(), find_report=lambda _: AN_AUDIT)
        )
        monkeypatch.setattr("auditor.cli.options.services", lambda: house)
        run("gate", "aaaa", code=1)
        run("gate", "aaaa", "--waivers", "all.yaml")

    def test_what_a_server_decided_counts_beside_a_file(self, run, files, monkeypatch):
        """The team waived two of three findings; the file has the third, and the day is the server's."""
        there = decide_gate(
            sample_report(), sample_report().policy, waivers=waivers_of_all("ppa-averaged", "mirror-b"), today=TODAY
        )
        monkeypatch.setattr(gating, "today", lambda: date(2030, 1, 1))
        house = SimpleNamespace(audits=SimpleNamespace(get_report=lambda _: there, find_report=lambda _: AN_AUDIT))
        monkeypatch.setattr("auditor.cli.options.services", lambda: house)
        run("gate", "aaaa", code=1)
        run("gate", "aaaa", "--waivers", "some.yaml")


class TestConvertAndReport:
    @pytest.mark.parametrize("fmt", FORMATS)
    def test_waivers_are_shown(self, run, files, fmt):
        assert "W-attack-ppa" in run("convert", "fail.json", "-f", fmt, "--waivers", "all.yaml").stdout

    @pytest.mark.parametrize("fmt", FORMATS)
    @pytest.mark.parametrize("verdict", Verdict)
    def test_a_baseline_says_what_the_gate_says(self, run, files, fmt, verdict):
        """The same file from `convert` and from `gate -o`; converting has no verdict of its own."""
        code = {Verdict.FAIL: 0, Verdict.INCONCLUSIVE: 3}.get(verdict, 0)
        run("gate", f"{verdict}.json", "--baseline", "fail.json", "-o", f"{fmt}=gate.out", code=code)
        converted = run("convert", f"{verdict}.json", "-f", fmt, "--baseline", "fail.json").stdout
        assert converted == (files / "gate.out").read_text()
        if verdict is Verdict.FAIL:
            assert "known in the baseline" in converted or fmt == "json"

    @pytest.mark.parametrize(
        ("baseline", "error"),
        [("inconclusive.json", InvalidInput), ("absent.json", InvalidInput), ("approved", InvalidInput)],
    )
    def test_a_baseline_that_cannot_be_used_is_an_error_and_writes_nothing(
        self, run, files, baseline, error, monkeypatch
    ):
        monkeypatch.setenv("AUDITOR_HOME", str(files / "home"))
        with pytest.raises(error):
            run("convert", "fail.json", "-o", "out.sarif", "--baseline", baseline)
        assert not (files / "out.sarif").exists()

    @pytest.mark.parametrize("flags", [("--baseline", "fail.json"), ("--waivers", "all.yaml")])
    def test_nothing_of_a_repair_is_decided(self, run, files, flags):
        (files / "repair.json").write_text(render(sample_repair_report(), "json"))
        run("convert", "repair.json", "-f", "html")
        with pytest.raises(InvalidInput, match="report of a repair"):
            run("convert", "repair.json", "-f", "html", *flags)

    def test_without_waivers_the_report_is_as_stored(self, run, files):
        for fmt in FORMATS:
            assert run("convert", "fail.json", "-f", fmt).stdout == render(sample_report(), fmt)

    def test_the_anchor_and_the_filter(self, run, files):
        out = run("convert", "fail.json", "-f", "gitlab", "--anchor", "m/a.yaml", "--min-severity", "high").stdout
        assert {entry["location"]["path"] for entry in json.loads(out)} == {"m/a.yaml"}
        assert len(json.loads(out)) == 3

    @pytest.mark.parametrize("fmt", ["table", *FORMATS])
    def test_stored_reports(self, run, files, monkeypatch, fmt):
        audits = SimpleNamespace(
            get_report=lambda _: sample_report(),
            find_report=lambda _: SimpleNamespace(kind=JobKind.AUDIT, is_trial=False),
            get_gallery=lambda _: None,
        )
        monkeypatch.setattr(jobs, "services", lambda: SimpleNamespace(audits=audits))
        assert "W-attack-ppa" in run("report", "some-id", "-f", fmt, "--waivers", "all.yaml").stdout


class TestConclusion:
    """What `submit` and `wait` do once a job has ended."""

    def concluded(self, verdict, telling, given=None, kind=JobKind.AUDIT):
        audits = SimpleNamespace(
            get_report=lambda _: sample_report(verdict),
            get_repair_report=lambda _: sample_repair_report(),
            get_gallery=lambda _: None,
        )
        view = SimpleNamespace(id="j" * 12, state=JobState.DONE, report_ids=("r",), kind=kind, error=None)
        return conclude(SimpleNamespace(audits=audits), view, telling, given)

    @pytest.mark.parametrize(
        ("verdict", "fmt", "given"),
        list(itertools.product(Verdict, ["table", "json", "markdown"], ["nothing", "waivers", "baseline"])),
    )
    def test_the_exit_code(self, tmp_path, capsys, verdict, fmt, given):
        gates = {
            "nothing": Gating(),
            "waivers": Gating(waivers_of_all(), None),
            "baseline": Gating(None, sample_report(Verdict.FAIL)),
        }
        outputs = [(kind, tmp_path / kind) for kind in FORMATS]
        code = self.concluded(verdict, Telling(outputs, fmt, Display(anchor="a.yaml")), gates[given])
        assert code == (0 if verdict is Verdict.FAIL and given != "nothing" else CODES[verdict])
        assert "a.yaml" in (tmp_path / "sarif").read_text() or verdict is Verdict.PASS
        assert capsys.readouterr().out

    def test_an_incomparable_baseline_is_an_error_and_says_where_the_audit_is(self, capsys):
        other = sample_report(judge=sample_report().judge.model_copy(update={"digest": "other"}))
        with pytest.raises(InvalidInput, match="different judges"):
            self.concluded(Verdict.PASS, Telling(), Gating(None, other))
        assert sample_report().id[:12] in capsys.readouterr().err

    def test_a_repair_takes_no_waivers(self):
        with pytest.raises(InvalidInput, match="this job is a repair"):
            self.concluded(Verdict.PASS, Telling(), Gating(waivers_of_all(), None), kind=JobKind.REPAIR)


class TestStepSummary:
    @pytest.fixture
    def summary(self, tmp_path, monkeypatch):
        path = tmp_path / "summary.md"
        path.write_text("before\n")
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
        return path

    @pytest.mark.parametrize("verdict", list(Verdict))
    def test_it_is_appended(self, run, files, summary, verdict):
        run("gate", f"{verdict}.json", code=CODES[verdict])
        text = summary.read_text()
        assert text.startswith("before\n## ")
        assert verdict.upper() in text

    def test_it_can_be_switched_off(self, run, files, summary):
        run("gate", "fail.json", "--no-step-summary", code=1)
        assert summary.read_text() == "before\n"

    def test_an_empty_variable_is_as_good_as_none(self, run, files, monkeypatch):
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", "")
        assert "summary" not in run("gate", "pass.json").stderr

    def test_converting_appends_nothing(self, run, files, summary):
        run("convert", "fail.json", "-f", "sarif")
        assert summary.read_text() == "before\n"

    def test_one_that_cannot_be_written_changes_no_exit_code(self, run, files, monkeypatch):
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(files / "no" / "folder"))
        for verdict in Verdict:
            assert "could not be written" in run("gate", f"{verdict}.json", code=CODES[verdict]).stderr

    def test_submit_writes_it_too(self, summary, capsys):
        TestConclusion().concluded(Verdict.FAIL, Telling(), Gating(waivers_of_all(), None))
        assert "PASS WITH WAIVERS" in summary.read_text()


class TestWaive:
    GIVEN = ("--reason", "it's known: #1", "--expires", "90d", "--approver", "J. Doe", "-w", "w.yaml")

    def test_what_it_writes_the_gate_takes(self, run, files):
        for key in ("ppa", "ppa-averaged", "mirror-b"):
            run("waive", f"attack:{key}", *self.GIVEN, "--model", "faces-cnn")
        assert "PASS WITH WAIVERS" in run("gate", "fail.json", "--waivers", "w.yaml").stdout
        first = read_waivers(files / "w.yaml").waivers[0]
        assert (first.id, first.reason) == ("attack-ppa-2026-03-01", "it's known: #1")
        assert (first.created, first.expires) == (TODAY, date(2026, 5, 30))

    def test_comments_stay(self, run, files):
        run("waive", "attack:ppa", *self.GIVEN, "--model", "m")
        path = files / "w.yaml"
        path.write_text(path.read_text() + "  # looked at twice\n")
        run("waive", "class:person 3", *self.GIVEN, "--model", "m")
        assert "# looked at twice" in path.read_text()
        assert len(read_waivers(path).waivers) == 2

    @pytest.mark.parametrize("text", ["version: 1\nwaivers: []\n", "{version: 1, waivers: []}\n", "", "waivers:\n"])
    def test_files_that_are_written_otherwise(self, run, files, text):
        (files / "w.yaml").write_text(text)
        run("waive", "attack:ppa", *self.GIVEN, "--model", "m")
        assert [waiver.finding for waiver in read_waivers(files / "w.yaml").waivers] == ["attack:ppa"]

    def test_the_same_finding_again_has_another_id(self, run, files):
        ids = [run("waive", "attack:ppa", *self.GIVEN, "--model", "m").stdout.strip() for _ in range(3)]
        assert ids == ["attack-ppa-2026-03-01", "attack-ppa-2026-03-01-2", "attack-ppa-2026-03-01-3"]

    def test_the_model_is_that_of_the_manifest(self, run, files):
        with pytest.raises(InvalidInput, match="which model"):
            run("waive", "attack:ppa", *self.GIVEN)
        (files / "auditor.yaml").write_text("version: 1\nmodel: {name: badge-reader}\n")
        run("waive", "attack:ppa", *self.GIVEN)
        assert read_waivers(files / "w.yaml").waivers[0].model == "badge-reader"

    @pytest.mark.parametrize(
        ("finding", "changes", "said"),
        [
            ("ppa", (), "'ppa' is not attack:KEY"),
            ("attack:ppa", ("--reason", " "), "reason"),
            ("attack:ppa", ("--expires", "2026-03-01"), "not in the future"),
            ("attack:ppa", ("--expires", "soon"), "neither a day"),
            ("attack:ppa", ("--expires", "400d"), "more than `max_days`"),
            ("attack:ppa", ("--id", "a b"), "id"),
        ],
    )
    def test_refusals_write_nothing(self, run, files, finding, changes, said):
        with pytest.raises(InvalidInput) as caught:
            run("waive", finding, *self.GIVEN, "--model", "m", *changes)
        assert said in str(caught.value)
        assert not (files / "w.yaml").exists()

    def test_a_broken_file_is_not_touched(self, run, files):
        (files / "w.yaml").write_text("waivers: [{id: x}]\n")
        with pytest.raises(InvalidInput):
            run("waive", "attack:ppa", *self.GIVEN, "--model", "m")
        assert (files / "w.yaml").read_text() == "waivers: [{id: x}]\n"


def test_a_waiver_file_of_this_test_is_valid(tmp_path):
    assert read_waivers(written(tmp_path / "w.yaml", sample_waiver())).waivers == (sample_waiver(),)
