"""What a repair asks for before it starts, on in-memory ports."""

import re
import threading
from pathlib import Path

import pytest
from repair_house import House

import auditor.api
from auditor.contracts.jobs import JobState
from auditor.contracts.manifest import Manifest
from auditor.contracts.policy import Policy
from auditor.errors import Conflict, InvalidInput
from auditor.service.audits import SubmitRequest
from auditor.testing.reports import sample_report
from remediation.offers import OFFERS
from remediation.service import RepairRequest


def test_what_retrains_needs_public_images_or_weights(tmp_path):
    house = House(tmp_path, public=False)
    with pytest.raises(InvalidInput, match="no public data to pre-train on"):
        house.start()
    weights = tmp_path / "public.safetensors"
    weights.write_bytes(b"public")
    payload = house.start(weights=str(weights))
    assert house.store.get_bytes(payload.data["weights.safetensors"]) == b"public"
    payload = house.start(weights="torchvision:ResNet18_Weights.IMAGENET1K_V1")
    assert "weights.safetensors" not in payload.data | payload.inputs
    assert payload.published["weights"] == "ResNet18_Weights.IMAGENET1K_V1"


@pytest.mark.parametrize("defense", ["neg-ls", "confidence-adaptation", "output-controls"])
def test_what_does_not_retrain_needs_neither(tmp_path, defense):
    house = House(tmp_path, public=False)
    assert house.start(defense=defense).quick_plan.attacks
    with pytest.raises(InvalidInput, match="leave out --weights"):
        house.start(defense=defense, weights="torchvision:ResNet18_Weights.IMAGENET1K_V1")


def test_the_repaired_model_meets_the_evaluator_of_the_audit_before(tmp_path):
    """Left open, it is one unlike the target, and a repair may change the target's layers."""
    house = House(tmp_path, public=True)
    evaluator = sample_report().evaluator.model_copy(update={"architecture": "small-cnn-wide"})
    house.changes_report(evaluator=evaluator)
    payload = house.start()
    plans = (payload.plan, payload.quick_plan, payload.trial_plan)
    assert {plan.evaluator.architecture for plan in plans} == {"small-cnn-wide"}


def test_weights_of_the_manifest_are_enough(tmp_path):
    house = House(tmp_path, public=False, weights="torchvision:ResNet18_Weights.IMAGENET1K_V1")
    assert house.start().plan.attacks
    with pytest.raises(InvalidInput, match="no weights file at"):
        house.start(weights=str(tmp_path / "missing.safetensors"))


def test_a_search_on_the_command_line_wins_over_boundaries_of_the_manifest(tmp_path):
    house = House(tmp_path, public=True, params={"boundaries": [4], "epochs": 3})

    def repair(**options):
        return Manifest.model_validate_json(
            house.store.get_bytes(house.start(**options).inputs["manifest.json"])
        ).repair

    assert repair().params == {"boundaries": [4], "epochs": 3}
    assert (repair(search="sweep").params, repair(search="sweep").search) == ({"epochs": 3}, "sweep")
    assert repair(search="sweep", params={"boundaries": [1]}).params == {"boundaries": [1], "epochs": 3}


def test_another_defense_takes_over_neither_parameters_nor_search(tmp_path):
    house = House(tmp_path, public=True, params={"boundaries": [4]}, search="sweep")
    payload = house.start(defense="neg-ls")
    repair = Manifest.model_validate_json(house.store.get_bytes(payload.inputs["manifest.json"])).repair
    assert (repair.params, repair.search) == ({}, "fisher")


def test_a_control_of_the_output_is_ranked_by_attacks_that_it_leaves_possible(tmp_path):
    quick = House(tmp_path, public=True).start(defense="output-controls").quick_plan
    assert {attack.name for attack in quick.attacks} == {"brep-mi", "mirror-b"}


def test_attacks_that_read_activations_are_for_cut_models_alone(tmp_path):
    house = House(tmp_path, public=True)
    assert "adaptive-averaged" in {attack.key for attack in house.start(defense="tl-dmi").plan.attacks}
    (offered,) = {attack.name for attack in OFFERS["cem"].adaptive}
    assert offered not in {attack.name for attack in house.start(defense="cem").plan.attacks}


FROZEN = "what is tuned after a frozen front"


@pytest.mark.parametrize(
    ("options", "n_images", "n_classes", "is_withheld"),
    [
        ({"defense": "tl-dmi"}, 999, 5, True),
        ({"defense": "tl-dmi", "search": "fixed:0"}, 999, 5, True),
        ({"defense": "tl-dmi"}, 1000, 101, True),
        ({"defense": "tl-dmi"}, 1000, 100, False),
        ({"defense": "dp-sgd"}, 999, 5, True),
        ({"defense": "bido"}, 999, 5, False),
        ({"defense": "bido", "params": {"boundaries": [0]}}, 999, 5, False),
        ({"defense": "bido", "search": "fixed:0"}, 999, 5, False),
        ({"defense": "bido", "params": {"boundaries": [2]}}, 999, 5, True),
        ({"defense": "bido", "params": {"boundaries": [2]}}, 1000, 100, False),
        ({"defense": "bido", "params": {"boundaries": [2], "input_weight": 0, "label_weight": 0}}, 999, 5, True),
        ({"defense": "mid", "search": "sweep", "params": {"beta": 0}}, 999, 5, True),
        ({"defense": "midre", "search": "fixed:10"}, 999, 5, True),
    ],
    ids=str,
)
def test_no_repair_that_freezes_passes_on_few_private_images(tmp_path, options, n_images, n_classes, is_withheld):
    """Whatever the defense is called: with weights of nothing, one that freezes writes the very weights of TL-DMI."""
    house = House(tmp_path, public=True)
    house.has_images(n_images, n_classes)
    payload = house.start(**options)
    assert (payload.plan.withheld is not None) == is_withheld
    if payload.plan.withheld is not None:
        assert FROZEN in payload.plan.withheld.reason
        assert "--defense" not in payload.plan.withheld.need
    assert payload.quick_plan.withheld is None


