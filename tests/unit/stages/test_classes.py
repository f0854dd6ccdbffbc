"""Which classes an audit attacks, and what a reader is told about the plan."""

import numpy as np

from auditor.contracts.plan import AttackSpec, AuditPlan, PriorSpec
from auditor.data.image_set import ImageSet
from auditor.service.plans import PRESETS
from auditor.service.stages.finish import departures
from auditor.service.stages.prepare import Sets, attacked_classes
from auditor.tensors import RunContext


def plan(n_classes):
    return AuditPlan(name="p", attacks=(AttackSpec(name="ppa"),), priors=(PriorSpec(name="vae"),), n_classes=n_classes)


def sets(*labels):
    images = ImageSet("s", np.zeros((len(labels), 8, 8, 3), np.uint8), np.array(labels))
    return Sets(fit=images, heldout=images)


def test_a_draw_over_all_classes():
    attacked, missing = attacked_classes(sets(*range(50)), 50, plan(20), RunContext())
    assert len(attacked) == 20
    assert missing == ()
    assert attacked_classes(Sets(), 50, plan(20), RunContext()) == (attacked, ())
    assert attacked_classes(sets(*range(50)), 50, plan(None), RunContext())[0] == tuple(range(50))


def test_classes_left_out_of_the_data_count_as_planned_and_not_done():
    """Twenty harmless classes, chosen by leaving out the others' images, must not speak for a model of five hundred."""
    attacked, missing = attacked_classes(sets(*range(20)), 500, plan(60), RunContext())
    assert attacked == tuple(range(20))
    assert len(missing) > 50
    assert not set(missing) & set(attacked)
    attacked, missing = attacked_classes(sets(*range(45)), 50, plan(20), RunContext())
    assert len(attacked) == 20
    assert set(missing) <= set(range(45, 50))


def test_changed_parameters_of_attacks_are_told():
    weak = plan(20).model_copy(update={"attacks": (AttackSpec(name="ppa", params={"pool": 1, "steps": 2}),)})
    (line,) = departures(weak)
    assert line.startswith("ppa did not run with its default parameters: ")
    assert "pool 1 (default " in line
    assert "steps 2 (default " in line
    assert departures(PRESETS["quick"].model_copy(update={"attacks": PRESETS["quick"].attacks[:1]})) == ()
