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

_MODEL, _CARD, _TRAINED = "model", "target.json", "/train"
_WEIGHTS = "model_weights_digest"
_OLDER = Withheld(
    reason="it was repaired by an older version, whose rules for a pass were weaker", need="repair the model again"
)
_ELSEWHERE = Withheld(
    reason="it was repaired for another deployment (cut or whole) than the one audited, so no attack that knows its "
    "defense was run",
    need="audit it as it was repaired",
)


def as_repaired(
    plan: AuditPlan, target: TargetCard, team_id: str, transactions: Transactions, store: ArtifactStore
) -> tuple[AuditPlan, TargetCard]:
    """The plan with what the repairs that made this model know and withhold, and the card with what they left public.

    Both come back as they are where no repair made it. The model is known by its file, or by the digest of its weights
    where it was only written anew. Candidates that a repair did not choose count too. Attacks on a cut model are not
    carried over to a plan that does not cut it, nor the others to one that does: then no pass is given. Repairs come
    oldest first, so that a later one that leaves the same model renames no attack.
    """
    with transactions() as tx:
        units = list(_made(target, team_id, tx))
        jobs = {unit.job_id: tx.jobs.get(unit.job_id) for unit in units}
        references = {job_id: _reference(job_id, tx) for job_id in jobs}
    older = {unit.job_id for unit in units if unit.result is not None and not unit.result.value.get(_WEIGHTS)}
    made_by, held = list[RepairOrigin](), list[Withheld]()
    for job in jobs.values():
        repair = RepairJob.model_validate(job.payload)
        known = tuple(attack for attack in repair.plan.attacks if attack.key.startswith(KNOWING))
        held += [] if repair.plan.withheld is None else [repair.plan.withheld]
        held += [_OLDER] if job.id in older else []
        if (repair.plan.split is None) == (plan.split is None):
            plan = with_adaptive(plan, known)
        else:
            known = ()
            held.append(_ELSEWHERE)
        manifest = Manifest.model_validate_json(store.get_bytes(repair.inputs["manifest.json"]))
        made_by.append(RepairOrigin(reference=references[job.id], defense=manifest.repair.defense, is_met=bool(known)))
    if not made_by:
        return plan, target
    withheld = joined(list(dict.fromkeys(held)))
    plan = plan.model_copy(update={"repairs": tuple(dict.fromkeys(made_by)), "withheld": withheld})
    return plan, _with_public_front(target, units, store)


def repair_of(file: str, team_id: str, tx: UnitOfWork) -> str | None:
    """Reference of the team's oldest repair that wrote the file of this sha256; None: none did."""
    named = tx.units.naming((file,), JobKind.REPAIR, team_id=team_id, key=_TRAINED)
    made = [unit for unit in named if unit.result is not None and unit.result.outputs.get(_MODEL) == file]
    return _reference(made[0].job_id, tx) if made else None


def _reference(job_id: str, tx: UnitOfWork) -> str:
    return next((entry.report_id for entry in tx.reports.of_job(job_id) if entry.kind is JobKind.REPAIR), job_id)


def _with_public_front(target: TargetCard, units: Sequence[Unit], store: ArtifactStore) -> TargetCard:
    """The card with what the repair found public in this model, where the submission names no public model.

    What it found in this very file comes before what it found in one with the same weights.
    """
    if target.public_front is not None:
        return target
    files = [unit.result.outputs for unit in units if unit.result is not None]
    cards = [TargetCard.model_validate_json(store.get_bytes(made[_CARD])) for made in files if _CARD in made]
    same = [card for card in cards if card.digest == target.digest or card.weights_digest == target.weights_digest]
    same.sort(key=lambda card: card.digest != target.digest)
    fronts = [card.public_front for card in same if card.public_front is not None]
    return target.model_copy(update={"public_front": fronts[0]}) if fronts else target


def joined(reasons: Sequence[Withheld]) -> Withheld | None:
    """All of them in one; None: there are none."""
    if not reasons:
        return None
    return Withheld(reason="; ".join(one.reason for one in reasons), need="; ".join(one.need for one in reasons))


def _made(target: TargetCard, team_id: str, tx: UnitOfWork) -> Iterator[Unit]:
    """Units of the team's repairs that left this model, those of the oldest repair first."""
    digests = (target.digest, target.weights_digest)
    for unit in tx.units.naming(digests, JobKind.REPAIR, team_id=team_id, key=_TRAINED):
        if unit.result is None or _MODEL not in unit.result.outputs:
            continue
        if unit.result.outputs[_MODEL] == target.digest or _has_weights(target, unit, tx.jobs.get(unit.job_id), tx):
            yield unit


def _has_weights(target: TargetCard, unit: Unit, job: Job, tx: UnitOfWork) -> bool:
    """Whether these are the weights that the repair wrote, and it changed them: a control of the output does not."""
    written = {} if unit.result is None else unit.result.value
    before = tx.submissions.get(job.submission_id).target.weights_digest
    return written.get(_WEIGHTS) == target.weights_digest != before


def origins(plan: AuditPlan) -> tuple[Finding, ...]:
    """Of which repairs the model is the outcome, for whoever reads the report."""
    return tuple(
        Finding(
            code="repaired-model",
            severity="info",
            message=f"The submitted model is the outcome of repair {origin.reference[:12]} ({origin.defense}): "
            f"{'attacks that know this defense are' if origin.is_met else 'no attack that knows this defense is'} part "
            "of the audit, and what keeps that repair from a pass keeps this audit from one.",
        )
        for origin in plan.repairs
    )
