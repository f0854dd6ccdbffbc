"""What a repair asks for before it starts, on in-memory ports."""

from dataclasses import replace

import pytest

from auditor.contracts.base import digest_of
from auditor.contracts.jobs import WEIGHTS, AuditJob, JobKind, RepairJob, UnitResult, UnitSpec, UnitState
from auditor.contracts.manifest import Manifest
from auditor.contracts.plan import AuditPlan
from auditor.contracts.policy import Policy
from auditor.contracts.report import AuditReport
from auditor.contracts.submission import SplitPoint, TargetCard
from auditor.errors import InvalidInput
from auditor.evaluation.paired import plan_differences
from auditor.service.audits import Audits, SubmitRequest
from auditor.service.execution import Executor
from auditor.service.jobs import Jobs
from auditor.service.outcomes import as_repaired, origins
from auditor.service.pipeline import AUDIT
from auditor.service.records import LOCAL_TEAM, Unit
from auditor.testing.database import InMemoryTransactions
from auditor.testing.evidence import sample_data
from auditor.testing.handlers import PLAN, fast_handlers
from auditor.testing.ports import InMemoryQueue, InMemoryStore, InProcessRunner, SetClock
from auditor.testing.reports import sample_report, sample_target
from remediation.offers import OFFERS
from remediation.pipeline import REPAIR
from remediation.service import RepairRequest, Repairs

FRONT = SplitPoint(layer="features.2", shape=(8, 4, 4))


def weights_of(model):
    """What stands after `weights:` in a file is what its weights are; without, they are those of the first audit."""
    return digest_of(model.partition(b"weights:")[2].decode())


class House:
    """An audit that is done, and what starts its repair."""

    def __init__(self, folder, *, public, **repair):
        store, transactions, clock = InMemoryStore(), InMemoryTransactions(), SetClock()
        pipelines = {JobKind.AUDIT: AUDIT, JobKind.REPAIR: REPAIR}
        handlers = fast_handlers()
        check = handlers["check"]

        def without_public(unit, workspace, session):
            value = check(unit, workspace, session)
            workspace.output("public.npz").unlink()
            return value

        def with_weights(unit, workspace, session):
            value = check(unit, workspace, session)
            card = TargetCard.model_validate_json((workspace.output("target.json")).read_text())
            digest = weights_of((workspace.root / str(unit.params["model"])).read_bytes())
            workspace.output("target.json").write_text(
                card.model_copy(update={"weights_digest": digest}).model_dump_json()
            )
            return value

        handlers["check"] = with_weights if public else without_public
        executor = Executor(
            store=store, transactions=transactions, queue=InMemoryQueue(), clock=clock, pipelines=pipelines,
            runner=InProcessRunner(handlers, folder / "cache"), scratch=folder / "scratch",
        )  # fmt: skip
        self.jobs = Jobs(transactions=transactions, executor=executor, clock=clock, pipelines=pipelines)
        audits = Audits(store=store, transactions=transactions, executor=executor, jobs=self.jobs, clock=clock)
        self.repairs = Repairs(store=store, transactions=transactions, jobs=self.jobs)
        (folder / "model.onnx").write_bytes(b"weights")
        manifest = Manifest.model_validate({"model": {"name": "faces"}, "repair": repair})
        self.folder, self.manifest = folder, manifest
        self.audits = audits
        self.audit = audits.submit(SubmitRequest(folder / "model.onnx", manifest, folder, Policy(), False)).job_id
        self.jobs.run_in_place(self.audit)
        self.store, self.transactions, self.clock = store, transactions, clock

    def changes_report(self, **changes):
        """As if the audit had found something else."""
        with self.transactions() as tx:
            entry = tx.reports.find(self.audit)
        report = AuditReport.model_validate_json(self.store.get_bytes(entry.digest)).model_copy(update=changes)
        self.store.blobs[entry.digest] = report.model_dump_json().encode()

    def has_images(self, n_images, n_classes):
        """As if the audit had been given so many private images."""
        fit, *others = sample_data()
        self.changes_report(data=(fit.model_copy(update={"n_images": n_images, "n_classes": n_classes}), *others))

    def makes(self, model, repair, *, is_old=False):
        """As if the repair had trained and written this model; an older version told no digest of its weights."""
        with self.transactions() as tx:
            job = next(job for job in tx.jobs.latest(10) if job.payload == repair.model_dump(mode="json"))
            digest = self.store.put_bytes(model)
            card = sample_target(digest=digest, weights_digest=weights_of(model))
            card = card.model_copy(update={"public_front": FRONT})
            result = UnitResult(
                outputs={"model": digest, "target.json": self.store.put_bytes(card.model_dump_json().encode())},
                value={} if is_old else {"model_weights_digest": weights_of(model)},
            )
            spec = UnitSpec(kind="repair-train", key="k2/train")
            tx.units.add([Unit(f"{job.id}-k2", job.id, 99, spec, UnitState.DONE, result=result)])

    def submits(self, model, **options):
        """The plan by which the audit of a file is made."""
        path = self.folder / "again.onnx"
        path.write_bytes(model)
        request = SubmitRequest(path, self.manifest, self.folder, Policy(), False, **options)
        started = self.audits.submit(request)
        with self.transactions() as tx:
            job = tx.jobs.get(started.job_id)
            payload, self.submitted = AuditJob.model_validate(job.payload), tx.submissions.get(job.submission_id)
        assert AuditPlan.model_validate_json(self.store.get_bytes(payload.inputs["plan.json"])) == payload.plan
        return payload.plan

    def start(self, **options):
        """The payload of the repair job that starts."""
        started = self.repairs.start(RepairRequest(self.audit, **options))
        with self.transactions() as tx:
            return RepairJob.model_validate(tx.jobs.get(started.job_id).payload)


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


