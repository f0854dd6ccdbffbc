"""Evaluator and judge of an audit: trained or taken from the cache, validated on real images, put on their cards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file

from auditor.contracts.cards import ClassifierCard, JudgeCard
from auditor.contracts.manifest import Manifest
from auditor.contracts.plan import AuditPlan
from auditor.contracts.scores import NotMeasured
from auditor.data.cache import ContentCache
from auditor.data.image_set import ImageSet
from auditor.evaluation.base import Reference
from auditor.evaluation.cards import evaluator_card, judge_card
from auditor.evaluation.evaluator import (
    TrainedEvaluator,
    choose_architecture,
    require_independent,
    train_evaluator,
)
from auditor.evaluation.evaluator_file import load_evaluator, save_evaluator
from auditor.evaluation.fingerprints import shape_fingerprint
from auditor.evaluation.intervals import Bootstrap
from auditor.evaluation.judge import Judge, JudgeIndex, load_judge, save_judge, supplied_judge
from auditor.evaluation.judge_training import train_judge
from auditor.evaluation.judgement import build_reference
from auditor.loading.embedder import load_embedder
from auditor.service.stages.means import surroundings
from auditor.service.workspace import Workspace
from auditor.targets.base import Target
from auditor.tensors import ImageBatch, RunContext

NO_PRIVATE = "no private data was given"
NO_PUBLIC = "no public data and no judge were given"
_SEEN = "seen.safetensors"


@dataclass(frozen=True)
class Witnesses:
    """Who identifies the reconstructions.

    Attributes:
        evaluator: classifier of the private classes, or None.
        judge: embedder that never saw them, or None.
        reference: both with real private references.
        evaluator_card: its card, or why there is none.
        judge_card: its card, or why there is none.
    """

    evaluator: TrainedEvaluator | None
    judge: Judge | None
    reference: Reference | None
    evaluator_card: ClassifierCard | NotMeasured
    judge_card: JudgeCard | NotMeasured

    def save(self, workspace: Workspace) -> None:
        """Write what `finish` needs to judge; a supplied judge is already among the inputs."""
        if self.evaluator is not None:
            save_evaluator(self.evaluator, workspace.output("evaluator.safetensors"))
        if self.judge is not None and self.judge.source == "trained":
            save_judge(self.judge, workspace.output("judge.safetensors"))


def load_reference(
    workspace: Workspace, manifest: Manifest, fit: ImageSet | None, target: Target, ctx: RunContext
) -> Reference:
    """The reference again, from the files `prepare` left."""
    evaluator = judge = None
    if workspace.has("evaluator.safetensors"):
        evaluator = load_evaluator(workspace.input("evaluator.safetensors"), ctx.device)
    if workspace.has("judge.safetensors"):
        judge = load_judge(workspace.input("judge.safetensors"), ctx.device)
    elif manifest.data.judge is not None:
        judge = _supplied(workspace, manifest, ctx)
    if fit is None:
        return Reference(None, None, reasons={"evaluator": NO_PRIVATE, "judge": NO_PRIVATE})
    return _reference(workspace, evaluator, judge, fit, target, ctx)


def _reference(
    workspace: Workspace,
    evaluator: TrainedEvaluator | None,
    judge: Judge | None,
    fit: ImageSet,
    target: Target,
    ctx: RunContext,
) -> Reference:
    """The private images as evaluator and judge see them; from the cache where both saw them before."""
    batch = fit.batch(target.image_shape)

    def build(folder: Path, _unfinished: Path) -> None:
        built = build_reference(evaluator, judge, batch, target.n_classes, ctx)
        tensors = {} if built.private_features is None else {"features": built.private_features}
        if built.judge is not None:
            tensors |= {"centroids": built.judge.centroids, "present": built.judge.present}
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / _SEEN)

    parts = {
        "evaluator": evaluator and evaluator.digest,
        "judge": judge and judge.digest,
        "data": fit.digest,
        "n_classes": target.n_classes,
        **surroundings(target, ctx),
    }
    folder, _ = ContentCache(workspace.cache).load_or_build("reference", parts, build)
    seen = load_file(folder / _SEEN)
    index = None if judge is None else JudgeIndex(judge, seen["centroids"], seen["present"])
    reasons = {"judge": NO_PUBLIC, "evaluator": NO_PRIVATE}
    return Reference(evaluator, index, seen.get("features"), batch.labels, reasons)


def _supplied(workspace: Workspace, manifest: Manifest, ctx: RunContext) -> Judge:
    spec = manifest.data.judge
    if spec is None:
        raise ValueError("the manifest names no judge")
    embedder = load_embedder(workspace.input("judge.onnx"), spec, ctx.device)
    return supplied_judge(embedder, embedder.digest)


def train_witnesses(
    workspace: Workspace,
    manifest: Manifest,
    plan: AuditPlan,
    target: Target,
    fit: ImageSet | None,
    heldout: ImageSet | None,
    public: ImageSet | None,
    ctx: RunContext,
) -> Witnesses:
    """Evaluator on the private fit images, judge on the public ones; both validated on held-out private images."""
    if fit is None or heldout is None:
        missing = NotMeasured(metric="evaluator", reason=NO_PRIVATE)
        return Witnesses(None, None, None, missing, NotMeasured(metric="judge", reason=NO_PRIVATE))
    bootstrap = Bootstrap(plan.n_bootstrap, plan.seed)
    fit_batch, heldout_batch = fit.batch(target.image_shape), heldout.batch(target.image_shape)
    evaluator, evaluator_cached = _evaluator(workspace, plan, target, fit, fit_batch, ctx)
    judge, judge_cached = _judge(workspace, manifest, plan, target, public, ctx)
    reference = _reference(workspace, evaluator, judge, fit, target, ctx)
    card = evaluator_card(
        evaluator,
        target.card,
        heldout_batch,
        ctx,
        bootstrap,
        target_logits=target.logits,
        split="private-fit",
        target_shapes=_shapes(target),
        cached=evaluator_cached,
    )
    return Witnesses(
        evaluator=evaluator,
        judge=judge,
        reference=reference,
        evaluator_card=card,
        judge_card=NotMeasured(metric="judge", reason=NO_PUBLIC)
        if reference.judge is None
        else judge_card(reference.judge, heldout_batch, ctx, bootstrap, cached=judge_cached),
    )


def _shapes(target: Target) -> str | None:
    return None if target.module is None else shape_fingerprint(target.module.parameters())


def _evaluator(
    workspace: Workspace, plan: AuditPlan, target: Target, fit: ImageSet, batch: ImageBatch, ctx: RunContext
) -> tuple[TrainedEvaluator, bool]:
    shapes = _shapes(target)
    architecture = choose_architecture(plan.evaluator, target.card, target_shapes=shapes)

    def build(folder: Path, _unfinished: Path) -> None:
        trained = train_evaluator(
            target.card,
            batch,
            plan.evaluator.model_copy(update={"architecture": architecture}),
            ctx,
            training_data_digest=fit.digest,
            target_shapes=shapes,
        )
        save_evaluator(trained, folder / "evaluator.safetensors")

    parts = {
        "architecture": architecture,
        "epochs": plan.evaluator.epochs,
        "data": fit.digest,
        "n_classes": target.n_classes,
        **surroundings(target, ctx),
    }
    folder, cached = ContentCache(workspace.cache).load_or_build("evaluator", parts, build)
    evaluator = load_evaluator(folder / "evaluator.safetensors", ctx.device)
    require_independent(evaluator, target.card, target_shapes=shapes)
    return evaluator, cached


def _judge(
    workspace: Workspace, manifest: Manifest, plan: AuditPlan, target: Target, public: ImageSet | None, ctx: RunContext
) -> tuple[Judge | None, bool]:
    if manifest.data.judge is not None:
        return _supplied(workspace, manifest, ctx), False
    if public is None:
        return None, False

    def build(folder: Path, _unfinished: Path) -> None:
        trained = train_judge(public.batch(target.image_shape), plan.judge, ctx, training_data_digest=public.digest)
        save_judge(trained, folder / "judge.safetensors")

    parts = {
        "judge": plan.judge.model_dump(mode="json"),
        "data": public.digest,
        **surroundings(target, ctx),
    }
    folder, cached = ContentCache(workspace.cache).load_or_build("judge", parts, build)
    return load_judge(folder / "judge.safetensors", ctx.device), cached
