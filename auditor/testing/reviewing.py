"""The fast handlers, with pictures in every audit and repairs that end: all that a reviewer meets, without torch."""

from __future__ import annotations

import json
from typing import Any

from auditor.contracts.access import Access
from auditor.contracts.base import canonical_json, digest_of, digest_of_file
from auditor.contracts.jobs import AttackReadiness, UnitSpec
from auditor.contracts.manifest import Manifest
from auditor.contracts.plan import AuditPlan
from auditor.contracts.policy import Verdict
from auditor.contracts.repair import RepairStart
from auditor.contracts.report import AuditReport
from auditor.service.session import Handler, Session
from auditor.service.workspace import Workspace
from auditor.testing.evidence import measured
from auditor.testing.handlers import fast_handlers
from auditor.testing.reports import sample_gallery, sample_plan, sample_repair_report, sample_report, sample_target

CHOSEN = 2
"""The one boundary that repairs try."""


def reviewed_handlers() -> dict[str, Handler]:
    """The table of `fast_handlers`, where audits leave pictures, and those after a repair find less."""
    return fast_handlers() | {
        "prepare": _prepare,
        "finish": _finish,
        "repair-pretrain": _pretrain,
        "repair-match": _match,
        "repair-train": _train,
        "repair-choose": _choose,
        "repair-compare": _compare,
    }


def _name(workspace: Workspace) -> str:
    return Manifest.model_validate_json(workspace.input("manifest.json").read_bytes()).model.name


def _prepare(unit: UnitSpec, workspace: Workspace, session: Session) -> dict[str, Any]:
    """As the fast one, for whatever attacks the plan has: a repair's plan is that of the report before."""
    value = fast_handlers()["prepare"](unit, workspace, session)
    plan = AuditPlan.model_validate_json(workspace.input("plan.json").read_bytes())
    rows = [AttackReadiness(key=spec.key, runnable=True, prior="vae", access=Access.SCORE) for spec in plan.attacks]
    return value | {"attacks": [row.model_dump(mode="json") for row in rows]}


def _finish(unit: UnitSpec, workspace: Workspace, session: Session) -> dict[str, Any]:
    target = sample_target(name=_name(workspace), digest=digest_of_file(workspace.input("model")))
    gallery = canonical_json(sample_gallery()).encode()
    quick = unit.key.startswith(("before/", "k"))
    report = sample_report(
        Verdict.INCONCLUSIVE if unit.key.startswith(("k", "after/")) else Verdict.FAIL,
        target=target,
        plan=sample_plan(60).model_copy(update={"name": "candidates"}) if quick else None,
        gallery_digest=digest_of(gallery),
    )
    workspace.output("gallery.json").write_bytes(gallery)
    workspace.output("report.json").write_text(report.model_dump_json())
    return {"attacks": unit.params["attacks"]}


def _pretrain(unit: UnitSpec, workspace: Workspace, session: Session) -> dict[str, Any]:
    start = RepairStart(
        defense="tl-dmi",
        paper="Ho et al., CVPR 2024, arXiv 2405.05588",
        pretraining="trained on the public data",
        weights_digest=digest_of("weights"),
        network="small-cnn",
        n_units=6,
        boundaries={CHOSEN: "fisher"},
        accuracy_before=measured("heldout_accuracy", 0.74),
        trials=False,
    )
    value: dict[str, Any] = json.loads(start.model_dump_json())
    return value


def _match(unit: UnitSpec, workspace: Workspace, session: Session) -> dict[str, Any]:
    return {}


def _train(unit: UnitSpec, workspace: Workspace, session: Session) -> dict[str, Any]:
    workspace.output("model").write_bytes(workspace.input("model").read_bytes() + b", repaired")
    target = sample_target(name=_name(workspace), digest=digest_of_file(workspace.output("model")))
    workspace.output("target.json").write_text(target.model_dump_json())
    workspace.output("candidate.json").write_text("{}")
    session.tick("train", 1, 1)
    return {"model_weights_digest": target.weights_digest}


def _choose(unit: UnitSpec, workspace: Workspace, session: Session) -> dict[str, Any]:
    return {"chosen": CHOSEN}


def _compare(unit: UnitSpec, workspace: Workspace, session: Session) -> dict[str, Any]:
    before, after = (
        AuditReport.model_validate_json(workspace.input(name).read_bytes()) for name in ("report.json", "after.json")
    )
    report = sample_repair_report(chosen=CHOSEN).model_copy(
        update={
            "id": digest_of([before.id, after.id]),
            "before_report_id": before.id,
            "after_report_id": after.id,
            "verdict_before": before.verdict.verdict,
            "verdict_after": after.verdict.verdict,
            "model_digest": None,
        }
    )
    workspace.output("repair.json").write_text(report.model_dump_json())
    return {}