class TestARepairedFileIsSubmitted:
    """By a CI job, say, which knows nothing of the repair."""

    @pytest.fixture
    def house(self, tmp_path):
        house = House(tmp_path, public=True)
        house.changes_report(plan=PLAN)
        return house

    def test_it_meets_who_knows_the_defense_and_what_is_withheld_stays_withheld(self, house):
        repair = house.start(defense="trap-mid")
        house.makes(b"repaired", repair)
        plan = house.submits(b"repaired")
        assert plan.attacks == repair.plan.attacks
        assert {"adaptive-scrub", "adaptive-erased", "adaptive-confidence"} <= {attack.key for attack in plan.attacks}
        assert plan.withheld == repair.plan.withheld is not None
        assert [origin.defense for origin in plan.repairs] == ["trap-mid"]
        assert "the outcome of repair" in origins(plan)[0].message
        assert "trap-mid" in origins(plan)[0].message

    def test_its_audit_can_be_compared_with_that_of_the_repair_both_ways(self, house):
        repair = house.start(defense="calor", params={"gamma": 1})
        house.makes(b"repaired", repair)
        own, submitted = (
            sample_report().model_copy(update={"plan": plan}) for plan in (repair.plan, house.submits(b"repaired"))
        )
        assert plan_differences(own, submitted) == plan_differences(submitted, own) == []

    def test_who_attacks_it_has_the_public_layers_that_the_repair_left_in_it(self, house):
        house.makes(b"repaired", house.start(defense="tl-dmi"))
        house.submits(b"repaired")
        assert house.submitted.target.public_front == FRONT
        card = house.store.get_bytes(house.submitted.inputs["target.json"])
        assert TargetCard.model_validate_json(card) == house.submitted.target
        house.submits(b"another")
        assert house.submitted.target.public_front is None

    def test_who_attacks_a_file_written_anew_has_them_too(self, house):
        house.makes(b"repaired weights:tuned", house.start(defense="tl-dmi"))
        house.submits(b"written by another tool weights:tuned")
        assert house.submitted.target.public_front == FRONT

    def test_another_file_is_audited_as_it_was(self, house):
        house.makes(b"repaired", house.start(defense="trap-mid"))
        plan = house.submits(b"another")
        assert (plan, origins(plan)) == (PLAN, ())

    def test_weights_that_were_written_anew_are_known(self, house):
        repair = house.start(defense="calor")
        house.makes(b"repaired weights:tuned", repair)
        assert house.submits(b"written by another tool weights:tuned").repairs

    def test_a_control_of_the_output_leaves_the_weights_so_the_submission_is_not_its_outcome(self, house):
        repair = house.start(defense="output-controls")
        house.makes(b"rounded", repair)
        assert not house.submits(b"weights").repairs
        assert house.submits(b"rounded").repairs

    def test_another_teams_repair_tells_nothing(self, house):
        house.makes(b"repaired", house.start(defense="trap-mid"))
        assert house.submits(b"repaired", team_id="another") == PLAN

    def test_one_file_of_two_repairs_meets_the_attackers_of_both(self, house):
        for defense in ("neg-ls", "trap-mid"):
            house.makes(b"repaired", house.start(defense=defense))
        plan = house.submits(b"repaired")
        assert {"adaptive-label", "adaptive-scrub"} <= {attack.key for attack in plan.attacks}
        assert len({attack.key for attack in plan.attacks}) == len(plan.attacks)
        assert {origin.defense for origin in plan.repairs} == {"neg-ls", "trap-mid"}
        assert "triggers" in plan.withheld.reason

    def test_its_repair_goes_on_to_withhold_unless_it_starts_from_public_weights(self, house):
        house.makes(b"repaired", house.start(defense="trap-mid"))
        plan = house.submits(b"repaired")
        house.has_images(10_000, 5)
        house.changes_report(plan=plan)
        tuned, retrained = house.start(defense="neg-ls"), house.start(defense="bido")
        assert tuned.plan.withheld == plan.withheld
        assert retrained.plan.withheld is None
        assert {repair.plan.repairs for repair in (tuned, retrained)} == {()}

    def test_its_weights_are_not_public_whatever_the_next_repair_is_told(self, house, tmp_path):
        """Else what keeps it from a pass would be forgotten, and who knows its defense left out."""
        house.makes(b"repaired", house.start(defense="trap-mid"))
        weights = tmp_path / "public.safetensors"
        weights.write_bytes(b"repaired")
        with pytest.raises(InvalidInput, match=r"the outcome of repair \w+, trained on private data"):
            house.start(defense="bido", weights=str(weights))
        weights.write_bytes(b"public")
        assert house.start(defense="bido", weights=str(weights)).data["weights.safetensors"]

    def test_what_an_older_version_repaired_is_to_be_repaired_again(self, house):
        house.has_images(10_000, 5)
        repair = house.start(defense="bido")
        assert repair.plan.withheld is None
        house.makes(b"repaired", repair, is_old=True)
        withheld = house.submits(b"repaired").withheld
        assert "by an older version" in withheld.reason
        assert withheld.need == "repair the model again"
        house.makes(b"repaired now", house.start(defense="midre"))
        assert house.submits(b"repaired now").withheld is None

    def test_cut_where_its_repair_was_not_it_meets_nobody_who_knows_the_defense_and_does_not_pass(self, house):
        house.has_images(10_000, 5)
        house.makes(b"repaired", house.start(defense="bido"))
        card = sample_target(digest=house.store.put_bytes(b"repaired"))
        whole, cut = (
            as_repaired(plan, card, LOCAL_TEAM, house.transactions, house.store)[0]
            for plan in (PLAN, PLAN.model_copy(update={"split": "features.2"}))
        )
        assert whole.withheld is None
        assert "attacks that know this defense are part" in origins(whole)[0].message
        assert cut.attacks == PLAN.attacks
        assert "for another deployment" in cut.withheld.reason
        assert "no attack that knows this defense is part" in origins(cut)[0].message

    def test_a_later_repair_that_makes_the_same_file_renames_no_attack(self, house):
        plans = []
        for gamma in (1, 0.5):
            house.makes(b"repaired", house.start(defense="calor", params={"gamma": gamma}))
            plans.append(house.submits(b"repaired"))
            house.clock.sleep(100)
        before, after = ({attack.key: attack for attack in plan.attacks} for plan in plans)
        assert before.items() <= after.items()
        assert after.keys() - before.keys() == {"adaptive-confidence-2"}


