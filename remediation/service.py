"""The use-case: repair what an audit found, and audit again."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from auditor.contracts.access import Access
from auditor.contracts.base import Contract, as_written, canonical_json, digest_of_file
from auditor.contracts.jobs import WEIGHTS, JobKind, RepairJob
from auditor.contracts.manifest import RepairBudget
from auditor.contracts.plan import AuditPlan
from auditor.contracts.problems import problems_in
from auditor.contracts.repair import Offer, Reach
from auditor.contracts.report import AuditReport
from auditor.errors import InvalidInput
from auditor.evaluation.paired import with_own_evaluator
from auditor.service.candidates import quick_version, trial_version, with_adaptive
from auditor.service.jobs import Jobs, Started
from auditor.service.outcomes import repair_of
from auditor.service.ports import ArtifactStore
from auditor.service.records import Submission
from auditor.service.reports import read_audit
from auditor.service.repositories import Transactions
from remediation.offers import attacks_knowing, offer_of
from remediation.withholding import withheld

_REMEDY = "Correct the listed problems; data that the audit lacked has to be named in the manifest of a new submission."


@dataclass(frozen=True)
class RepairRequest:
    """What to repair and what it may cost.

    Attributes:
        reference: id of an audit's report or job.
        weights: trained on public data only: a safetensors file, or `torchvision:` and a name of its own; None: what
            the manifest says, else pre-train on the public data.
        max_accuracy_loss: overrides the manifest's budget, in accuracy points 0..1.
        defense: overrides the manifest's; its parameters there are then set aside.
        search: overrides the manifest's: `fisher`, `sweep` or `fixed:K`.
        params: overrides of the defense's parameters.
        fresh: run again even if the same repair is stored.
        priority: of jobs that wait, those with a higher one go first.
        request_id: see `auditor.service.jobs.Jobs.of_request`.
    """

    reference: str
    weights: str | None = None
    max_accuracy_loss: float | None = None
    defense: str | None = None
    search: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    fresh: bool = False
    priority: int = 0
    request_id: str | None = None


class Repairs:
    """Repairs.

    Args:
        store: artifacts.
        transactions: the database.
        jobs: creates the job.
    """

    def __init__(self, *, store: ArtifactStore, transactions: Transactions, jobs: Jobs) -> None:
        self._store = store
        self._transactions = transactions
        self._jobs = jobs

    def start(self, request: RepairRequest) -> Started:
        """Create the repair job of an audit that has a report and private data.

        A defense that retrains also needs public data, unless weights are given.

        Raises:
            InvalidInput: the audit cannot be repaired; every reason is listed.
            NotFound: no such audit.
        """
        repeated = self._jobs.of_request(request.request_id)
        if repeated is not None:
            return repeated
        with self._transactions() as tx:
            entry = tx.reports.find(request.reference)
            job = tx.jobs.get(entry.job_id)
            submission = tx.submissions.get(job.submission_id)
            prepared = next((u for u in tx.units.of_job(job.id) if u.spec.key == "prepare" and u.result), None)
        if entry.kind is not JobKind.AUDIT or prepared is None or prepared.result is None:
            raise InvalidInput(f"'{request.reference}' is not an audit", remedy="Name the audit that came before.")
        outputs = prepared.result.outputs
        manifest = submission.manifest.model_copy(update={"repair": _budget(submission.manifest.repair, request)})
        offer = offer_of(manifest.repair.defense)
        file = None if request.weights is None else manifest.repair.weights_file
        problems = _problems(offer, manifest.repair, request, submission.inputs.keys() | outputs.keys(), file)
        if offer.reach is Reach.RETRAIN:
            named = submission.inputs.get(WEIGHTS) if request.weights is None else _digest(file)
            problems += self._problems_of_weights(named, job.team_id)
        if problems:
            raise InvalidInput(problems, remedy=_REMEDY)
        before = read_audit(entry, self._store)
        full, quick = _plans(offer, manifest.repair, before.model_copy(update={"plan": with_own_evaluator(before)}))
        trial = trial_version(quick)
        data = {"fit.npz": outputs["fit.npz"], "heldout.npz": outputs["heldout_used.npz"], "report.json": entry.digest}
        if file is not None:
            data[WEIGHTS] = self._store.put_file(file)
        retrains = offer.reach is Reach.RETRAIN
        published = manifest.repair.published_weights if retrains and file is None else None
        inputs = submission.inputs
        if request.weights is not None or published is not None:
            inputs = {name: digest for name, digest in inputs.items() if name != WEIGHTS}
        payload = RepairJob(
            name=submission.name,
            plan=full,
            quick_plan=quick,
            quick_plan_digest=self._put(quick),
            trial_plan=trial,
            trial_plan_digest=self._put(trial),
            inputs=inputs | {"manifest.json": self._put(manifest), "plan.json": self._put(full)},
            data=data,
            published=None if published is None else _published(published, submission),
        )
        return self._jobs.start(
            JobKind.REPAIR,
            payload.model_dump(mode="json"),
            submission,
            new_submission=False,
            fresh=request.fresh,
            priority=request.priority,
            request_id=request.request_id,
        )

    def _problems_of_weights(self, weights: str | None, team_id: str) -> list[str]:
        """Weights that one of the team's repairs wrote have seen private data, and hide it by a defense.

        Args:
            weights: sha256 of the file; None: none is named.
            team_id: whose repairs.
        """
        if weights is None:
            return []
        with self._transactions() as tx:
            made_by = repair_of(weights, team_id, tx)
        if made_by is None:
            return []
        return [f"these weights are the outcome of repair {made_by[:12]}, trained on private data"]

    def _put(self, contract: Contract) -> str:
        return self._store.put_bytes(canonical_json(contract).encode())


def _problems(
    offer: Offer, budget: RepairBudget, request: RepairRequest, given: Set[str], weights_file: Path | None
) -> list[str]:
    """Why this audit cannot be repaired so.

    Args:
        offer: the defense.
        budget: what the manifest and the request say together.
        request: the request.
        given: names of the files that the audit had.
        weights_file: named by the request.
    """
    retrains, problems = offer.reach is Reach.RETRAIN, []
    if not {"fit.npz", "heldout_used.npz"} <= given:
        problems.append("the audit had no private data to train on")
    if request.weights is not None and not retrains:
        problems.append(f"{offer.name} goes on from the submitted weights: leave out --weights")
    if retrains and budget.weights is None and "public.npz" not in given:
        problems.append("the audit had no public data to pre-train on, and no --weights were given")
    if weights_file is not None and not weights_file.is_file():
        problems.append(f"no weights file at {weights_file}")
    return problems


def _plans(offer: Offer, budget: RepairBudget, report: AuditReport) -> tuple[AuditPlan, AuditPlan]:
    """That of the audit after, and that by which candidates are compared: the first audit's, and who knows the defense.

    Those who read activations attack a model that is cut, and the others one that is not.
    """
    reads_activations = Access.SPLIT in offer.access
    fits = reads_activations == (report.plan.split is not None)
    known = attacks_knowing(offer, budget.params) if fits else ()
    plan = report.plan.model_copy(update={"repairs": (), "withheld": None})  # they tell of the submission
    quick = quick_version(plan)
    if offer.reach is Reach.SERVING:  # only scores or labels are left to attack, and those who know it do so
        quick = quick.model_copy(update={"attacks": known})
    full = with_adaptive(plan, known).model_copy(update={"withheld": withheld(offer, budget, report)})
    return full, with_adaptive(quick, known)


def _digest(file: Path | None) -> str | None:
    return digest_of_file(file) if file is not None and file.is_file() else None


def _published(weights: str, submission: Submission) -> dict[str, JsonValue]:
    target = submission.target
    architecture = submission.manifest.model.architecture or target.architecture
    return {"weights": weights, "architecture": architecture, "channels": target.input.channels}


def _budget(budget: RepairBudget, request: RepairRequest) -> RepairBudget:
    changes: dict[str, Any] = budget.model_dump(mode="json")
    if request.defense not in (None, budget.defense):
        changes |= {"defense": request.defense, "params": {}, "search": RepairBudget().search}
    if request.search is not None:
        changes["search"] = request.search
        changes["params"].pop("boundaries", None)
    changes["params"] = changes["params"] | request.params
    if request.weights is not None:
        changes["weights"] = request.weights
    if request.max_accuracy_loss is not None:
        changes["max_accuracy_loss"] = request.max_accuracy_loss
    try:
        return as_written(RepairBudget, changes)
    except ValidationError as error:
        raise InvalidInput(problems_in(error, RepairBudget, where="repair")) from None
