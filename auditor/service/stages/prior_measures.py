"""What every prior can draw, by this audit's evaluator and judge: controls, ceilings and the kernel distance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from auditor.contracts.cards import PriorCard
from auditor.contracts.plan import AuditPlan
from auditor.contracts.scores import NotMeasured, Score
from auditor.data.cache import ContentCache
from auditor.data.image_set import ImageSet
from auditor.evaluation.base import Reference
from auditor.evaluation.ceilings import PriorMeasure, measure_prior
from auditor.evaluation.intervals import Bootstrap
from auditor.evaluation.judge import Judge
from auditor.evaluation.realism import kernel_distance
from auditor.priors.base import Prior
from auditor.priors.quality import sample_images
from auditor.service.stages.means import ReadyPrior, projections, surroundings
from auditor.service.stages.witnesses import NO_PRIVATE, NO_PUBLIC, Witnesses
from auditor.service.workspace import Workspace
from auditor.targets.base import Target
from auditor.tensors import RunContext

_MEASURE, _KID = "measure.npz", "kid.json"
_SCORE: TypeAdapter[Score] = TypeAdapter(Score)


def measure_priors(
    workspace: Workspace,
    priors: Mapping[str, ReadyPrior],
    witnesses: Witnesses,
    fit: ImageSet | None,
    heldout: ImageSet | None,
    public: ImageSet | None,
    target: Target,
    plan: AuditPlan,
    ctx: RunContext,
) -> tuple[tuple[PriorCard, ...], dict[str, np.ndarray]]:
    """A card for every prior, and the per-class arrays (`<prior>/<array>`) that `finish` bootstraps."""
    bootstrap = Bootstrap(plan.n_bootstrap, plan.seed)
    cards: list[PriorCard] = []
    arrays: dict[str, np.ndarray] = {}
    for name, ready in priors.items():
        measure = None
        if heldout is not None and witnesses.reference is not None:
            measure = _measure(workspace, ready.prior, witnesses.reference, fit, heldout, target, plan, ctx)
        if measure is not None:
            arrays |= {f"{name}/{key}": value for key, value in measure.arrays().items()}
        kid = _kid(workspace, ready.prior, witnesses.judge, public, target, plan, ctx)
        cards.append(_prior_card(name, ready, measure, bootstrap, witnesses).model_copy(update={"kid": kid}))
    return tuple(cards), arrays


def _measure(
    workspace: Workspace,
    prior: Prior,
    reference: Reference,
    fit: ImageSet | None,
    heldout: ImageSet,
    target: Target,
    plan: AuditPlan,
    ctx: RunContext,
) -> PriorMeasure | None:
    """Control and ceilings of the prior; from the cache where the same evaluator and judge met it before."""
    if reference.evaluator is None or reference.judge is None or fit is None:
        return None

    def build(folder: Path, _unfinished: Path) -> None:
        measure = measure_prior(
            prior,
            reference,
            heldout.batch(target.image_shape),
            ctx,
            n_control_samples=plan.n_control_samples,
            latents=projections(workspace, prior, heldout, target, ctx),
        )
        np.savez(folder / _MEASURE, **measure.arrays())  # type: ignore[arg-type]

    parts = {
        "prior": prior.digest,
        "evaluator": reference.evaluator.digest,
        "judge": reference.judge.judge.digest,
        "data": [fit.digest, heldout.digest],
        "samples": plan.n_control_samples,
        **surroundings(target, ctx),
    }
    folder, _ = ContentCache(workspace.cache).load_or_build("prior-measure", parts, build)
    with np.load(folder / _MEASURE) as arrays:
        return PriorMeasure.of_arrays(dict(arrays))


def _kid(
    workspace: Workspace,
    prior: Prior,
    judge: Judge | None,
    public: ImageSet | None,
    target: Target,
    plan: AuditPlan,
    ctx: RunContext,
) -> Score:
    """Kernel inception distance of the prior's samples; from the cache where this judge saw them before."""
    if judge is None or public is None:
        return NotMeasured(metric="kid", reason=NO_PUBLIC)

    def build(folder: Path, _unfinished: Path) -> None:
        rng = ctx.rng("kid", "samples", prior.digest)
        samples = sample_images(prior, plan.n_control_samples, rng, ctx)
        score = kernel_distance(samples, public.batch(target.image_shape).images, judge, ctx)
        (folder / _KID).write_text(score.model_dump_json())

    parts = {
        "prior": prior.digest,
        "judge": judge.digest,
        "data": public.digest,
        "samples": plan.n_control_samples,
        **surroundings(target, ctx),
    }
    folder, _ = ContentCache(workspace.cache).load_or_build("kid", parts, build)
    return _SCORE.validate_json((folder / _KID).read_text())


def _prior_card(
    name: str, ready: ReadyPrior, measure: PriorMeasure | None, bootstrap: Bootstrap, witnesses: Witnesses
) -> PriorCard:
    fields = ("class_coverage", "ceiling_evaluator", "ceiling_judge", "ceiling_both", "control_both")
    if measure is None:
        reason = NO_PRIVATE if witnesses.evaluator is None else NO_PUBLIC
        scores: dict[str, Score] = {metric: NotMeasured(metric=metric, reason=reason) for metric in fields}
    else:
        scores = measure.card_scores(bootstrap)
    return PriorCard(
        name=name,
        digest=ready.prior.digest,
        source=ready.source,
        latent_dim=ready.prior.latent_dim,
        traits=tuple(sorted(ready.prior.traits)),
        target_queries=ready.target_queries,
        training_data_digest=ready.training_data_digest,
        config=ready.config,
        quality=ready.quality,
        cached=ready.cached,
        **scores,
    )
