"""The finish unit: judge every picture, score every attack, decide, and write report and gallery."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from auditor.attacks.split.catalog import SPLIT_ATTACKS, catalog_of
from auditor.contracts.base import code_digest
from auditor.contracts.fisher import FisherReport
from auditor.contracts.jobs import UnitSpec
from auditor.contracts.manifest import Manifest
from auditor.contracts.outcome import AttackOutcome, Coverage, OutcomeStatus
from auditor.contracts.plan import AttackSpec, AuditPlan
from auditor.contracts.policy import Policy
from auditor.contracts.prepared import AttackCost, PreparedAudit
from auditor.contracts.report import AuditReport, Finding
from auditor.contracts.scores import NotMeasured
from auditor.contracts.submission import TargetCard
from auditor.data.bundles import load_bundle
from auditor.data.image_set import ImageSet
from auditor.evaluation.base import Judgement, Reference
from auditor.evaluation.ceilings import ClassRates, PriorMeasure
from auditor.evaluation.intervals import Bootstrap
from auditor.evaluation.judgement import judge_images
from auditor.evaluation.rates import has_moved, summarise_attack
from auditor.loading.target_loading import load_target
from auditor.report.build import build_report
from auditor.risk.decide import decide
from auditor.service.outcomes import origins
from auditor.service.plans import omissions
from auditor.service.stages.attack import StoredReconstructions, load_reconstructions
from auditor.service.stages.gallery import GalleryEntry, build_gallery
from auditor.service.stages.split_judging import Truth, load_truth, split_evidence
from auditor.service.stages.witnesses import load_reference
from auditor.service.vetted import unvetted
from auditor.service.workspace import UnitValue, Workspace
from auditor.tensors import RunContext


@dataclass(frozen=True)
class Scene:
    """What judging needs, loaded once."""

    plan: AuditPlan
    policy: Policy
    prepared: PreparedAudit
    reference: Reference
    measures: Mapping[str, PriorMeasure]
    bootstrap: Bootstrap
    truth: Truth | None = None


def run(unit: UnitSpec, workspace: Workspace, ctx: RunContext) -> UnitValue:
    """Write `report.json` and `gallery.json`; `unit.params` says which file belongs to which attack and what failed."""
    started = datetime.now(UTC)
    manifest = Manifest.model_validate_json(workspace.input("manifest.json").read_text())
    card = TargetCard.model_validate_json(workspace.input("target.json").read_text())
    scene = _load_scene(workspace, manifest, card, ctx)
    rows = _rows(unit.params["attacks"])
    outcomes, findings, entries = [], list(scene.prepared.findings), []
    for done, row in enumerate(rows):
        outcome, found, entry = judge_attack(row, scene, workspace, ctx)
        outcomes.append(outcome)
        findings += found
        entries += [] if entry is None else [entry]
        ctx.tick("judge", done + 1, len(rows))
    before = _before(workspace)
    gallery = build_gallery(entries, _public(workspace), card, scene.prepared.class_names, before)
    gallery_text = gallery.model_dump_json()
    report = _assemble(
        unit,
        workspace,
        scene,
        manifest,
        card,
        outcomes,
        findings,
        started=started,
        gallery_digest=hashlib.sha256(gallery_text.encode()).hexdigest() if gallery.rows else None,
        ctx=ctx,
    )
    workspace.output("report.json").write_text(report.model_dump_json(indent=1))
    if gallery.rows:
        workspace.output("gallery.json").write_text(gallery_text)
    return {"report_id": report.id, "verdict": str(report.verdict.verdict)}


def _rows(value: Any) -> list[dict[str, Any]]:
    return list(value)


def _load_scene(workspace: Workspace, manifest: Manifest, card: TargetCard, ctx: RunContext) -> Scene:
    plan = AuditPlan.model_validate_json(workspace.input("plan.json").read_text())
    target = load_target(workspace.input("model"), card, ctx.device)
    fit = load_bundle(workspace.input("fit.npz")) if workspace.has("fit.npz") else None
    with np.load(workspace.input("measures.npz"), allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    priors = {name.partition("/")[0] for name in arrays}
    prepared = PreparedAudit.model_validate_json(workspace.input("prepared.json").read_text())
    return Scene(
        plan=plan,
        policy=Policy.model_validate_json(workspace.input("policy.json").read_text()),
        prepared=prepared,
        reference=load_reference(workspace, manifest, fit, target, ctx),
        measures={
            prior: PriorMeasure.of_arrays(
                {n.partition("/")[2]: a for n, a in arrays.items() if n.startswith(f"{prior}/")}
            )
            for prior in priors
        },
        bootstrap=Bootstrap(plan.n_bootstrap, plan.seed),
        truth=load_truth(workspace, card, plan, prepared.classes, ctx),
    )


def _before(workspace: Workspace) -> AuditReport | None:
    """The audit of the submission, where this is one of a repair."""
    if not workspace.has("before.json"):
        return None
    return AuditReport.model_validate_json(workspace.input("before.json").read_bytes())


def _public(workspace: Workspace) -> ImageSet | None:
    return load_bundle(workspace.input("public.npz")) if workspace.has("public.npz") else None


def judge_attack(
    row: Mapping[str, Any], scene: Scene, workspace: Workspace, ctx: RunContext
) -> tuple[AttackOutcome, tuple[Finding, ...], GalleryEntry | None]:
    """One attack's outcome: judged where it ran, failed or skipped with its reason where it did not."""
    spec = AttackSpec.model_validate(row["attack"])
    chunks = [chunk for chunk in row["chunks"] if chunk.get("recon")]
    errors = [str(chunk["error"]) for chunk in row["chunks"] if chunk["error"]]
    stored = [load_reconstructions(workspace.input(str(chunk["recon"]))) for chunk in chunks]
    costs = [AttackCost.model_validate_json(workspace.input(str(chunk["outcome"])).read_text()) for chunk in chunks]
    if not all(cost.complete for cost in costs):
        errors.append("the query budget ran out before the end: what was found counts, what was not found does not")
    outcome = _blank_outcome(row, spec, scene, stored, costs)
    if not row["runnable"]:
        status = OutcomeStatus.INAPPLICABLE if row.get("inapplicable") else OutcomeStatus.SKIPPED
        return outcome.model_copy(update={"status": status, "reason": str(row["reason"])}), (), None
    if not stored:
        return (
            outcome.model_copy(update={"status": OutcomeStatus.FAILED, "reason": "; ".join(errors) or "left nothing"}),
            (),
            None,
        )
    merged = _merge(stored)
    judgement = judge_images(merged.images, merged.labels, scene.reference, ctx)
    beside = None
    if spec.name in SPLIT_ATTACKS.names and scene.truth is not None:
        beside = split_evidence(merged, scene.truth, scene.reference, scene.bootstrap, ctx)
        control, ceiling = beside.control, beside.ceiling
    else:
        control, ceiling = _baselines(str(row["prior"]), scene)
    summary = summarise_attack(
        judgement,
        control,
        ceiling,
        scene.bootstrap,
        key=spec.key,
        class_names=scene.prepared.class_names,
        named_rate=scene.policy.thresholds.named_rate,
    )
    outcome = outcome.model_copy(
        update={
            "status": OutcomeStatus.FAILED if errors else OutcomeStatus.COMPLETED,
            "reason": "; ".join(errors),
            "start_confidence": float(merged.start_confidence.mean()),
            "end_confidence": float(merged.end_confidence.mean()),
            "moved": has_moved(merged.start_confidence, merged.end_confidence, merged.labels, scene.bootstrap),
            "scores": (*summary.scores, *(beside.scores if beside else ())),
            "per_class": summary.per_class,
            "w95_high": summary.w95_high,
            "named_classes": summary.named_classes,
        }
    )
    if outcome.is_control:
        return outcome, summary.findings, None
    behind = beside.behind if beside else None
    entry = GalleryEntry(spec.key, merged.images, merged.labels, accepted(judgement), behind)
    return outcome, summary.findings, entry


