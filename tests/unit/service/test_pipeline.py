import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.contracts.base import digest_of
from auditor.contracts.jobs import AuditJob, Failed, UnitResult
from auditor.contracts.plan import AttackSpec, AuditPlan, FisherSpec, PriorSpec
from auditor.errors import RunnerFailure
from auditor.priors.catalog import PRIORS as PRIOR_CATALOG
from auditor.service.matching import can_be_made
from auditor.service.pipeline import AUDIT, PRIOR_FREE, audit_units, followed, is_tolerated

NAMES = (
    "model", "manifest.json", "plan.json", "policy.json", "target.json",
    "private.npz", "heldout.npz", "public.npz", "generator.onnx", "judge.onnx",
)  # fmt: skip
PREPARED = (
    "prepared.json",
    "fit.npz",
    "placebo.npz",
    "heldout_used.npz",
    "evaluator.safetensors",
    "judge.safetensors",
    "measures.npz",
)
PRIORS = ("prior-vae.safetensors", "prior-dcgan.safetensors")
ALLOWED = {"model", "manifest.json", "plan.json", "target.json", "generator.onnx", *PRIORS}


def job(**changes):
    plan = AuditPlan(
        name="t",
        attacks=(AttackSpec(name="ppa"), AttackSpec(name="gmi", prior="dcgan"), AttackSpec(name="mirror-b")),
        priors=(PriorSpec(name="vae"), PriorSpec(name="dcgan")),
        classes_per_unit=2,
    )
    return AuditJob(
        name="m", plan=plan.model_copy(update=changes), inputs={name: digest_of(name.encode()) for name in NAMES}
    )


def prepared(classes=(4, 0, 7), *, prefix="", **not_runnable):
    rows = [
        {"key": "ppa", "runnable": True, "prior": "vae", "access": "white-box"},
        {"key": "gmi", "runnable": True, "prior": "dcgan", "access": "white-box"},
        {"key": "mirror-b", "runnable": True, "prior": "vae", "access": "score"},
    ]
    for row in rows:
        if row["key"].replace("-", "_") in not_runnable:
            row.update(runnable=False, reason=not_runnable[row["key"].replace("-", "_")])
    outputs = {name: digest_of(name.encode()) for name in (*PREPARED, *PRIORS)}
    return {prefix + "prepare": UnitResult(value={"classes": list(classes), "attacks": rows}, outputs=outputs)}


def result_of(unit):
    names = {"attack": ("recon.npz", "outcome.json"), "fisher": ("fisher.json",)}[unit.kind]
    return UnitResult(outputs={name: digest_of(f"{unit.key} {name}".encode()) for name in names}, seconds=2.0)


def settle(units, done, *, failing=()):
    failed = {}
    for unit in units:
        if unit.key in failing:
            failed[unit.key] = Failed(code="boom", problems=("it broke",))
        elif unit.kind in ("attack", "fisher"):
            done = done | {unit.key: result_of(unit)}
    return done, failed


def keys(units):
    return [unit.key for unit in units]


def test_first_there_is_only_prepare_with_everything_submitted():
    (unit,) = audit_units(job(), {}, {})
    assert (unit.kind, unit.key) == ("prepare", "prepare")
    assert unit.inputs == job().inputs


def test_every_attack_is_cut_into_chunks_of_classes_and_each_prior_in_use_gets_one_control():
    units = audit_units(job(), prepared(), {})
    assert keys(units) == [
        "prepare",
        "attack/ppa/0", "attack/ppa/1",
        "attack/gmi/0", "attack/gmi/1",
        "attack/mirror-b/0", "attack/mirror-b/1",
        "attack/control/vae/0", "attack/control/vae/1",
        "attack/control/dcgan/0", "attack/control/dcgan/1",
    ]  # fmt: skip
    assert [unit.params["classes"] for unit in units[1:3]] == [[4, 0], [7]]
    assert units[3].params["prior"] == "dcgan"
    control = units[-1].params
    assert control["attack"]["name"] == "best-of-prior"
    assert (control["attack"]["label"], control["prior"], control["chunk"]) == ("control/dcgan", "dcgan", 1)


