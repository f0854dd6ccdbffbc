"""The table of a repair in the terminal."""

from auditor.cli.repair import print_repair
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
