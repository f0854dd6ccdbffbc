"""The audit report as one self-contained HTML file."""

from __future__ import annotations

from typing import Any

from auditor.contracts.outcome import AttackOutcome
from auditor.contracts.policy import Thresholds, Verdict
from auditor.contracts.report import AuditReport, Gallery
from auditor.contracts.scores import NotMeasured, Score
from auditor.report.fisher_view import definitions_text, fisher_tables, followed_text, gap_text
from auditor.report.gate_view import decision_lines, gate_headline, gate_meaning, gate_sign, reasons_of
from auditor.report.page import drawn, picture_source, render_page
from auditor.report.pictures import contrast_chart, fisher_chart, lift_chart, rate_chart
from auditor.report.view import (
    FIDELITY_COLUMNS,
    RATE_COLUMNS,
    attack_rows,
    fidelity_rows,
    leading_attack,
    totals,
    worst_first,
)
from auditor.report.wording import (
    GLOSSARY,
    NOT_LEGAL_ADVICE,
    PASS_CAVEAT,
    REFERENCES,
    VERDICT_WORD,
    level_meaning,
    meaning,
)


def render_html(report: AuditReport, gallery: Gallery | None = None) -> str:
    """The page. Pictures are embedded only when a gallery is given, and blurred until the reader asks."""
    return render_page("report.html.j2", **audit_context(report, gallery))


def audit_context(report: AuditReport, gallery: Gallery | None = None) -> dict[str, Any]:
    """What the template shows, for a file of its own and for the page on a server."""
    rows, leading = attack_rows(report), leading_attack(report)
    evidence = report.decision.evidence
    fisher = None if isinstance(report.fisher, NotMeasured) else report.fisher
    return dict(  # noqa: C408 - as long as it is, keywords read better
        report=report,
        banner="excused" if gate_sign(report) == "!" else report.decision.verdict,
        headline=gate_headline(report),
        gate_meaning=gate_meaning(report),
        decision_lines=decision_lines(report),
        meaning=meaning(report),
        verdict_word=VERDICT_WORD[report.decision.verdict],
        verdict_sign=gate_sign(report),
        level_meaning=level_meaning(report),
        pass_caveat=PASS_CAVEAT if evidence is Verdict.PASS else "",
        reasons=reasons_of(report),
        leading_key=leading.key if leading else "",
        leading_lift=_score_of(leading, "lift"),
        leading_both=_score_of(leading, "both_agree"),
        totals=totals(report),
        attacks=rows,
        rate_columns=RATE_COLUMNS,
        fidelity_columns=FIDELITY_COLUMNS,
        fidelity_rows=fidelity_rows(report),
        lift_chart=drawn(lift_chart(rows, report.policy.thresholds)),
        rate_chart=drawn(rate_chart(rows)),
        class_attack=leading,
        class_rows=worst_first(leading.per_class) if leading else [],
        fisher_chart=drawn(fisher_chart(fisher)) if fisher else "",
        contrast_chart=drawn(contrast_chart(fisher)) if fisher else "",
        fisher_followed=followed_text(fisher) if fisher else "",
        fisher_gap=gap_text(fisher.gap, fisher.gap_low, fisher.gap_high) if fisher else "",
        fisher_tables=fisher_tables(fisher) if fisher else (),
        fisher_definitions=definitions_text(fisher) if fisher else "",
        gallery=_gallery(gallery),
        gallery_absent=_why_no_pictures(report),
        thresholds=[(name, getattr(report.policy.thresholds, name)) for name in Thresholds.model_fields],
        references=REFERENCES,
        not_legal_advice=NOT_LEGAL_ADVICE,
        glossary=GLOSSARY,
    )


def _score_of(outcome: AttackOutcome | None, metric: str) -> Score:
    return outcome.score(metric) if outcome else NotMeasured(metric=metric, reason="no attack was judged")


def _why_no_pictures(report: AuditReport) -> str:
    if report.gallery_digest:
        return (
            "The pictures are kept apart from the report, since they may show recognisable people "
            f"(artifact {report.gallery_digest[:16]}). They were not included in this file."
        )
    return "This audit stored no pictures."


def _gallery(gallery: Gallery | None) -> dict[str, Any] | None:
    if gallery is None or not gallery.rows:
        return None
    rows = []
    for row in gallery.rows:
        accepted = (*row.accepted, *[False] * len(row.reconstructions_png))
        pictures = [
            {"source": picture_source(png), "accepted": accepted[index]}
            for index, png in enumerate(row.reconstructions_png)
        ]
        rows.append(
            {
                "name": row.name,
                "label": row.label,
                "attack": row.attack,
                "accepted": row.accepted,
                "pictures": [picture for picture in pictures if picture["source"]],
                "originals": [source for png in row.originals_png if (source := picture_source(png))],
                "nearest": picture_source(row.nearest_public_png),
            }
        )
    return {"rows": rows}