def test_an_attack_unit_gets_the_model_and_the_priors_and_no_private_data():
    units = [unit for unit in audit_units(job(), prepared(), {}) if unit.kind == "attack"]
    for unit in units:
        assert set(unit.inputs) == ALLOWED


@given(extra=st.lists(st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=30), max_size=6))
def test_whatever_prepare_leaves_only_prior_weights_reach_an_attack(extra):
    done = prepared()
    outputs = done["prepare"].outputs | {name: digest_of(name.encode()) for name in extra}
    done = {"prepare": done["prepare"].model_copy(update={"outputs": outputs})}
    for unit in audit_units(job(), done, {}):
        if unit.kind == "attack":
            added = set(unit.inputs) - ALLOWED
            assert all(name.startswith("prior-") and name.endswith(".safetensors") for name in added)
            assert not {"private.npz", "heldout.npz", "public.npz", "fit.npz", "policy.json"} & set(unit.inputs)


def test_fisher_waits_for_every_attack_and_follows_two_white_box_methods():
    done = prepared()
    units = audit_units(job(), done, {})
    almost, _ = settle(units[:-1], done)
    assert "fisher" not in keys(audit_units(job(), almost, {}))
    done, _ = settle(units, done)
    fisher = audit_units(job(), done, {})[-1]
    assert fisher.key == "fisher"
    files = [[f"attack-{index}-{chunk}.recon.npz" for chunk in (0, 1)] for index in (0, 1)]
    assert fisher.params == {
        "trajectories": [
            {"attack": "ppa", "prior": "vae", "prior_free": False, "files": files[0]},
            {"attack": "gmi", "prior": "dcgan", "prior_free": False, "files": files[1]},
        ]
    }
    assert fisher.inputs["attack-0-1.recon.npz"] == digest_of(b"attack/ppa/1 recon.npz")
    assert set(fisher.inputs) == {
        "model", "manifest.json", "plan.json", "target.json", "prepared.json", "fit.npz", "placebo.npz",
        *files[0], *files[1],
    }  # fmt: skip


def test_when_the_first_white_box_attack_failed_the_next_one_gives_the_trajectory():
    done = prepared()
    units = audit_units(job(), done, {})
    done, failed = settle(units, done, failing=("attack/ppa/0", "attack/ppa/1"))
    fisher = audit_units(job(), done, failed)[-1]
    (only,) = fisher.params["trajectories"]
    assert (only["attack"], only["files"]) == ("gmi", ["attack-1-0.recon.npz", "attack-1-1.recon.npz"])


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        ([], ()),
        ([("ppa", "vae")], (0,)),
        ([("ppa", "vae"), ("ppa", "vae")], (0,)),  # the averaged PPA is no second method
        ([("ppa", "vae"), ("ppa", "vae"), ("gmi", "dcgan")], (0, 2)),
        ([("ppa", "vae"), ("gmi", "dcgan"), ("pixel-tv", "pixels")], (0, 2)),
        ([("pixel-tv", "pixels"), ("dip", "dip"), ("ppa", "onnx")], (0, 2)),
        ([("pixel-tv", "pixels"), ("dip", "dip")], (0, 1)),
    ],
)
def test_the_second_attack_is_of_the_other_kind_where_there_is_one(methods, expected):
    assert followed(methods) == expected


def test_prior_free_are_the_priors_that_need_no_public_image_and_no_target():
    needless = {name for name in PRIOR_CATALOG.names if can_be_made(name, (), has_public=False)}
    assert needless == PRIOR_FREE


def test_without_a_white_box_attack_fisher_runs_without_a_trajectory():
    done = prepared(ppa="no gradients", gmi="no gradients")
    done, _ = settle(audit_units(job(), done, {}), done)
    assert audit_units(job(), done, {})[-1].params["trajectories"] == []


