"""Reports as JSON: the schema of `contracts/report.py`, indented, and the same text for the same report."""

from __future__ import annotations

from auditor.contracts.repair import RepairReport
from auditor.contracts.report import AuditReport


def render_json(report: AuditReport | RepairReport) -> str:
    """Indented JSON with a final newline; `read.py` reads it back."""
    return report.model_dump_json(indent=2) + "\n"
