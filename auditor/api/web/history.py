"""A model over its versions: what each audit found, as rows and as a chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from auditor.contracts.report import AuditReport
from auditor.contracts.scores import NotMeasured, Score
from auditor.report.charts import Mark, Row, mark_chart
from auditor.report.pictures import lift_axis
from auditor.report.view import attack_rows
from auditor.report.wording import VERDICT_SIGN, headline, score_text
from auditor.service.records import StoredReport


@dataclass(frozen=True, slots=True)
class Version:
    """One audit of the model."""

    entry: StoredReport
    report: AuditReport
    attack: str
    """Its strongest graded attack."""
    lift: Score

    @property
    def headline(self) -> str:
        """`FAIL · high`."""
        return headline(self.report.verdict)


def version_of(entry: StoredReport, report: AuditReport) -> Version:
    """The audit with the highest lower bound of its lift."""
    graded = [row.outcome for row in attack_rows(report) if not row.outcome.is_control]
    if not graded:
        return Version(entry, report, "", NotMeasured(metric="lift", reason="no attack was judged"))
    return Version(entry, report, graded[0].key, graded[0].score("lift"))


def history_chart(versions: Sequence[Version]) -> str:
    """Lift of every version with its interval, oldest first, on the newest policy's levels; the verdict by its sign."""
    axis = lift_axis([version.lift for version in versions], versions[0].report.policy.thresholds)
    rows = [
        Row(
            f"{VERDICT_SIGN[version.report.verdict.verdict]} {version.entry.created_at:%Y-%m-%d}",
            score_text(version.lift),
            ()
            if isinstance(version.lift, NotMeasured)
            else (Mark("main", version.lift.value, version.lift.low, version.lift.high),),
        )
        for version in reversed(versions)
    ]
    description = "; ".join(f"{row.label}: {row.text}" for row in rows)
    return mark_chart(rows, axis, title="Lift R of each version, strongest attack", description=description)
