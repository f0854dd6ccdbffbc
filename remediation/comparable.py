"""Whether the audits before and after a repair can be compared at all."""

from __future__ import annotations

from auditor.contracts.prepared import PreparedAudit
from auditor.contracts.report import AuditReport
from auditor.errors import InvalidInput
from auditor.evaluation.paired import plan_differences


def require_same_plan(before: AuditReport, after: AuditReport) -> None:
    """Refuse two reports that cannot be compared.

    Raises:
        InvalidInput: another plan or seed, other data, evaluator, judge or priors; all differences listed. The audit
            after may have attacks beside those before, and priors that are made for a target are each model's own.
    """
    pairs = {
        "the plan": ([], plan_differences(before, after)),
        "the seed": (before.provenance.seed, after.provenance.seed),
        "the data": (before.provenance.data_digest, after.provenance.data_digest),
    }
    different = [what for what, (old, new) in pairs.items() if old != new] + _other_measures(before, after)
    if {prior.name for prior in before.priors} != {prior.name for prior in after.priors}:
        different = list(dict.fromkeys((*different, "the priors")))
    if different:
        raise InvalidInput(
            f"the audits before and after the repair cannot be compared: {', '.join(different)} differ",
            remedy="Audit both models with one plan, one seed and the same data.",
        )


def require_same_measures(before: AuditReport, prepared: PreparedAudit) -> None:
    """Refuse, before anything is trained, a repair whose audits could not be compared with the one before.

    Raises:
        InvalidInput: evaluator, judge or priors came out differently here.
    """
    if different := _other_measures(before, prepared):
        raise InvalidInput(
            f"the repair could not be compared with the audit before: {', '.join(different)} came out differently here",
            remedy="Training repeats exactly on the same kind of machine with the same number of threads and the same "
            "version. Audit the model again here (`auditor submit --fresh`), and repair that audit.",
        )


def _other_measures(before: AuditReport, other: AuditReport | PreparedAudit) -> list[str]:
    """What the two were not measured by alike: evaluator, judge, priors that both have and that fit every target."""
    own = {prior.name: prior.digest for prior in before.priors if not prior.target_queries}
    pairs = {
        "the evaluator": (_digest(before.evaluator), _digest(other.evaluator)),
        "the judge": (_digest(before.judge), _digest(other.judge)),
        "the priors": (own, own | {p.name: p.digest for p in other.priors if p.name in own}),
    }
    return [what for what, (old, new) in pairs.items() if old != new]


def _digest(card: object) -> str | None:
    return getattr(card, "digest", None)
