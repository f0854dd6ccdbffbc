"""A submitted model that one of the team's repairs made is audited as that repair audits it.

It is what gets deployed, so it is what a CI job submits, and by itself a plan knows nothing of a defense: without this
a model that only hides from common attacks would pass where the audit of its repair did not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from pydantic import TypeAdapter

from auditor.contracts.jobs import JobKind, RepairJob
from auditor.contracts.manifest import Manifest
from auditor.contracts.plan import KNOWING, AuditPlan, RepairOrigin, Withheld
from auditor.contracts.report import Finding
from auditor.contracts.submission import TargetCard
from auditor.service.candidates import with_adaptive
from auditor.service.ports import ArtifactStore
from auditor.service.records import Unit
from auditor.service.repositories import Transactions, UnitOfWork

_MODEL, _CARD, _TRAINED = "model", "target.json", "/train"
_WEIGHTS, _ANSWERS = "model_weights_digest", "model_answers"
ALIKE = 0.5
"""How far apart the answers of one model in two files may be (`apart`; docs/repair.md has what was measured)."""
_CLEARLY = 0.5
"""A model is the submission of a repair, and not its outcome, if it is nearer to that by this factor."""
_OLDER = Withheld(
    reason="it was repaired by an older version, whose rules for a pass were weaker", need="repair the model again"
)
_ELSEWHERE = Withheld(
    reason="it was repaired for another deployment (cut or whole) than the one audited, so no attack that knows its "
    "defense was run",
    need="audit it as it was repaired",
)
_REBUILT = Withheld(
    reason="it answers like the outcome of a repair, but in its own file the layers that the repair left public could "
    "not be found, so who attacks it was not given them",
    need="submit the file that the repair wrote, or name the public weights (`model.public_model`)",
)


def as_repaired(
    plan: AuditPlan, target: TargetCard, team_id: str, transactions: Transactions, store: ArtifactStore
) -> tuple[AuditPlan, TargetCard]:
    """The plan with what the repairs that made this model know and withhold, and the card with what they left public.

    Both come back as they are where no repair made it. The model is known by its file, by the digest of its weights
    where it was only written anew, or by its answers where it was exported to another format, renamed, folded or
    quantised. Candidates that a repair did not choose count too. Attacks on a cut model are not
    carried over to a plan that does not cut it, nor the others to one that does: then no pass is given. Repairs come
    oldest first, so that a later one that leaves the same model renames no attack.
    """
    with transactions() as tx:
        units = list(_made(target, team_id, tx))
        jobs = {unit.job_id: tx.jobs.get(unit.job_id) for unit in units}
        references = {job_id: _reference(job_id, tx) for job_id in jobs}
    older = {unit.job_id for unit in units if not _answers(unit)}
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
        made_by.append(
            RepairOrigin(
                reference=references[job.id],
                defense=manifest.repair.defense,
                is_met=bool(known),
                is_alike=not any(_is_same(target, unit) for unit in units if unit.job_id == job.id),
            )
        )
    if not made_by:
        return plan, target
    target, is_found = _with_public_front(target, units, store)
    held += [] if is_found else [_REBUILT]
    withheld = joined(list(dict.fromkeys(held)))
    plan = plan.model_copy(update={"repairs": tuple(dict.fromkeys(made_by)), "withheld": withheld})
    return plan, target


def repair_of(file: str, team_id: str, tx: UnitOfWork) -> str | None:
    """Reference of the team's oldest repair that wrote the file of this sha256; None: none did."""
    made = [unit for unit in _trained(team_id, tx) if unit.result is not None and unit.result.outputs[_MODEL] == file]
    return _reference(made[0].job_id, tx) if made else None


def _reference(job_id: str, tx: UnitOfWork) -> str:
    return next((entry.report_id for entry in tx.reports.of_job(job_id) if entry.kind is JobKind.REPAIR), job_id)