def accepted(judgement: Judgement) -> np.ndarray:
    """(N,) whether both accept; False where one of them is missing."""
    if not judgement.has("evaluator_top1", "judge_top1"):
        return np.zeros(len(judgement), dtype=bool)
    return judgement.both


def _baselines(prior: str, scene: Scene) -> tuple[ClassRates | NotMeasured, ClassRates | NotMeasured]:
    measure = scene.measures.get(prior)
    if measure is None:
        missing = NotMeasured(
            metric="baseline", reason=f"prior '{prior}' was not measured: evaluator or judge is missing"
        )
        return missing, missing
    return measure.control, measure.ceiling


def _blank_outcome(
    row: Mapping[str, Any],
    spec: AttackSpec,
    scene: Scene,
    stored: list[StoredReconstructions],
    costs: list[AttackCost],
) -> AttackOutcome:
    attack = catalog_of(spec.name).build(spec.name, spec.params)
    n_classes = len(scene.prepared.classes) + len(scene.prepared.classes_unjudged)
    per_class = scene.plan.samples_per_class
    return AttackOutcome(
        key=spec.key,
        attack=spec.name,
        access=attack.access,
        paper=attack.paper,
        params=attack.config.model_dump(mode="json"),
        prior=str(row["prior"]),
        adaptive=attack.adaptive,
        unvetted=unvetted(spec),
        is_control=bool(row["is_control"]),
        status=OutcomeStatus.COMPLETED,
        coverage=Coverage(
            classes_done=sum(len(np.unique(item.labels)) for item in stored),
            classes_planned=n_classes,
            samples_done=sum(len(item.labels) for item in stored),
            samples_planned=n_classes * per_class,
        ),
        forward_queries=sum(cost.forward_queries for cost in costs),
        backward_queries=sum(cost.backward_queries for cost in costs),
        pool_queries=sum(cost.pool_queries for cost in costs),
        shared_queries=_shared_queries(row, scene),
        notes=tuple(dict.fromkeys(note for cost in costs for note in cost.notes)),
    )


