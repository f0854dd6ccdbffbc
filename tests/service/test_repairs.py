"""What a repair asks for before it starts, on in-memory ports."""

import pytest

from auditor.contracts.jobs import JobKind, RepairJob
from auditor.contracts.manifest import Manifest
from auditor.contracts.policy import Policy
from auditor.contracts.report import AuditReport
from auditor.errors import InvalidInput
from auditor.service.audits import Audits, SubmitRequest
from auditor.service.execution import Executor
from auditor.service.jobs import Jobs
from auditor.service.pipeline import AUDIT
from auditor.testing.database import InMemoryTransactions
from auditor.testing.evidence import sample_data
from auditor.testing.handlers import fast_handlers
from auditor.testing.ports import InMemoryQueue, InMemoryStore, InProcessRunner, SetClock
from auditor.testing.reports import sample_report
from remediation.offers import OFFERS
from remediation.pipeline import REPAIR
from remediation.service import RepairRequest, Repairs


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

        if not public:
            handlers["check"] = without_public
        executor = Executor(
            store=store, transactions=transactions, queue=InMemoryQueue(), clock=clock, pipelines=pipelines,
            runner=InProcessRunner(handlers, folder / "cache"), scratch=folder / "scratch",
        )  # fmt: skip
        self.jobs = Jobs(transactions=transactions, executor=executor, clock=clock, pipelines=pipelines)
        audits = Audits(store=store, transactions=transactions, executor=executor, jobs=self.jobs, clock=clock)
        self.repairs = Repairs(store=store, transactions=transactions, jobs=self.jobs)
        (folder / "model.onnx").write_bytes(b"weights")
        manifest = Manifest.model_validate({"model": {"name": "faces"}, "repair": repair})
        self.audit = audits.submit(SubmitRequest(folder / "model.onnx", manifest, folder, Policy(), False)).job_id
        self.jobs.run_in_place(self.audit)
        self.store, self.transactions = store, transactions

    def changes_report(self, **changes):
        """As if the audit had found something else."""
        with self.transactions() as tx:
            entry = tx.reports.find(self.audit)
        report = AuditReport.model_validate_json(self.store.get_bytes(entry.digest)).model_copy(update=changes)
        self.store.blobs[entry.digest] = report.model_dump_json().encode()

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


@pytest.mark.parametrize(
    ("defense", "n_images", "n_classes", "is_withheld"),
    [
        ("tl-dmi", 999, 5, True),
        ("tl-dmi", 1000, 101, True),
        ("tl-dmi", 1000, 100, False),
        ("bido", 999, 5, False),
    ],
)
def test_freezing_alone_does_not_pass_on_few_private_images(tmp_path, defense, n_images, n_classes, is_withheld):
    house = House(tmp_path, public=True)
    fit, *others = sample_data()
    house.changes_report(data=(fit.model_copy(update={"n_images": n_images, "n_classes": n_classes}), *others))
    payload = house.start(defense=defense)
    assert (payload.plan.withheld is not None) == is_withheld
    assert payload.quick_plan.withheld is None


def test_a_request_that_is_made_again_finds_the_repair_it_made_even_with_fresh(tmp_path):
    house, made = House(tmp_path, public=True), set()
    for request_id in ("a" * 32, "a" * 32, "b" * 32):
        started = house.repairs.start(RepairRequest(house.audit, fresh=True, request_id=request_id))
        assert (started.job_id, started.reused) == (request_id, False)
        made.add(started.job_id)
    with house.transactions() as tx:
        assert {job.id for job in tx.jobs.latest(10)} == made | {house.audit}
