"""The order of a repair, followed from its first unit to its last with results made up for every one."""

from auditor.contracts.base import digest_of
from auditor.contracts.jobs import Failed, RepairJob, UnitResult
from auditor.contracts.plan import AttackSpec, AuditPlan, FisherSpec, PriorSpec
from auditor.contracts.repair import RepairStart
from auditor.testing.evidence import measured
from remediation.pipeline import COMPARE, repair_units, tolerates

PLAN = AuditPlan(
    name="t", attacks=(AttackSpec(name="ppa"),), priors=(PriorSpec(name="vae"),), fisher=FisherSpec(enabled=False)
)
JOB = RepairJob(
    name="m",
    plan=PLAN,
    quick_plan=PLAN,
    quick_plan_digest=digest_of("quick"),
    trial_plan=PLAN.model_copy(update={"samples_per_class": 1}),
    trial_plan_digest=digest_of("trial"),
    inputs={name: digest_of(name) for name in ("model", "target.json", "manifest.json", "plan.json", "policy.json")},
    data={name: digest_of(name) for name in ("fit.npz", "heldout.npz", "report.json")},
)
READY = {"classes": [0, 1], "attacks": [{"key": "ppa", "runnable": True, "prior": "vae", "access": "white-box"}]}
OUTPUTS = ("model", "target.json", "candidate.json", "report.json", "recon.npz", "outcome.json", "prepared.json")


def start(trials):
    return RepairStart(
        defense="tl-dmi", paper="p", pretraining="public", weights_digest="w", network="small-cnn", n_units=5,
        boundaries={0: "sweep", 1: "sweep", 2: "fisher", 3: "sweep"}, accuracy_before=measured("a", 0.7), trials=trials,
    )  # fmt: skip


def follow(*, trials, kept=(), failing=(), job=JOB):
    """Every unit of the repair in the order in which it could run, and what each was given."""
    values = {
        "repair-pretrain": start(trials).model_dump(mode="json"),
        "prepare": READY,
        "repair-halve": {"kept": list(kept)},
        "repair-choose": {"chosen": kept[0] if kept else 2},
    }
    done, failed, seen = {}, {}, {}
    while COMPARE not in done:
        waiting = [u for u in repair_units(job, done, failed) if u.key not in done and u.key not in failed]
        assert waiting, "the repair stands still"
        for unit in waiting:
            seen[unit.key] = unit
            if unit.key in failing:
                failed[unit.key] = Failed(code="boom", problems=("it broke",))
            else:
                outputs = {name: digest_of(f"{unit.key} {name}") for name in OUTPUTS}
                done[unit.key] = UnitResult(value=values.get(unit.kind, {}), outputs=outputs)
    return seen


def trained(units, prefix):
    return [key for key, unit in units.items() if unit.kind == "repair-train" and key.startswith(prefix)]


def test_a_sweep_gives_all_of_the_training_to_the_kept_boundaries_alone():
    units = follow(trials=True, kept=(1, 2))
    assert trained(units, "trial") == [f"trial{k}/train" for k in range(4)]
    assert trained(units, "k") == ["k1/train", "k2/train"]
    assert all(units[key].params["trial"] for key in trained(units, "trial"))
    assert "trial" not in units["k1/train"].params
    assert units["trial1/prepare"].inputs["plan.json"] == digest_of("trial")
    assert units["k1/prepare"].inputs["plan.json"] == units["before/prepare"].inputs["plan.json"] == digest_of("quick")
    assert units["k2/train"].params["proposed_by"] == "fisher"
    assert units["compare"].params == {"boundaries": [1, 2], "trials": [0, 1, 2, 3], "failed": {}}
    assert {f"trial{k}.report.json" for k in range(4)} | {"k1.report.json", "quick.json"} <= set(
        units["compare"].inputs
    )


def test_without_a_sweep_every_boundary_is_trained_to_the_end():
    units = follow(trials=False)
    assert "halve" not in units
    assert trained(units, "k") == [f"k{k}/train" for k in range(4)]
    assert units["after/prepare"].inputs["model"] == digest_of("k2/train model")


def test_nothing_is_trained_on_private_data_before_the_audits_are_known_to_be_comparable():
    units = follow(trials=True, kept=(1, 2))
    order = list(units)
    assert order.index("match") < order.index("trial0/train")
    assert units["match"].inputs == {
        "report.json": digest_of("report.json"),
        "prepared.json": digest_of("before/prepare prepared.json"),
    }
    assert not tolerates("match")


def test_every_audit_of_it_shows_the_classes_that_the_audit_before_showed():
    units = follow(trials=True, kept=(1, 2))
    finishing = [unit for key, unit in units.items() if key.endswith("/finish")]
    assert {unit.inputs["before.json"] for unit in finishing} == {digest_of("report.json")}
    attacking = [unit for unit in units.values() if unit.kind == "attack"]
    assert attacking
    assert not any("before.json" in unit.inputs for unit in attacking), "an attack knows nothing of the audit before"


def test_what_failed_as_a_whole_is_told_to_the_comparison():
    units = follow(trials=False, failing=("k0/train", "k1/finish", "k2/attack/ppa/0"))
    assert units["compare"].params["failed"] == {"k0/train": "it broke", "k1/finish": "it broke"}


def test_a_trial_that_fails_is_left_out_and_does_not_end_the_sweep():
    assert tolerates("trial3/train")
    assert tolerates("trial1/finish")
    units = follow(trials=True, kept=(1,), failing=("trial3/train", "trial0/finish"))
    assert units["halve"].params == {"boundaries": [0, 1, 2]}
    assert "trial0.report.json" not in units["halve"].inputs


def test_published_weights_are_fetched_by_a_unit_that_is_given_no_file():
    published = {"weights": "IMAGENET1K_V1", "architecture": "resnet18", "channels": 3}
    units = follow(trials=False, job=JOB.model_copy(update={"published": published}))
    fetch, *others = units.values()
    assert (fetch.kind, fetch.params, fetch.inputs, fetch.needs_network) == ("repair-fetch", published, {}, True)
    assert not any(unit.needs_network for unit in others)
    assert units["pretrain"].inputs["report.json"] == digest_of("fetch report.json")  # whatever the fetch left
    assert "fetch" not in follow(trials=False)