def test_finish_is_told_what_failed_and_what_could_not_run():
    done = prepared(gmi="the prior has no critic")
    done, failed = settle(audit_units(job(), done, {}), done, failing=("attack/ppa/1",))
    done, more = settle(audit_units(job(), done, failed)[-1:], done, failing=("fisher",))
    finish = audit_units(job(), done, failed | more)[-1]
    assert finish.key == "finish"
    rows = {row["key"]: row for row in finish.params["attacks"]}
    assert list(rows) == ["ppa", "gmi", "mirror-b", "control/vae"], "no control for a prior that nothing used"
    assert rows["gmi"]["runnable"] is False
    assert (rows["gmi"]["reason"], rows["gmi"]["chunks"]) == ("the prior has no critic", [])
    good, bad = rows["ppa"]["chunks"]
    assert (good["error"], good["seconds"]) == ("", 2.0)
    assert (good["recon"], good["outcome"]) == ("attack-0-0.recon.npz", "attack-0-0.outcome.json")
    assert {good["recon"], good["outcome"]} <= set(finish.inputs)
    assert bad == {"classes": [7], "error": "boom: it broke"}
    assert rows["control/vae"]["is_control"] is True
    assert finish.params["fisher_error"] == "boom: it broke"
    assert set(job().inputs) | set(PREPARED) <= set(finish.inputs)
    assert finish.inputs["attack-2-1.recon.npz"] == digest_of(b"attack/mirror-b/1 recon.npz")
    assert "attack-0-1.recon.npz" not in finish.inputs


def test_an_attack_unit_that_left_nothing_counts_as_failed():
    done = prepared()
    done, _ = settle(audit_units(job(), done, {}), done)
    done |= {"attack/ppa/0": UnitResult()}
    done, _ = settle(audit_units(job(), done, {})[-1:], done)
    chunk = audit_units(job(), done, {})[-1].params["attacks"][0]["chunks"][0]
    assert chunk == {"classes": [4, 0], "error": "the unit left no recon.npz and no outcome.json"}


def test_without_any_runnable_attack_the_job_still_ends_in_a_report():
    done = prepared(ppa="no prior", gmi="no prior", mirror_b="no prior")
    done, _ = settle(audit_units(job(), done, {}), done)
    done, _ = settle(audit_units(job(), done, {}), done)
    assert keys(audit_units(job(), done, {})) == ["prepare", "fisher", "finish"]


def test_fisher_can_be_switched_off():
    quiet = job(fisher=FisherSpec(enabled=False))
    done, _ = settle(audit_units(quiet, prepared(), {}), prepared())
    last = audit_units(quiet, done, {})[-1]
    assert (last.key, last.params["fisher_error"]) == ("finish", "switched off in the plan")


def test_a_prefix_keeps_two_audits_of_one_job_apart():
    done = prepared() | prepared(prefix="k2/")
    assert all(key.startswith("k2/") for key in keys(audit_units(job(), done, {}, prefix="k2/")))
    plain, prefixed = audit_units(job(), done, {}), audit_units(job(), done, {}, prefix="k2/")
    assert [u.inputs for u in plain] == [u.inputs for u in prefixed]
    assert is_tolerated("k2/attack/ppa/0", prefix="k2/")
    assert not is_tolerated("k2/attack/ppa/0")


@pytest.mark.parametrize(
    "value",
    [{}, {"classes": [0]}, {"classes": "all", "attacks": []}, {"classes": [0], "attacks": [{"key": "ppa"}]}],
)
def test_a_prepare_that_does_not_say_what_to_attack_fails_the_job_instead_of_attacking_nothing(value):
    with pytest.raises(RunnerFailure, match="prepare"):
        audit_units(job(), {"prepare": UnitResult(value=value)}, {})


def test_an_attack_that_prepare_forgot_is_an_error():
    done = prepared()
    rows = done["prepare"].value["attacks"][:1]
    with pytest.raises(RunnerFailure, match="'gmi'"):
        audit_units(job(), {"prepare": UnitResult(value={"classes": [0], "attacks": rows})}, {})


def test_only_attacks_and_fisher_may_fail():
    assert [AUDIT.tolerates(key) for key in ("attack/ppa/0", "attack/control/vae/1", "fisher")] == [True] * 3
    assert [AUDIT.tolerates(key) for key in ("prepare", "finish", "fisher/2", "xattack/ppa/0")] == [False] * 4