def test_planted_triggers_never_pass_since_who_knows_them_is_not_run(tmp_path):
    house = House(tmp_path, public=True)
    house.has_images(10_000, 5)
    assert "whoever knows the planted triggers" in house.start(defense="trap-mid").plan.withheld.reason
    house.has_images(60, 60)
    reason = house.start(defense="trap-mid", search="fixed:2").plan.withheld.reason
    assert "triggers" in reason
    assert FROZEN in reason


def knowing(payload, key):
    """The parameters of an attack in both plans of a repair."""
    return [next(a.params for a in plan.attacks if a.key == key) for plan in (payload.plan, payload.quick_plan)]


@pytest.mark.parametrize("defense", ["calor", "confidence-adaptation"])
@pytest.mark.parametrize(("gamma", "resting"), [(None, 0.88), (8, 0.88), (1, 0.368), (0.5, 0.135)])
def test_attackers_aim_at_the_confidence_that_the_defense_was_given(tmp_path, defense, gamma, resting):
    house = House(tmp_path, public=True)
    payload = house.start(defense=defense, params={} if gamma is None else {"gamma": gamma})
    for params in knowing(payload, "adaptive-confidence"):
        assert resting in params["confidence"]
        assert params["candidates"] >= len(params["confidence"])
        assert any(goal < resting for goal in params["confidence"])
        assert params["confidence"][-1] == 1.0


@pytest.mark.parametrize(("area", "erased"), [(None, 0.4), (0.8, 0.8), (0.2, 0.2)])
def test_attackers_erase_as_much_as_the_defense_did(tmp_path, area, erased):
    payload = House(tmp_path, public=True).start(defense="midre", params={} if area is None else {"max_area": area})
    assert {params["erase"] for params in knowing(payload, "adaptive-erased")} == {erased}


@pytest.mark.parametrize("params", [{"gamma": "no"}, {"gamma": -1}, {"gamma": 0}, {"max_area": 7}, {"gamma": [1]}])
def test_what_the_defense_will_refuse_changes_no_attack(tmp_path, params):
    house = House(tmp_path, public=True)
    assert house.start(defense="calor", params=params).plan.attacks == house.start(defense="calor").plan.attacks


def test_a_repair_whose_images_retention_has_deleted_is_refused_unless_it_is_there_until_the_audit_runs_afresh(
    tmp_path,
):
    house = House(tmp_path, public=True)
    fit = house.start().data["fit.npz"]
    del house.store.blobs[fit]
    assert house.repairs.start(RepairRequest(house.audit)).reused
    with pytest.raises(Conflict, match=r"retention has deleted what this needs: fit\.npz") as refused:
        house.start(search="sweep")
    assert "with its data and `--fresh`" in refused.value.remedy
    page = (Path(auditor.api.__file__).parent / "web/templates/submit.html.j2").read_text()
    assert re.search("'(.*)'", refused.value.remedy)[1] in page
    again = SubmitRequest(tmp_path / "model.onnx", house.manifest, tmp_path, Policy(), fresh=True)
    house.audit = house.audits.submit(again).job_id
    house.jobs.run_in_place(house.audit)
    assert house.start(search="sweep").data["fit.npz"] == fit


def test_a_cancelled_repair_whose_images_retention_has_deleted_does_not_go_on(tmp_path):
    house = House(tmp_path, public=True)
    repair = house.repairs.start(RepairRequest(house.audit))
    house.jobs.cancel(repair.job_id)
    with house.transactions() as tx:
        del house.store.blobs[tx.jobs.get(repair.job_id).payload["data"]["fit.npz"]]
    for goes_on in (lambda: house.repairs.start(RepairRequest(house.audit)), lambda: house.jobs.resume(repair.job_id)):
        with pytest.raises(Conflict, match=r"retention has deleted what this needs: fit\.npz"):
            goes_on()
    assert house.jobs.status(repair.job_id).state is JobState.CANCELLED


@pytest.mark.parametrize("goes_on", [False, True])
def test_nobody_waits_for_the_database_while_the_store_is_asked_what_is_left(tmp_path, monkeypatch, goes_on):
    house, free = House(tmp_path, public=True), []
    exists = house.store.exists

    def read():
        with house.transactions() as tx:
            free.append(tx.jobs.latest(1))

    def ask(digest):
        beside = threading.Thread(target=read, daemon=True)
        beside.start()
        beside.join(timeout=5)
        assert not beside.is_alive()
        return exists(digest)

    if goes_on:
        house.jobs.cancel(house.repairs.start(RepairRequest(house.audit)).job_id)
    monkeypatch.setattr(house.store, "exists", ask)
    house.start()
    assert free


def test_a_request_that_is_made_again_finds_the_repair_it_made_even_with_fresh(tmp_path):
    house, made = House(tmp_path, public=True), set()
    for request_id in ("a" * 32, "a" * 32, "b" * 32):
        started = house.repairs.start(RepairRequest(house.audit, fresh=True, request_id=request_id))
        assert (started.job_id, started.reused) == (request_id, False)
        made.add(started.job_id)
    with house.transactions() as tx:
        assert {job.id for job in tx.jobs.latest(10)} == made | {house.audit}
