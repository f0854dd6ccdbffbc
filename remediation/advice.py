"""Which defenses fit an audited model: from the report and the offers alone, without torch."""

from __future__ import annotations

from dataclasses import dataclass

from auditor.contracts.access import Access
from auditor.contracts.repair import Offer, Reach
from auditor.contracts.report import AuditReport
from auditor.contracts.submission import ModelFormat
from auditor.risk.evidence import effective_access
from remediation.offers import OFFERS

_EFFORT = {Reach.SERVING: 0, Reach.FINE_TUNE: 1, Reach.RETRAIN: 2}


@dataclass(frozen=True)
class Advice:
    """A defense, and what stands against it here.

    Attributes:
        offer: the defense.
        against: reasons why it cannot be used or would not help; empty: it can be tried.
    """

    offer: Offer
    against: tuple[str, ...]


def advise(report: AuditReport) -> tuple[Advice, ...]:
    """Every defense of the catalog: what can be tried first, of that what takes least."""
    found = [Advice(offer, tuple(_against(offer, report))) for offer in OFFERS.values()]
    return tuple(sorted(found, key=lambda row: (bool(row.against), _EFFORT[row.offer.reach])))


def _against(offer: Offer, report: AuditReport) -> list[str]:
    roles = {card.role for card in report.data}
    is_cut = report.plan.split is not None
    deployed = Access.SPLIT if is_cut else effective_access(report.policy, weights_published=report.weights_published)
    reasons = []
    if deployed not in offer.access:
        reasons.append(f"does not hinder an attacker who has {deployed} access, as this deployment gives")
    if offer.reach is Reach.SERVING:
        return reasons
    if "private-fit" not in roles:
        reasons.append("needs private images to train on, and the audit had none")
    if offer.reach is Reach.RETRAIN and "public" not in roles:
        reasons.append("needs public images to pre-train on (or `--weights`), and the audit had none")
    target = report.target
    is_graph = target.architecture.startswith("onnx:")
    if offer.families and not is_graph and not target.architecture.startswith(offer.families):
        reasons.append(f"is for {', '.join(offer.families)}, and this is {target.architecture}")
    if is_graph and target.format is ModelFormat.ONNX and Access.WHITE_BOX not in target.access:
        reasons.append("the graph cannot be differentiated: name `model.architecture` in the manifest")
    return reasons
