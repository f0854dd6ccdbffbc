"""The prepare unit: splits, overlap, evaluator, judge, priors with controls and ceilings, and what can be attacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from auditor.attacks.split.catalog import SPLIT_ATTACKS
from auditor.contracts.cards import DataCard, OverlapCheck
from auditor.contracts.jobs import UnitSpec
from auditor.contracts.manifest import Manifest
from auditor.contracts.plan import AuditPlan
from auditor.contracts.prepared import PreparedAudit
from auditor.contracts.report import Finding
from auditor.contracts.submission import TargetCard
from auditor.data.bundles import load_bundle, save_bundle
from auditor.data.cache import ContentCache
from auditor.data.image_set import ImageSet
from auditor.data.overlap import check_overlap, require_disjoint
from auditor.data.splits import stratified_split
from auditor.evaluation.copies import search_copies
from auditor.evaluation.judge import Judge
from auditor.evaluation.misread import misread_classes
from auditor.loading.target_loading import load_target
from auditor.priors.quality import sample_images
from auditor.priors.storage import save_prior
from auditor.service.matching import PIXEL
from auditor.service.stages.means import ReadyPrior, readiness, ready_priors, surroundings, train_aids
from auditor.service.stages.prior_measures import measure_priors
from auditor.service.stages.split import ready_split_attack, record_activations
from auditor.service.stages.witnesses import Witnesses, train_witnesses
from auditor.service.workspace import UnitValue, Workspace
from auditor.targets.base import Target
from auditor.tensors import ImageBatch, RunContext

HELDOUT_FRAC = 0.2
MAX_LISTED = 10
N_PLACEBO = 256
_OVERLAP = "overlap.json"


@dataclass
class Sets:
    """The private images in their two roles, and the public ones; None where not given."""

    fit: ImageSet | None = None
    heldout: ImageSet | None = None
    public: ImageSet | None = None
    cards: list[DataCard] = field(default_factory=list)
    overlap: OverlapCheck = field(
        default_factory=lambda: OverlapCheck(checked=False, note="needs private and public data")
    )


def run(unit: UnitSpec, workspace: Workspace, ctx: RunContext) -> UnitValue:
    """Prepare an audit; see `auditor.service.pipeline` for the files it is given and leaves."""
    plan = AuditPlan.model_validate_json(workspace.input("plan.json").read_text())
    manifest = Manifest.model_validate_json(workspace.input("manifest.json").read_text())
    card = TargetCard.model_validate_json(workspace.input("target.json").read_text())
    target = load_target(workspace.input("model"), card, ctx.device)
    sets = read_sets(workspace, plan)
    witnesses = train_witnesses(workspace, manifest, plan, target, sets.fit, sets.heldout, sets.public, ctx)
    if witnesses.judge is not None:
        sets.overlap = with_copies(workspace, sets, witnesses.judge, target, ctx)
    priors = ready_priors(workspace, plan, target, sets.public, ctx)
    prior_cards, measures = measure_priors(
        workspace, priors, witnesses, sets.fit, sets.heldout, sets.public, target, plan, ctx
    )
    attacks = [
        ready_split_attack(workspace, spec, target, sets.heldout, sets.public, ctx)
        if spec.name in SPLIT_ATTACKS.names
        else train_aids(workspace, readiness(spec, priors, target), spec, priors, target, sets.public, ctx)
        for spec in plan.attacks
    ]
    misread = frozenset[int]()
    if witnesses.evaluator is not None and sets.heldout is not None:
        batch = sets.heldout.batch(target.image_shape)
        misread = misread_classes(target.logits, witnesses.evaluator.logits, batch, ctx)
    classes, unjudged = attacked_classes(sets, target.n_classes, plan, ctx, misread=misread)
    prepared = PreparedAudit(
        classes=classes,
        classes_unjudged=unjudged,
        class_names=class_names(sets, target.n_classes),
        attacks=tuple(attacks),
        data=tuple(sets.cards),
        overlap=sets.overlap,
        evaluator=witnesses.evaluator_card,
        judge=witnesses.judge_card,
        priors=prior_cards,
        findings=tuple(_findings(sets, plan, priors, unjudged, misread)),
    )
    _write(workspace, prepared, sets, witnesses, measures, priors, ctx)
    if card.split is not None and sets.heldout is not None:
        record_activations(workspace, target, sets.heldout, classes, plan, ctx)
    return {
        "classes": list(prepared.classes),
        "attacks": [row.model_dump(mode="json") for row in attacks],
    }


def read_sets(workspace: Workspace, plan: AuditPlan) -> Sets:
    """Load the bundles; without declared held-out images, a stratified fifth of the private ones takes their place."""
    sets = Sets()
    note = "declared: the team says the target never saw them"
    if workspace.has("private.npz"):
        private = load_bundle(workspace.input("private.npz"))
        if workspace.has("heldout.npz"):
            sets.fit, sets.heldout = private, load_bundle(workspace.input("heldout.npz"))
        else:
            sets.fit, sets.heldout = stratified_split(private, HELDOUT_FRAC, plan.seed)
            note = "a stratified fifth of the private images: the target may have been trained on them"
        sets.cards.append(_card("private-fit", sets.fit, ""))
        sets.cards.append(_card("private-heldout", sets.heldout, note))
    if workspace.has("public.npz"):
        sets.public = load_bundle(workspace.input("public.npz"))
        sets.cards.append(_card("public", sets.public, ""))
    if sets.fit is not None and sets.heldout is not None and sets.public is not None:
        for private_set in (sets.fit, sets.heldout):
            require_disjoint(private_set, sets.public)
        found = [check_overlap(private_set, sets.public) for private_set in (sets.fit, sets.heldout)]
        sets.overlap = OverlapCheck(
            checked=True,
            exact_duplicates=sum(check.exact_duplicates for check in found),
            near_duplicates=sum(check.near_duplicates for check in found),
            planted=sum(check.planted for check in found),
            planted_found=sum(check.planted_found for check in found),
            note=" ".join(check.note for check in found if check.note),
        )
    return sets


def with_copies(workspace: Workspace, sets: Sets, judge: Judge, target: Target, ctx: RunContext) -> OverlapCheck:
    """What was found so far, and what the judge's features find; from the cache where searched before."""
    fit, heldout, public, overlap = sets.fit, sets.heldout, sets.public, sets.overlap
    if fit is None or heldout is None or public is None or fit.labels is None or heldout.labels is None:
        return overlap

    def build(folder: Path, _unfinished: Path) -> None:
        batches = [image_set.batch(target.image_shape) for image_set in (fit, heldout)]
        labels = torch.from_numpy(np.concatenate([fit.labels, heldout.labels]))  # type: ignore[list-item]
        private = ImageBatch(torch.cat([batch.images for batch in batches]), labels)
        found = search_copies(judge, private, public.batch(target.image_shape), ctx)
        changes: dict[str, object] = {}
        if found is not None:
            listed = ", ".join(f"{_row(fit, a)}/{b}" for a, b in found.pairs[:MAX_LISTED])
            note = f" Copies by the judge's features (private row/public row): {listed}" if listed else ""
            changes = {
                "copies": len(found.pairs),
                "cropped": found.planted,
                "cropped_found": found.planted_found,
                "note": (overlap.note + note).strip(),
            }
        (folder / _OVERLAP).write_text(overlap.model_copy(update=changes).model_dump_json())

    parts = {
        "judge": judge.digest,
        "data": [fit.digest, heldout.digest, public.digest],
        **surroundings(target, ctx),
    }
    folder, _ = ContentCache(workspace.cache).load_or_build("overlap", parts, build)
    return OverlapCheck.model_validate_json((folder / _OVERLAP).read_text())


