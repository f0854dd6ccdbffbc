"""How long a job still takes, as its page says."""

from auditor.api.web.jobs_shown import time_left
from auditor.contracts.jobs import UnitState, UnitView


def unit(kind, state, seconds=None):
    return UnitView(key=f"{kind}/{seconds}", kind=kind, state=state, attempt=1, seconds=seconds)


DONE, PENDING, RUNNING = UnitState.DONE, UnitState.PENDING, UnitState.RUNNING


def test_units_take_as_long_as_those_of_their_kind():
    done = [unit("attack", DONE, 60.0), unit("attack", DONE, 120.0)]
    assert time_left([*done, unit("attack", PENDING), unit("attack", RUNNING)]) == "2 min 0 s to 4 min 0 s"
    assert time_left([done[0], unit("attack", PENDING)]) == "1 min 0 s"


def test_nothing_is_said_where_nothing_tells():
    assert time_left([unit("prepare", RUNNING)]) == ""
    assert time_left([unit("attack", DONE, 60.0), unit("attack", PENDING), unit("finish", PENDING)]) == ""
    assert time_left([unit("attack", DONE, 60.0)]) == ""
