"""Read stored reports and galleries back, and refuse what contradicts itself."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from auditor.contracts.base import digest_of
from auditor.contracts.policy import Policy
from auditor.contracts.problems import problems_in
from auditor.contracts.repair import RepairReport
from auditor.contracts.report import AuditReport, Gallery
from auditor.errors import InvalidInput
from auditor.report.build import content_digest_of, report_id_of

SCHEMA_VERSION = 1
"""Of audit and repair reports; a report of another version is refused, never guessed at."""

MAX_BYTES = 256 << 20

_REMEDY = "Give the JSON report that the audit wrote (`-o json=report.json`), unchanged, or run the audit again."
_CHANGED = "its content was changed after it was made (its digest differs)"

T = TypeVar("T", bound=BaseModel)


def read_audit_report(path: Path) -> AuditReport:
    """The audit report in `path`.

    Raises:
        InvalidInput: missing, unreadable, not JSON, another schema version, not a report, or changed after it was made.
    """
    raw = _load(path)
    _check_version(raw, path)
    if _is_repair(raw):
        after = str(raw.get("after_report_id") or raw["before_report_id"])[:12]
        raise InvalidInput(
            f"{path}: this is the report of a repair; a gate decides on the audit that came after it",
            remedy=f"`auditor report {after} -f json -o after.json` writes that audit.",
        )
    report = _validated(AuditReport, raw, path)
    problems = _contradictions(report, raw)
    if problems:
        raise InvalidInput([f"{path}: {problem}" for problem in problems], remedy=_REMEDY)
    return report.model_copy(update={"gate": None})  # waivers expire and files are edited: the gate decides anew


def policy_of_gate(path: Path) -> Policy | None:
    """The policy by which the gate that wrote the report in `path` decided, where it was not the report's own."""
    return _validated(AuditReport, _load(path), path).decision.policy


def read_any_report(path: Path) -> AuditReport | RepairReport:
    """An audit report or a repair report, told apart by their keys; raises InvalidInput as above."""
    raw = _load(path)
    if _is_repair(raw):
        _check_version(raw, path)
        report = _validated(RepairReport, raw, path)
        if report.content_digest != content_digest_of(report):
            raise InvalidInput(
                f"{path}: {_CHANGED}",
                remedy="Give the JSON that the repair wrote, unchanged; where an older version wrote it, repair again.",
            )
        return report
    return read_audit_report(path)


def read_gallery(path: Path, report: AuditReport) -> Gallery:
    """The pictures of `report`; those of another audit are refused."""
    gallery = _validated(Gallery, _load(path), path)
    if report.gallery_digest is not None:
        digests = {digest_of(gallery), hashlib.sha256(path.read_bytes()).hexdigest()}
        if report.gallery_digest not in digests:
            raise InvalidInput(
                f"{path}: these are not the pictures of report {report.id[:16]}",
                remedy="Give the gallery of the same audit, or leave it out.",
            )
    return gallery


def _is_repair(raw: Any) -> bool:
    return isinstance(raw, dict) and "before_report_id" in raw


def _load(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidInput(f"{path}: larger than {MAX_BYTES} bytes", remedy=_REMEDY)
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: cannot be read ({error})", remedy=_REMEDY) from None
    if not text.strip():
        raise InvalidInput(f"{path}: is empty", remedy=_REMEDY)
    try:
        return json.loads(text, object_pairs_hook=_without_doubles, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path}: not JSON ({error})", remedy=_REMEDY) from None


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key '{next(key for key in keys if keys.count(key) > 1)}' is given twice")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _check_version(raw: Any, path: Path) -> None:
    if not isinstance(raw, dict):
        raise InvalidInput(f"{path}: a report is a JSON object, found a {type(raw).__name__}", remedy=_REMEDY)
    version = raw.get("schema_version")
    if version is None:
        raise InvalidInput(f"{path}: no `schema_version`: this is not a report of the auditor", remedy=_REMEDY)
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise InvalidInput(
            f"{path}: schema version {version!r}; this auditor reads version {SCHEMA_VERSION}",
            remedy="Use the version of the auditor that wrote the report, or run the audit again.",
        )


def _validated(model: type[T], raw: Any, path: Path) -> T:
    try:
        return model.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        raise InvalidInput(problems_in(error, model, where=str(path)), remedy=_REMEDY) from None


def _contradictions(report: AuditReport, raw: dict[str, Any]) -> list[str]:
    """Digests that do not fit what they are digests of: someone edited the file, or it was cut and pasted together."""
    problems = []
    if digest_of(raw["policy"]) != report.verdict.policy_digest:
        problems.append("the policy is not the one the verdict was made with (its digest differs)")
    if digest_of(raw["plan"]) != report.provenance.plan_digest:
        problems.append("the plan is not the one that was run (its digest differs)")
    if report.id != report_id_of(report):
        problems.append("its id does not fit its plan, policy, target, data and code")
    if report.content_digest != content_digest_of(report):
        problems.append(_CHANGED)
    return problems
