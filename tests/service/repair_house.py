"""An audit on in-memory ports, and the repairs that start from it."""

import hashlib

from auditor.contracts.base import digest_of
from auditor.contracts.jobs import AuditJob, JobKind, RepairJob, UnitResult, UnitSpec, UnitState
from auditor.contracts.manifest import Manifest
from auditor.contracts.plan import AuditPlan
from auditor.contracts.policy import Policy
from auditor.contracts.report import AuditReport
from auditor.contracts.submission import SplitPoint, TargetCard
from auditor.service.audits import Audits, SubmitRequest
from auditor.service.execution import Executor
from auditor.service.jobs import Jobs
from auditor.service.pipeline import AUDIT
from auditor.service.records import Unit
from auditor.testing.database import InMemoryTransactions
from auditor.testing.evidence import sample_data
from auditor.testing.handlers import fast_handlers
from auditor.testing.ports import InMemoryQueue, InMemoryStore, InProcessRunner, SetClock
from auditor.testing.reports import sample_target
from remediation.pipeline import REPAIR
from remediation.service import RepairRequest, Repairs

FRONT = SplitPoint(layer="features.2", shape=(8, 4, 4))


def weights_of(model):
    """What stands after `weights:` in a file is what its weights are; without, they are those of the first audit."""
    return digest_of(model.partition(b"weights:")[2].decode())


def answers_of(model):
    """The numbers that stand after `answers:` in a file; without, those of no other file."""
    told = model.partition(b"answers:")[2].split(b" ")[0]
    if told:
        return tuple(float(number) for number in told.split(b","))
    return tuple(float(byte) - 128 for byte in hashlib.sha256(model).digest()[:4])


class House:
    """An audit that is done, and what starts its repair."""

    def __init__(self, folder, *, public, model=b"weights", **repair):
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
            model = (workspace.root / str(unit.params["model"])).read_bytes()
            told = {"weights_digest": weights_of(model), "answers": answers_of(model)}
            workspace.output("target.json").write_text(card.model_copy(update=told).model_dump_json())
            return value

        handlers["check"] = with_weights if public else without_public
        executor = Executor(
            store=store, transactions=transactions, queue=InMemoryQueue(), clock=clock, pipelines=pipelines,
            runner=InProcessRunner(handlers, folder / "cache"), scratch=folder / "scratch",
        )  # fmt: skip
        self.jobs = Jobs(transactions=transactions, executor=executor, clock=clock, pipelines=pipelines)
        audits = Audits(store=store, transactions=transactions, executor=executor, jobs=self.jobs, clock=clock)
        self.repairs = Repairs(store=store, transactions=transactions, jobs=self.jobs)
        (folder / "model.onnx").write_bytes(model)
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

    def makes(self, model, repair, *, is_old=False, front=FRONT, **card_fields):
        """As if the repair had trained and written this model; an older version told no digest of its weights."""
        with self.transactions() as tx:
            job = next(job for job in tx.jobs.latest(10) if job.payload == repair.model_dump(mode="json"))
            digest = self.store.put_bytes(model)
            card = sample_target(digest=digest, weights_digest=weights_of(model))
            card = card.model_copy(update={"public_front": front, **card_fields})
            result = UnitResult(
                outputs={"model": digest, "target.json": self.store.put_bytes(card.model_dump_json().encode())},
                value={}
                if is_old
                else {"model_weights_digest": weights_of(model), "model_answers": list(answers_of(model))},
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
