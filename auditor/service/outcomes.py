"""A submitted model that one of the team's repairs made is audited as that repair audits it.

It is what gets deployed, so it is what a CI job submits, and by itself a plan knows nothing of a defense: without this
a model that only hides from common attacks would pass where the audit of its repair did not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from auditor.contracts.jobs import JobKind, RepairJob
from auditor.contracts.manifest import Manifest
from auditor.contracts.plan import KNOWING, AuditPlan, RepairOrigin, Withheld
from auditor.contracts.report import Finding
from auditor.contracts.submission import TargetCard
from auditor.service.candidates import with_adaptive
from auditor.service.ports import ArtifactStore
from auditor.service.records import Job, Unit
from auditor.service.repositories import Transactions, UnitOfWork

_MODEL, _CARD = "model", "target.json"


def as_repaired(
    plan: AuditPlan, target: TargetCard, team_id: str, transactions: Transactions, store: ArtifactStore
) -> tuple[AuditPlan, TargetCard]:
    """The plan with what the repairs that made this model know and withhold, and the card with what they left public.

    Both come back as they are where no repair made it. The model is known by its file, or by the digest of its weights
    where it was only written anew. Candidates that a repair did not choose count too. Attacks on a cut model are not
    carried over to a plan that does not cut it, nor the others to one that does.
    """
    with transactions() as tx:
        units = list(_made(target, team_id, tx))
        jobs = {unit.job_id: tx.jobs.get(unit.job_id) for unit in units}
        reports = {
            job_id: next((entry for entry in tx.reports.of_job(job_id) if entry.kind is JobKind.REPAIR), None)
            for job_id in jobs
        }
    made_by, held = [], list[Withheld]()
    for job in jobs.values():
        repair, report = RepairJob.model_validate(job.payload), reports[job.id]
        if (repair.plan.split is None) == (plan.split is None):
            plan = with_adaptive(plan, tuple(a for a in repair.plan.attacks if a.key.startswith(KNOWING)))
        if repair.plan.withheld is not None and repair.plan.withheld not in held:
            held.append(repair.plan.withheld)
        manifest = Manifest.model_validate_json(store.get_bytes(repair.inputs["manifest.json"]))
        reference = job.id if report is None else report.report_id
        made_by.append(RepairOrigin(reference=reference, defense=manifest.repair.defense))
    if not made_by:
        return plan, target
    plan = plan.model_copy(update={"repairs": tuple(dict.fromkeys(made_by)), "withheld": joined(held)})
    return plan, _with_public_front(target, units, store)


def _with_public_front(target: TargetCard, units: Sequence[Unit], store: ArtifactStore) -> TargetCard:
    """The card with what the repair found public in this very file, where the submission names no public model."""
    if target.public_front is not None:
        return target
    files = [unit.result.outputs for unit in units if unit.result is not None]
    cards = [TargetCard.model_validate_json(store.get_bytes(made[_CARD])) for made in files if _CARD in made]
    fronts = [card.public_front for card in cards if card.digest == target.digest and card.public_front is not None]
    return target.model_copy(update={"public_front": fronts[0]}) if fronts else target


def joined(reasons: Sequence[Withheld]) -> Withheld | None:
    """All of them in one; None: there are none."""
    if not reasons:
        return None
    return Withheld(reason="; ".join(one.reason for one in reasons), need="; ".join(one.need for one in reasons))


def _made(target: TargetCard, team_id: str, tx: UnitOfWork) -> Iterator[Unit]:
    """Units of the team's repairs that left this model, those of the newest repair first."""
    for unit in _naming(target, tx):
        if unit.result is None or _MODEL not in unit.result.outputs:
            continue
        job = tx.jobs.get(unit.job_id)
        if job.team_id == team_id and (
            unit.result.outputs[_MODEL] == target.digest or _has_weights(target, unit, job, tx)
        ):
            yield unit


def _naming(target: TargetCard, tx: UnitOfWork) -> list[Unit]:
    found = [*tx.units.naming(target.digest, JobKind.REPAIR), *tx.units.naming(target.weights_digest, JobKind.REPAIR)]
    return list({unit.id: unit for unit in found}.values())


def _has_weights(target: TargetCard, unit: Unit, job: Job, tx: UnitOfWork) -> bool:
    """Whether these are the weights that the repair wrote, and it changed them: a control of the output does not."""
    written = {} if unit.result is None else unit.result.value
    before = tx.submissions.get(job.submission_id).target.weights_digest
    return written.get("model_weights_digest") == target.weights_digest != before


def origins(plan: AuditPlan) -> tuple[Finding, ...]:
    """Of which repairs the model is the outcome, for whoever reads the report."""
    return tuple(
        Finding(
            code="repaired-model",
            severity="info",
            message=f"The submitted model is the outcome of repair {origin.reference[:12]} ({origin.defense}): attacks "
            "that know this defense are part of the audit, and what keeps that repair from a pass keeps this audit "
            "from one.",
        )
        for origin in plan.repairs
    )
