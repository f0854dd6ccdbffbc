"""Why the audit of a repaired model gives no pass: attackers that are known to win and are in no plan."""

from __future__ import annotations

from auditor.contracts.manifest import RepairBudget
from auditor.contracts.plan import Withheld
from auditor.contracts.repair import Offer, Reach
from auditor.contracts.report import AuditReport
from auditor.service.outcomes import joined

FEW_IMAGES, FEW_OF_A_CLASS = 1000, 10
_PLANTED = Withheld(
    reason="whoever knows the planted triggers can take them out of what an attack draws; that attacker is not in this "
    "suite, and it only has to read the file that the training left",
    need="another defense: triggers deceive an attack and remove nothing",
)


def withheld(offer: Offer, budget: RepairBudget, report: AuditReport) -> Withheld | None:
    """What keeps a repair from a pass, whatever its attacks find; None: nothing does.

    Args:
        offer: the defense.
        budget: its parameters, and the search among boundaries.
        report: the audit before.
    """
    reasons = [*_frozen_on_few(offer, budget, report), *([_PLANTED] if offer.name == "trap-mid" else ())]
    if offer.reach is not Reach.RETRAIN and report.plan.withheld is not None:
        reasons.append(report.plan.withheld)  # training goes on from a repaired model
    return joined(reasons)


def _frozen_on_few(offer: Offer, budget: RepairBudget, report: AuditReport) -> list[Withheld]:
    """Public layers held fixed are known not to protect a small private set (card A.2): the tuned ones give it away.

    The method that tunes them does not matter. Its parameters can make it plain training, and freezing was seen to undo
    what bilateral dependency reaches without.
    """
    fit = next((card for card in report.data if card.role == "private-fit"), None)
    n_images, n_classes = (fit.n_images, fit.n_classes or 1) if fit else (0, 1)
    if not _freezes(offer, budget) or (n_images >= FEW_IMAGES and n_images >= FEW_OF_A_CLASS * n_classes):
        return []
    return [
        Withheld(
            reason=f"with so few private images ({n_images} of {n_classes} classes) what is tuned after a frozen front "
            "is known to give them away to attacks that are not in this suite, so no repair that freezes is taken for "
            "safe",
            need=f"a repair that freezes nothing, or more private images ({FEW_IMAGES}, and {FEW_OF_A_CLASS} a class)",
        )
    ]


def _freezes(offer: Offer, budget: RepairBudget) -> bool:
    """Whether any boundary that may be chosen holds something fixed.

    A defense of freezing counts at every boundary: without any it is no defense.
    """
    named = budget.params.get("boundaries")
    if isinstance(named, list) and named:
        return offer.freezes or any(k != 0 for k in named)
    return offer.freezes or budget.search == "sweep" or budget.search.partition(":")[2].strip("0") != ""