def _with_public_front(target: TargetCard, units: Sequence[Unit], store: ArtifactStore) -> tuple[TargetCard, bool]:
    """The card with what the repair found public in this model, where the submission names no public model.

    What it found in this very file comes before what it found in one of this format with the same weights; in a model
    that was built anew the layers have other names. Also whether nothing public was lost by that.
    """
    if target.public_front is not None:
        return target, True
    files = [unit.result.outputs for unit in units if unit.result is not None]
    cards = [TargetCard.model_validate_json(store.get_bytes(made[_CARD])) for made in files if _CARD in made]
    known = (target.format, target.weights_digest)
    own = [card for card in cards if card.digest == target.digest]
    own = own or [card for card in cards if (card.format, card.weights_digest) == known]
    fronts = [card.public_front for card in own or cards if card.public_front is not None]
    if own and fronts:
        return target.model_copy(update={"public_front": fronts[0]}), True
    return target, not fronts


def joined(reasons: Sequence[Withheld]) -> Withheld | None:
    """All of them in one; None: there are none."""
    if not reasons:
        return None
    return Withheld(reason="; ".join(one.reason for one in reasons), need="; ".join(one.need for one in reasons))


def _made(target: TargetCard, team_id: str, tx: UnitOfWork) -> Iterator[Unit]:
    """Units of the team's repairs that left this model, those of the oldest repair first."""
    for unit in _trained(team_id, tx):
        if _is_file(target, unit):
            yield unit
        elif _is_same(target, unit) or apart(target.answers, _answers(unit)) <= ALIKE:
            before = tx.submissions.get(tx.jobs.get(unit.job_id).submission_id).target
            if _is_outcome(target, before, unit):
                yield unit


def _is_outcome(target: TargetCard, before: TargetCard, unit: Unit) -> bool:
    """Whether what looks like the outcome is not just the model that was repaired.

    A control of the output leaves the weights, and a weak repair nearly the answers. In doubt it is the outcome.
    """
    keeps_weights = target.weights_digest == before.weights_digest
    if _is_same(target, unit) and not keeps_weights:
        return True
    if target.digest == before.digest or (keeps_weights and not before.answers):
        return False
    away = apart(target.answers, _answers(unit))
    return away <= ALIKE and apart(target.answers, before.answers) >= _CLEARLY * away


def _trained(team_id: str, tx: UnitOfWork) -> list[Unit]:
    units = tx.units.finished(JobKind.REPAIR, team_id=team_id, key=_TRAINED)
    return [unit for unit in units if unit.result is not None and _MODEL in unit.result.outputs]


def _is_file(target: TargetCard, unit: Unit) -> bool:
    return unit.result is not None and unit.result.outputs[_MODEL] == target.digest


def _is_same(target: TargetCard, unit: Unit) -> bool:
    """Whether it is the file that the unit wrote, or holds the same weights under the same names."""
    written = {} if unit.result is None else unit.result.value
    return _is_file(target, unit) or written.get(_WEIGHTS) == target.weights_digest


def _answers(unit: Unit) -> tuple[float, ...]:
    """What the model that it wrote answers; () where an older version wrote it."""
    told = None if unit.result is None else unit.result.value.get(_ANSWERS)
    return tuple(TypeAdapter(list[float]).validate_python(told or []))


def apart(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """How far apart the folded answers of two models are, each scaled to size 1; infinite where either has none.

    From 0 to 2; about 1.4 for answers that have nothing in common.
    """
    sizes = math.hypot(*one), math.hypot(*other)
    if not all(sizes) or len(one) != len(other):
        return math.inf
    return math.hypot(*(a / sizes[0] - b / sizes[1] for a, b in zip(one, other, strict=True)))


def origins(plan: AuditPlan) -> tuple[Finding, ...]:
    """Of which repairs the model is the outcome, for whoever reads the report."""
    return tuple(
        Finding(
            code="repaired-model",
            severity="info",
            message=f"The submitted model {'answers like' if origin.is_alike else 'is'} the outcome of repair "
            f"{origin.reference[:12]} ({origin.defense}): "
            f"{'attacks that know this defense are' if origin.is_met else 'no attack that knows this defense is'} part "
            "of the audit, and what keeps that repair from a pass keeps this audit from one.",
        )
        for origin in plan.repairs
    )