def _row(fit: ImageSet, row: int) -> str:
    return f"private[{row}]" if row < len(fit) else f"held-out[{row - len(fit)}]"


def _card(role: str, image_set: ImageSet, note: str) -> DataCard:
    return DataCard(
        role=role,
        name=image_set.name,
        digest=image_set.digest,
        n_images=len(image_set),
        n_classes=image_set.n_classes,
        note=note,
    )


def attacked_classes(
    sets: Sets, n_classes: int, plan: AuditPlan, ctx: RunContext, *, misread: frozenset[int] = frozenset()
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The first classes of a seeded order over all of the target's, and those of them that cannot be judged.

    Only classes with fit and held-out images that are not `misread` are attacked, and others take the place of the
    rest; but a draw from the classes somebody gave good images of says nothing about the others, so the rest counts as
    planned and not done.
    """
    known = set(range(n_classes))
    if sets.fit is not None and sets.heldout is not None:
        known = set(np.unique(sets.fit.labels).tolist()) & set(np.unique(sets.heldout.labels).tolist())  # type: ignore[arg-type]
    order = torch.randperm(n_classes, generator=ctx.rng("classes")).tolist()
    known -= misread
    limit = plan.n_classes or n_classes
    attacked = [label for label in order if label in known][:limit]
    return tuple(sorted(attacked)), tuple(sorted(set(order[:limit]) - known))


def class_names(sets: Sets, n_classes: int) -> tuple[str, ...]:
    """A name for every class of the target."""
    given = sets.fit.class_names if sets.fit is not None else ()
    return tuple(given[label] if label < len(given) and given[label] else str(label) for label in range(n_classes))


def _findings(
    sets: Sets, plan: AuditPlan, priors: Mapping[str, ReadyPrior], unjudged: tuple[int, ...], misread: frozenset[int]
) -> list[Finding]:
    found = []
    if misread:
        found.append(
            Finding(
                code="misread-classes",
                severity="problem",
                message=f"The model recognises no held-out image of classes {_some(sorted(misread))}, though it "
                "recognises others: check the class map. An attack on them would look harmless whatever leaks.",
            )
        )
    if unjudged:
        found.append(
            Finding(
                code="classes-unjudged",
                severity="problem",
                message=f"Of the classes drawn for this audit, {len(unjudged)} could not be judged, since they have no "
                f"private or no held-out images or are misread: {_some(unjudged)}. The others do not speak for them.",
            )
        )
    if sets.fit is None:
        found.append(
            Finding(
                code="no-private-data", severity="problem", message="No private data was given: nothing can be judged."
            )
        )
    if PIXEL in priors and all(spec.name != PIXEL for spec in plan.priors):
        found.append(
            Finding(
                code="no-public-data",
                severity="problem",
                message="No public data and no generator were given: the attacks used a prior that knows nothing.",
            )
        )
    return found


def _some(labels: Sequence[int]) -> str:
    return ", ".join(map(str, labels[:10])) + (", ..." if len(labels) > 10 else "")


def _write(
    workspace: Workspace,
    prepared: PreparedAudit,
    sets: Sets,
    witnesses: Witnesses,
    measures: Mapping[str, np.ndarray],
    priors: Mapping[str, ReadyPrior],
    ctx: RunContext,
) -> None:
    """The files later units read; attack units are given the priors alone."""
    workspace.output("prepared.json").write_text(prepared.model_dump_json())
    if sets.fit is not None:
        save_bundle(sets.fit, workspace.output("fit.npz"))
    if sets.heldout is not None:
        save_bundle(sets.heldout, workspace.output("heldout_used.npz"))
    witnesses.save(workspace)
    for name, ready in priors.items():
        if name != "onnx":
            save_prior(ready.prior, workspace.output(f"prior-{name}.safetensors"))  # type: ignore[arg-type]
    with workspace.output("measures.npz").open("wb") as handle:
        np.savez(handle, **measures)  # type: ignore[arg-type]
    if not priors:  # a cut model under attacks that need none
        return
    first = next(iter(priors.values())).prior
    samples = sample_images(first, N_PLACEBO, ctx.rng("placebo"), ctx)
    with workspace.output("placebo.npz").open("wb") as handle:
        np.savez(handle, images=(samples.cpu() * 255).round().to(torch.uint8).numpy())
