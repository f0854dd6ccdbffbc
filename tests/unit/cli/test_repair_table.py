"""The table of a repair in the terminal."""

from types import SimpleNamespace

import pytest

from auditor.cli.conclusion import Telling
from auditor.cli.repair import print_repair, show_repair
from auditor.contracts.policy import Verdict
from auditor.errors import ExitCode
from auditor.testing.reports import sample_repair_report


def test_an_attack_that_only_the_candidates_met_has_its_column_and_none_shifts(capsys):
    """An attack behind a public front has nothing to work on in a submission that has none."""
    report = sample_repair_report()
    candidates = tuple(c.model_copy(update={"lift": c.lift | {"front": c.lift["ppa"]}}) for c in report.candidates)
    knowing = report.differences[0].model_copy(update={"attack": "adaptive-averaged"})
    print_repair(report.model_copy(update={"candidates": candidates, "adaptive_differences": (knowing,)}))
    lines = capsys.readouterr().out.splitlines()
    head = next(line for line in lines if "lift front" in line)
    place = head.index("lift front")
    before, first = (next(line for line in lines if line.lstrip(" *").startswith(name)) for name in ("before", "k=2"))
    assert before[place:].strip() == "-"
    assert first[place:].strip().split("  ")[0] == "0.20 [0.12, 0.28]"
    assert any(line.startswith("adaptive-averaged") for line in lines)


def test_boundaries_on_the_front_are_marked_and_those_over_the_budget_too(capsys):
    print_repair(sample_repair_report(chosen=None).model_copy(update={"front": (2, 5)}))
    marks = {line[1:4]: line for line in capsys.readouterr().out.splitlines() if line.lstrip(" *").startswith("k=")}
    assert marks["k=2"].endswith(" on the front")
    assert "front" not in marks["k=4"]
    assert marks["k=5"].endswith(" on the front over the accuracy budget")


@pytest.mark.parametrize(("chosen", "code"), [(2, ExitCode.INCONCLUSIVE), (None, ExitCode.INCONCLUSIVE)])
def test_without_a_repaired_model_the_front_is_shown_and_nothing_is_decided(capsys, chosen, code):
    """Also where the submission failed: that verdict is its own audit's."""
    report = sample_repair_report(chosen=chosen)
    house = SimpleNamespace(audits=SimpleNamespace(get_repair_report=lambda _job: report))
    assert show_repair(house, "job", Telling()) is code
    out = capsys.readouterr().out
    assert ("NOT REPAIRED" in out) == (chosen is None)
    assert "on the front" in out


def test_the_exit_code_of_a_repair_is_the_verdict_after_it():
    report = sample_repair_report().model_copy(update={"verdict_after": Verdict.FAIL})
    house = SimpleNamespace(audits=SimpleNamespace(get_repair_report=lambda _job: report))
    assert show_repair(house, "job", Telling(fmt="json")) is ExitCode.GATE_FAILED
