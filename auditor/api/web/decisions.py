"""What people may decide about an audit: waivers, the baseline, a repair."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from auditor.api.references import full_audits, reference_of
from auditor.api.server import Caller
from auditor.api.web.forms import Form
from auditor.contracts.policy import RiskLevel
from auditor.contracts.report import AuditReport
from auditor.contracts.service import NewRemediation, NewWaiver
from auditor.service.accounts import StoredWaiver
from auditor.service.records import StoredReport
from auditor.service.reviews import waiver_of
from remediation.advice import advise

OTHERS = 20
"""So many other audits of the model are offered to compare with, the newest."""
SEARCHES = {"fisher": "what the layer scores and the depth propose", "sweep": "every boundary (long)"}


@dataclass(frozen=True, slots=True)
class Waivable:
    """A finding that can be waived: its name, and what it is."""

    finding: str
    text: str


def shown_decisions(caller: Caller, entry: StoredReport, report: AuditReport) -> dict[str, Any]:
    """What the section of decisions shows."""
    now = caller.services.clock.now()
    with caller.transactions() as tx:
        waivers: list[StoredWaiver] = list(tx.waivers.page(200, model=entry.name))
        baseline = tx.baselines.find(name=entry.name)
        newest = full_audits(tx, OTHERS + 2, model=entry.name)
    others = [row for row in newest if reference_of(row) != reference_of(entry)]
    return {
        "waivable": waivable(report),
        "waivers": [(waiver, _lapsed(waiver, now)) for waiver in waivers],
        "baseline": baseline,
        "is_baseline": baseline is not None and baseline.digest == entry.digest,
        "others": others[:OTHERS],
        "more_others": len(others) > OTHERS,
        "advice": advise(report),
        "searches": SEARCHES,
    }


def _lapsed(waiver: StoredWaiver, now: datetime) -> str:
    """Why it lets nothing through; empty while it may."""
    if waiver.expires_at <= now:
        return "expired"
    return "" if waiver_of(waiver) is not None else "not valid"


def waivable(report: AuditReport) -> tuple[Waivable, ...]:
    """What the attacks proved, by attack and by rule of the policy."""
    proved = [row for row in report.verdict.attacks if row.level is not None and row.level.rank > RiskLevel.LOW.rank]
    by_attack = tuple(Waivable(f"attack:{row.key}", f"{row.level}: {row.reason}") for row in proved)
    rules = dict.fromkeys(row.rule for row in proved)
    return (*by_attack, *(Waivable(f"rule:{rule}", "whatever this rule of the policy raises") for rule in rules))


def waiver_asked(form: Form, model: str) -> NewWaiver:
    """Raises pydantic's ValidationError, with everything that is wrong."""
    given = {"model": model} | {name: form.text(name) for name in ("finding", "reason")}
    more = {"days": form.number("days"), "up_to": form.text("up_to") or RiskLevel.HIGH}
    return NewWaiver.model_validate(given | more)


def repair_asked(form: Form, job_id: str) -> NewRemediation:
    """Raises pydantic's ValidationError, with everything that is wrong."""
    points = form.number("points")
    loss = points / 100 if isinstance(points, float | int) else points
    given = {"audit": job_id, "defense": form.text("defense") or None, "search": form.text("search") or None}
    return NewRemediation.model_validate(given | {"max_accuracy_loss": loss})
