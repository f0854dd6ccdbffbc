"""`auditor gate`: exit codes as a matrix, offline decisions, and refusals."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from auditor.cli import gate
from auditor.cli.gating import Gating, gated
from auditor.contracts.outcome import OutcomeStatus
from auditor.contracts.policy import Policy, RiskLevel, Verdict
from auditor.errors import ExitCode, InvalidInput, UnknownName
from auditor.report.build import content_digest_of
from auditor.report.formats import render
from auditor.report.read import read_audit_report
from auditor.risk.exit_code import exit_code, worst_verdict
from auditor.testing.reports import LIFTS, sample_attacks, sample_repair_report, sample_report

CODES = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3}
FLAGS = [(), ("--exit-zero",), ("--allow-inconclusive",), ("--exit-zero", "--allow-inconclusive")]


@pytest.fixture(scope="module")
def app():
    app = typer.Typer()
    gate.register(app)
    app.command("other")(lambda: None)  # two commands, so that `gate` keeps its name
    return app


@pytest.fixture
def run(app, tmp_path):
    def call(report, *flags, code=None):
        path = tmp_path / "report.json"
        path.write_text(render(report, "json"))
        result = CliRunner().invoke(app, ["gate", str(path), *flags])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        if code is not None:
            assert result.exit_code == code, result.output
        return result

    return call


def expected(verdict, flags):
    if (verdict is Verdict.FAIL and "--exit-zero" in flags) or (
        verdict is Verdict.INCONCLUSIVE and "--allow-inconclusive" in flags
    ):
        return 0
    return CODES[verdict]


@pytest.mark.parametrize(("verdict", "fmt", "flags"), list(itertools.product(Verdict, gate.FORMATS, FLAGS)))
def test_exit_codes(run, verdict, fmt, flags):
    result = run(sample_report(verdict), "-f", fmt, *flags, code=expected(verdict, flags))
    assert verdict in result.stdout.lower() or fmt == "gitlab"
    if flags and expected(verdict, flags) != CODES[verdict]:
        assert "the exit code is 0 because of" in result.stderr


@pytest.mark.parametrize(("verdict", "zero", "allow"), list(itertools.product(Verdict, [False, True], [False, True])))
def test_the_code_is_a_function_of_verdict_and_flags(verdict, zero, allow):
    code = exit_code(verdict, exit_zero=zero, allow_inconclusive=allow)
    assert code is exit_code(sample_report(verdict).verdict, exit_zero=zero, allow_inconclusive=allow)
    flags = [flag for flag, on in (("--exit-zero", zero), ("--allow-inconclusive", allow)) if on]
    assert code == expected(verdict, flags)


def test_fail_decides_over_inconclusive_over_pass():
    assert worst_verdict([Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL]) is Verdict.FAIL
    assert worst_verdict([Verdict.PASS, Verdict.INCONCLUSIVE]) is Verdict.INCONCLUSIVE
    assert worst_verdict([Verdict.PASS]) is Verdict.PASS
    assert worst_verdict([]) is Verdict.INCONCLUSIVE


def test_a_proven_leak_stays_1_beside_a_crash(run):
    attacks = tuple(
        a.model_copy(update={"status": OutcomeStatus.FAILED, "reason": "boom"}) if a.key == "mirror-b" else a
        for a in sample_attacks(LIFTS[Verdict.FAIL])
    )
    run(sample_report(attacks=attacks), code=1)


def test_stdout_is_data_only(run):
    result = run(sample_report(Verdict.FAIL), "-f", "json", "--exit-zero", "--fail-on", "critical")
    answer = json.loads(result.stdout)
    assert set(answer) == {"verdict", "exit_code", "report_id", "model", "policy", "decision", "stored", "gate"}
    assert answer["exit_code"] == result.exit_code
    assert result.stderr


def test_another_policy_decides_anew(run, tmp_path):
    policy = tmp_path / "p.yaml"
    policy.write_text("name: strict\nthresholds: {high_lift: 0.05, clear_lift: 0.02}\n")
    result = run(sample_report(Verdict.PASS), "--policy", str(policy), "-f", "json", code=3)
    answer = json.loads(result.stdout)
    assert answer["policy"]["name"] == "strict"
    assert answer["stored"]["verdict"] == "pass"
    assert "another policy than the report's" in result.stderr


def test_a_pass_by_what_a_flag_loosened_is_not_told_as_one_by_the_policy(run, tmp_path):
    medium = sample_report(Verdict.PASS, lift=(0.15, 0.11, 0.20), policy=Policy(name="strict", fail_on=RiskLevel.LOW))
    run(medium, "--fail-on", "low", code=1)
    for flags in ((), ("--policy", str(tmp_path / "p.yaml"))):
        (tmp_path / "p.yaml").write_text("name: strict\nfail_on: low\n")
        answer = json.loads(run(medium, *flags, "--fail-on", "high", "-f", "json", code=0).stdout)
        assert (answer["verdict"], answer["policy"]["name"]) == ("pass", "strict@high")
        markdown = run(medium, *flags, "--fail-on", "high", "-f", "markdown", code=0).stdout
        assert "Policy strict@\u200bhigh 1 fails on high" in markdown


def test_a_stored_fail_keeps_its_force_where_only_the_name_is_another(run, tmp_path):
    """An older version did not tell `--fail-on` with the name."""
    asked = Policy(name="p", fail_on=RiskLevel.CRITICAL)
    report = sample_report(Verdict.PASS, policy=asked)
    assert report.verdict.verdict is Verdict.PASS
    report = report.model_copy(update={"verdict": report.verdict.model_copy(update={"verdict": Verdict.FAIL})})
    report = report.model_copy(update={"content_digest": content_digest_of(report)})
    (tmp_path / "p.yaml").write_text("name: p\nfail_on: low\n")
    flags = ("--policy", str(tmp_path / "p.yaml"), "--fail-on", "critical", "--allow-inconclusive")
    result = run(report, *flags, code=1)
    assert "another policy than the report's" not in result.stderr


def test_fail_on_overrides_the_policy(run):
    medium = sample_report(Verdict.PASS, lift=(0.15, 0.11, 0.20))
    assert medium.verdict.level is RiskLevel.MEDIUM
    run(medium, code=0)
    run(medium, "--fail-on", "medium", code=1)


def test_a_loose_policy_is_named(run, tmp_path):
    policy = tmp_path / "p.yaml"
    policy.write_text("thresholds: {min_attacks: 1}\n")
    assert "looser than the built-in one" in run(sample_report(Verdict.PASS), "--policy", str(policy)).stderr


def test_named_rate_cannot_change_offline(run, tmp_path):
    policy = tmp_path / "p.yaml"
    policy.write_text("thresholds: {named_rate: 0.2}\n")
    with pytest.raises(InvalidInput, match="named_rate"):
        run(sample_report(Verdict.PASS), "--policy", str(policy))


@pytest.mark.parametrize(
    ("evidence", "claimed", "code"),
    [
        (Verdict.FAIL, Verdict.PASS, 1),
        (Verdict.INCONCLUSIVE, Verdict.PASS, 3),
        (Verdict.PASS, Verdict.FAIL, 1),
        (Verdict.PASS, Verdict.INCONCLUSIVE, 3),
    ],
)
def test_an_edited_verdict_changes_nothing_for_the_better(run, evidence, claimed, code):
    report = sample_report(evidence)
    edited = report.model_copy(update={"verdict": report.verdict.model_copy(update={"verdict": claimed})})
    with pytest.raises(InvalidInput, match="changed after it was made"):
        run(edited)
    edited = edited.model_copy(update={"content_digest": content_digest_of(edited)})
    result = run(edited, code=code)
    assert f"the report says {claimed}, its evidence says {evidence}" in result.stderr
    assert ("stored verdict is worse" in result.stdout) is (CODES[claimed] > CODES[evidence] == 0)
    assert CODES[Verdict(json.loads(run(edited, "-f", "json").stdout)["verdict"])] == code


def test_the_report_that_a_gate_under_another_policy_wrote_is_as_stored_and_can_be_decided_again(run, tmp_path):
    out = tmp_path / "out.json"
    run(sample_report(Verdict.FAIL), "--fail-on", "critical", "-o", f"json={out}", code=0)
    again = read_audit_report(out)
    assert again == sample_report(Verdict.FAIL)
    told = json.loads(out.read_text())["gate"]
    assert (told["verdict"], told["policy"]["fail_on"]) == ("pass", "critical")
    run(again, code=1)


def test_a_file_that_a_stricter_gate_failed_is_failed_again(run, app, tmp_path):
    out = tmp_path / "out.json"
    medium = sample_report(Verdict.PASS, lift=(0.15, 0.11, 0.20))
    run(medium, "--fail-on", "medium", "-o", f"json={out}", code=1)
    again = CliRunner().invoke(app, ["gate", str(out)])
    assert (again.exit_code, "policy 'default@medium'" in again.stderr) == (1, True), again.stderr
    assert CliRunner().invoke(app, ["gate", str(out), "--fail-on", "high"]).exit_code == 0


class TestRefusals:
    """All of these end with exit code 2."""

    def refused(self, app, *arguments):
        result = CliRunner().invoke(app, ["gate", *map(str, arguments)])
        assert isinstance(result.exception, InvalidInput), result.output
        assert result.exception.exit_code is ExitCode.ERROR
        assert result.stdout == ""
        return result.exception

    def test_files_that_are_no_reports(self, app, tmp_path):
        path = tmp_path / "r.json"
        assert "cannot be read" in str(self.refused(app, path))
        path.write_text('{"schema_version": 99}')
        assert "schema version 99" in str(self.refused(app, path))
        path.write_text(render(sample_report(), "json")[:-40])
        assert "not JSON" in str(self.refused(app, path))

    def test_policies_with_typos(self, app, tmp_path):
        path, policy = tmp_path / "r.json", tmp_path / "p.yaml"
        path.write_text(render(sample_report(), "json"))
        policy.write_text("fail_onn: low\n")
        assert "Did you mean 'fail_on'?" in str(self.refused(app, path, "--policy", policy))

    @pytest.mark.parametrize(
        ("flags", "helps"),
        [
            (("--waivers", "/nonexistent"), "`auditor waive`"),
            (("-o", "foo=bar"), "Correct the listed problems and try again."),
            (("--waivers", "."), "`auditor waive`"),
        ],
    )
    def test_what_to_do_fits_the_command(self, app, tmp_path, flags, helps):
        path = tmp_path / "r.json"
        path.write_text(render(sample_report(), "json"))
        remedy = self.refused(app, path, *flags).remedy
        assert helps in remedy
        assert not any(wrong in remedy for wrong in ("auditor init", "submit", "stored"))

    def test_unknown_formats(self, app, tmp_path):
        path = tmp_path / "r.json"
        path.write_text(render(sample_report(), "json"))
        assert isinstance(self.refused(app, path, "-f", "sarif2"), UnknownName)

    def test_unknown_levels_are_usage_errors(self, app, tmp_path):
        path = tmp_path / "r.json"
        path.write_text(render(sample_report(), "json"))
        assert CliRunner().invoke(app, ["gate", str(path), "--fail-on", "severe"]).exit_code == 2

    def test_a_repair_report_is_told_from_an_audit(self, run):
        repair = sample_repair_report()
        with pytest.raises(InvalidInput, match="report of a repair") as caught:
            run(repair)
        assert repair.after_report_id[:12] in caught.value.remedy


HEAVY = {"torch", "torchvision", "onnx", "onnxruntime", "numpy", "sqlalchemy", "celery", "jinja2", "rich", "PIL"}


@pytest.mark.parametrize("fmt", gate.FORMATS)
def test_it_reaches_no_heavy_package(tmp_path, fmt):
    path = tmp_path / "report.json"
    path.write_text(render(sample_report(Verdict.PASS), "json"))
    policy = tmp_path / "p.yaml"
    policy.write_text("fail_on: high\n")
    program = (
        "import sys, typer\n"
        "from auditor.cli import gate, report\n"
        "app = typer.Typer(pretty_exceptions_enable=False)\n"
        "gate.register(app); report.register(app)\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as end: code = end.code\n"
        f"heavy = sorted({HEAVY!r} & set(sys.modules))\n"
        "assert not heavy, heavy\n"
        "sys.exit(code)\n"
    )
    command = [sys.executable, "-c", program, "gate", str(path), "-f", fmt, "--policy", str(policy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr


def test_the_digest_of_the_report_policy_is_the_default():
    report = sample_report()
    assert report.policy == Policy()
    assert not gated(report, Gating(), Policy()).verdict.needs