def test_weights_that_the_manifest_names_are_not_a_repairs_outcome_either(tmp_path):
    weights = tmp_path / "public.safetensors"
    weights.write_bytes(b"repaired")
    house = House(tmp_path, public=True, weights=str(weights))
    with house.transactions() as tx:
        submission = tx.submissions.get(tx.jobs.get(house.audit).submission_id)
        inputs = {**submission.inputs, WEIGHTS: house.store.put_bytes(b"repaired")}
        tx.submissions.add(replace(submission, inputs=inputs))
    house.makes(b"repaired", house.start(defense="trap-mid"))
    with pytest.raises(InvalidInput, match="the outcome of repair"):
        house.start(defense="bido")
    assert house.start(defense="neg-ls").plan
    assert house.start(defense="bido", weights="torchvision:ResNet18_Weights.IMAGENET1K_V1").published


def test_a_request_that_is_made_again_finds_the_repair_it_made_even_with_fresh(tmp_path):
    house, made = House(tmp_path, public=True), set()
    for request_id in ("a" * 32, "a" * 32, "b" * 32):
        started = house.repairs.start(RepairRequest(house.audit, fresh=True, request_id=request_id))
        assert (started.job_id, started.reused) == (request_id, False)
        made.add(started.job_id)
    with house.transactions() as tx:
        assert {job.id for job in tx.jobs.latest(10)} == made | {house.audit}
