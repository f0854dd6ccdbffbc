"""Plans and pipelines of audits on a cut model."""

import pytest

from auditor.attacks.split.catalog import SPLIT_ATTACKS
from auditor.contracts.base import digest_of
from auditor.contracts.jobs import AuditJob, UnitResult
from auditor.contracts.manifest import PlanSection
from auditor.contracts.plan import AttackSpec, PriorSpec
from auditor.errors import InvalidInput
from auditor.service.candidates import quick_version
from auditor.service.matching import component_problems
from auditor.service.pipeline import ACTIVATIONS, NO_PRIOR, audit_units
from auditor.service.plans import PRESETS, SPLIT_NAMES, plan_problems, resolve_plan

SPLIT = resolve_plan(PlanSection(split="layer1"))
PRIVATE = {"private.npz", "heldout.npz", "fit.npz", "heldout_used.npz", "public.npz", "evaluator.safetensors"}


def problems(plan):
    return plan_problems(plan) + component_problems(plan, has_generator=False, has_public=True, access=None)


def test_a_cut_plan_runs_the_three_attacks_and_trains_no_prior():
    assert [attack.name for attack in SPLIT.attacks] == list(SPLIT_ATTACKS.names)
    assert set(SPLIT_ATTACKS.names) == SPLIT_NAMES
    assert (SPLIT.split, SPLIT.priors, SPLIT.fisher.enabled) == ("layer1", (), False)
    assert (SPLIT.n_classes, SPLIT.samples_per_class) == (PRESETS["quick"].n_classes, 3)
    assert problems(SPLIT) == []


def test_a_manifest_may_mix_attacks_on_the_whole_model_and_on_the_cut_one():
    mixed = resolve_plan(PlanSection(split="layer1", attacks=(AttackSpec(name="ppa"), AttackSpec(name="rmle"))))
    assert mixed.priors == PRESETS["quick"].priors
    assert mixed.fisher.enabled
    assert problems(mixed) == []


def test_what_does_not_fit_together_is_named():
    uncut = PRESETS["quick"].model_copy(update={"attacks": (AttackSpec(name="rmle"),)})
    assert "--split" in plan_problems(uncut)[0]
    without = SPLIT.model_copy(update={"attacks": (AttackSpec(name="ppa"),)})
    assert "needs a prior" in plan_problems(without)[0]
    primed = SPLIT.model_copy(
        update={"attacks": (AttackSpec(name="rmle", prior="vae"),), "priors": (PriorSpec(name="vae"),)}
    )
    assert "uses no prior" in plan_problems(primed)[0]
    wrong = SPLIT.model_copy(update={"attacks": (AttackSpec(name="rmle", params={"stepz": 1}),)})
    assert "stepz" in problems(wrong)[0]
    with pytest.raises(InvalidInput, match="--split"):
        resolve_plan(PlanSection(attacks=(AttackSpec(name="rmle"),), priors=()))


def test_a_repair_can_audit_its_candidates_with_a_cut_plan():
    quick = quick_version(SPLIT)
    assert quick.attacks == SPLIT.attacks
    assert len(quick.attacks) > 1
    assert (quick.split, quick.priors) == ("layer1", ())


def job(plan):
    names = ("model", "manifest.json", "plan.json", "target.json", "private.npz", "heldout.npz", "public.npz")
    return AuditJob(name="m", plan=plan, inputs={name: digest_of(name.encode()) for name in names})


def prepared(plan, *extra):
    rows = [
        {"key": a.key, "runnable": True, "prior": NO_PRIOR, "access": "split", "aids": f"aids-{a.key}.safetensors"}
        if a.name in SPLIT_NAMES
        else {"key": a.key, "runnable": True, "prior": "vae", "access": "white-box"}
        for a in plan.attacks
    ]
    outputs = [ACTIVATIONS, "prepared.json", "fit.npz", "heldout_used.npz", "evaluator.safetensors", *extra]
    outputs += [f"aids-{a.key}.safetensors" for a in plan.attacks if a.name in SPLIT_NAMES]
    value = {"classes": [3, 1], "attacks": rows}
    return {"prepare": UnitResult(value=value, outputs={name: digest_of(name.encode()) for name in outputs})}


def test_a_split_unit_gets_the_activations_and_never_an_image():
    units = [unit for unit in audit_units(job(SPLIT), prepared(SPLIT), {}) if unit.key != "prepare"]
    assert [unit.kind for unit in units] == ["split-attack"] * 3
    for unit in units:
        aids = f"aids-{unit.params['attack']['name']}.safetensors"
        assert set(unit.inputs) == {"model", "plan.json", "target.json", ACTIVATIONS, aids}
        assert not PRIVATE & set(unit.inputs)


def test_only_priors_in_use_get_a_control_and_only_split_units_the_activations():
    plan = resolve_plan(PlanSection(split="layer1", attacks=(AttackSpec(name="ppa"), AttackSpec(name="rmle"))))
    units = audit_units(job(plan), prepared(plan, "prior-vae.safetensors"), {})
    assert [unit.key for unit in units] == ["prepare", "attack/ppa/0", "attack/rmle/0", "attack/control/vae/0"]
    for unit in units[1:]:
        assert (ACTIVATIONS in unit.inputs) is (unit.kind == "split-attack")
        assert ("prior-vae.safetensors" in unit.inputs) is (unit.kind == "attack")


def test_without_runnable_attacks_there_is_nothing_but_the_finish():
    done = prepared(SPLIT)
    for row in done["prepare"].value["attacks"]:
        row |= {"runnable": False, "reason": "no private data"}
    units = audit_units(job(SPLIT), done, {})
    assert [unit.key for unit in units] == ["prepare", "finish"]
    assert [row["reason"] for row in units[-1].params["attacks"]] == ["no private data"] * 3