def _shared_queries(row: Mapping[str, Any], scene: Scene) -> int:
    """What training the attack's prior and helper networks asked of the target, once for all classes."""
    by_prior = sum(card.target_queries for card in scene.prepared.priors if card.name == row["prior"])
    return int(row.get("aid_queries") or 0) + by_prior


def _merge(stored: list[StoredReconstructions]) -> StoredReconstructions:
    def join(name: str) -> np.ndarray:
        return np.concatenate([getattr(item, name) for item in stored])

    names = ("images", "labels", "sample", "start_confidence", "end_confidence")
    empty = np.zeros(0)
    return StoredReconstructions(
        **{name: join(name) for name in names}, snapshot_fracs=empty, snapshot_labels=empty, snapshots=empty
    )


def _assemble(
    unit: UnitSpec,
    workspace: Workspace,
    scene: Scene,
    manifest: Manifest,
    card: TargetCard,
    outcomes: list[AttackOutcome],
    findings: list[Finding],
    *,
    started: datetime,
    gallery_digest: str | None,
    ctx: RunContext,
) -> AuditReport:
    prepared, plan, policy = scene.prepared, scene.plan, scene.policy
    fisher: FisherReport | NotMeasured = NotMeasured(
        metric="fisher", reason=str(unit.params.get("fisher_error") or "no layer scores were made")
    )
    if workspace.has("fisher.json"):
        fisher = FisherReport.model_validate_json(workspace.input("fisher.json").read_text())
    verdict = decide(
        attacks=outcomes,
        evaluator=prepared.evaluator,
        judge=prepared.judge,
        priors=prepared.priors,
        overlap=prepared.overlap,
        plan=plan,
        policy=policy,
        weights_published=manifest.model.weights_published,
        target=card,
    )
    seconds, peak = _costs(unit)
    return build_report(
        target=card,
        plan=plan,
        policy=policy,
        data=prepared.data,
        overlap=prepared.overlap,
        evaluator=prepared.evaluator,
        judge=prepared.judge,
        priors=prepared.priors,
        attacks=outcomes,
        fisher=fisher,
        verdict=verdict,
        weights_published=manifest.model.weights_published,
        code_digest=code_digest(),
        versions={"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        device=str(ctx.device),
        started_at=started.isoformat(timespec="seconds"),
        seconds=seconds,
        peak_memory_bytes=peak,
        gallery_digest=gallery_digest,
        findings=[*findings, *origins(plan)],
        limitations=(*prepared.limitations, *departures(plan), *omissions(plan)),
    )


def departures(plan: AuditPlan) -> tuple[str, ...]:
    """Parameters of attacks that are not the defaults, one line for each: a reader must see a weakened search."""
    lines = []
    for spec in plan.attacks:
        catalog = catalog_of(spec.name)
        default = catalog.configure(spec.name, {}).model_dump(mode="json")
        used = catalog.configure(spec.name, spec.params).model_dump(mode="json")
        changed = [f"{name} {used[name]} (default {default[name]})" for name in used if used[name] != default[name]]
        if changed:
            lines.append(f"{spec.key} did not run with its default parameters: {', '.join(changed)}.")
    return tuple(lines)


def _costs(unit: UnitSpec) -> tuple[dict[str, float], int | None]:
    """Wall seconds by stage and the highest memory of any unit, as the parent measured them."""
    stages: Mapping[str, Any] = dict(unit.params.get("stages") or {})  # type: ignore[arg-type]
    costs = dict(stages)
    for row in _rows(unit.params["attacks"]):
        for number, chunk in enumerate(row["chunks"]):
            if chunk.get("seconds") is not None:
                costs[f"attack/{row['key']}/{number}"] = chunk
    peaks = [int(cost["peak_memory_bytes"]) for cost in costs.values() if cost.get("peak_memory_bytes")]
    return {name: round(float(cost["seconds"]), 3) for name, cost in costs.items()}, max(peaks, default=None)
