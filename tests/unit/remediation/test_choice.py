"""Which boundary is kept."""

from repair_candidates import BUDGET, candidate, quick, unmeasured

from auditor.contracts.scores import NotMeasured
from auditor.testing.evidence import measured
from remediation.choice import better_third, choose, pareto_front, within_budget


def test_the_smallest_upper_bound_under_the_worst_attack_wins():
    found = choose([candidate(2, quick(0.2, 0.5)), candidate(4, quick(0.4, 0.4)), candidate(5, quick(0.1, 0.6))])
    assert found == (4, ())


def test_among_equals_the_most_accurate_is_chosen():
    assert choose([candidate(2, quick(0.43), accuracy=0.75), candidate(4, quick(0.40))])[0] == 2
    assert choose([candidate(2, quick(0.47), accuracy=0.75), candidate(4, quick(0.40))])[0] == 4


def test_candidates_over_the_budget_do_not_count():
    assert choose([candidate(2, quick(0.4)), candidate(5, quick(0.1), accuracy=0.70)])[0] == 2
    chosen, notes = choose([candidate(5, quick(0.1), accuracy=0.5)])
    assert chosen is None
    assert "budget" in notes[0]


def test_the_budget_is_inclusive_and_unknown_accuracy_is_over_it():
    assert within_budget(measured("x", 0.75), measured("x", 0.72), BUDGET)
    assert not within_budget(measured("x", 0.75), measured("x", 0.7199), BUDGET)
    assert not within_budget(measured("x", 0.75), NotMeasured(metric="x", reason="r"), BUDGET)


def test_what_was_not_measured_never_looks_best():
    known, unknown = candidate(2, quick(0.6)), candidate(4, unmeasured(quick(0.1), {"lift"}))
    chosen, notes = choose([known, unknown])
    assert chosen == 2
    assert any("boundary 4" in note for note in notes)
    chosen, notes = choose([unknown])
    assert chosen == 4
    assert "both_agree" in notes[0]
    nothing = candidate(5, unmeasured(quick(0.1), {"lift", "both_agree", "evaluator_top1"}))
    assert choose([nothing])[0] is None


def trials_of(rows):
    """Trials from (lift, accuracy) by boundary."""
    return [candidate(k, quick(lift), accuracy) for k, (lift, accuracy) in rows.items()]


def test_a_sweep_keeps_a_third_that_may_end_within_the_budget():
    """Every frozen unit costs accuracy and leak: all are on the front, and only the first three are near the leader."""
    rows = {
        0: (0.8, 0.95),
        1: (0.7, 0.93),
        2: (0.65, 0.92),
        3: (0.5, 0.71),
        4: (0.4, 0.5),
        5: (0.3, 0.3),
        6: (0.2, 0.2),
    }
    trials = trials_of(rows)
    assert pareto_front(trials) == tuple(range(7))
    assert better_third(trials, 0.03) == (0, 1, 2)
    assert better_third(trials, 0.03, always=[5]) == (0, 1, 2, 5)
    assert better_third(trials, 1.0) == (0, 3, 6), "ends and middle of the front, not the three that are broken most"
    assert better_third(trials, 0.0) == (0, 1, 6), "the leader, then the ends of the rest"
    assert len(better_third(trials + trials_of(dict.fromkeys(range(7, 12), (0.4, 0.65))), 1.0)) == 4
    assert better_third([], 0.1) == ()


def test_what_is_dominated_or_could_not_be_judged_is_kept_last():
    """Boundary 1 leaks more than 0 and is less accurate."""
    trials = trials_of({0: (0.6, 0.8), 1: (0.7, 0.7), 2: (0.5, 0.7), 3: (0.1, 0.4), 4: (0.65, 0.6), 5: (0.9, 0.3)})
    assert pareto_front(trials) == (0, 2, 3)
    assert better_third(trials, 1.0) == (0, 2, 3)
    unjudged = [candidate(6, unmeasured(quick(0.2), {"lift"}), 0.9)]
    assert 6 not in pareto_front(trials + unjudged)
    assert 6 not in better_third(trials + unjudged, 1.0)


def test_without_lifts_the_rates_say_who_is_on_the_front():
    rows = {0: (0.9, 0.9), 1: (0.7, 0.8), 2: (0.8, 0.7)}
    trials = [
        candidate(k, unmeasured(quick(0.5), {"lift"}), accuracy).model_copy(
            update={"both_agree": {"a0": measured("both_agree", rate)}}
        )
        for k, (rate, accuracy) in rows.items()
    ]
    assert pareto_front(trials) == (0, 1)
