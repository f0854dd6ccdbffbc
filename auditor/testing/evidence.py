"""The parts of an audit report with values that allow a verdict, for tests. No torch needed."""

from __future__ import annotations

from typing import Any, Literal

from auditor.contracts.access import Access
from auditor.contracts.base import digest_of
from auditor.contracts.cards import ClassifierCard, DataCard, JudgeCard, PriorCard
from auditor.contracts.fisher import FisherReport, GapReading, Trajectory, UnitScore
from auditor.contracts.manifest import InputSpec
from auditor.contracts.outcome import AttackOutcome, ClassRow, Coverage, OutcomeStatus
from auditor.contracts.plan import AttackSpec, AuditPlan, PriorSpec
from auditor.contracts.policy import Verdict
from auditor.contracts.scores import Measured, Score
from auditor.contracts.submission import ModelFormat, Output, ParityCheck, TargetCard

LIFTS: dict[Verdict, tuple[float, float, float]] = {
    Verdict.PASS: (0.00, -0.02, 0.03),
    Verdict.FAIL: (0.38, 0.31, 0.46),
    Verdict.INCONCLUSIVE: (0.15, 0.00, 0.40),
}
"""Value, lower and upper bound of the lift R that give each verdict under the built-in policy (method card E.8)."""


def measured(metric: str, value: float, low: float | None = None, high: float | None = None, n: int = 300) -> Measured:
    """A measured score; without bounds the interval is ±0.02."""
    return Measured(
        metric=metric,
        value=value,
        n=n,
        low=value - 0.02 if low is None else low,
        high=value + 0.02 if high is None else high,
        unit="ratio" if metric == "lift" else "frac",
    )


def sample_target(**changes: object) -> TargetCard:
    """A white-box ONNX target of 158 classes that passed its parity check."""
    card = TargetCard(
        name="faces-cnn",
        format=ModelFormat.ONNX,
        digest=digest_of("model file"),
        weights_digest=digest_of("weights"),
        architecture="onnx:" + digest_of("graph")[:16],
        n_classes=158,
        input=InputSpec(channels=3, height=32, width=32),
        output=Output.LOGITS,
        n_parameters=1_240_000,
        access=(Access.WHITE_BOX, Access.SCORE, Access.LABEL),
        parity=ParityCheck(batch_sizes=(1, 3, 8), max_abs_error=2.1e-6, tolerance=1e-4, passed=True),
        inferred={"n_classes": "158, from the shape of output 'logits'"},
    )
    return TargetCard.model_validate(card.model_dump() | changes)


def sample_evaluator(accuracy: float = 0.75, target_accuracy: float = 0.74) -> ClassifierCard:
    """An independent evaluator that may count."""
    return ClassifierCard(
        architecture="small-resnet",
        digest=digest_of("evaluator"),
        n_parameters=2_700_000,
        training_data_digest=digest_of("private-fit"),
        split="private-fit: four fifths of each class, seed 0",
        epochs=30,
        seed=1,
        heldout_accuracy=measured("heldout_accuracy", accuracy, n=700),
        heldout_top5=measured("heldout_top5", min(accuracy + 0.16, 1.0), n=700),
        target_heldout_accuracy=measured("target_heldout_accuracy", target_accuracy, n=700),
        independent=True,
    )


def sample_judge(accuracy: float = 0.62) -> JudgeCard:
    """A judge trained on public data that may count."""
    return JudgeCard(
        source="trained",
        objective="metric-learning",
        architecture="small-resnet, 128-dimensional embedding",
        digest=digest_of("judge"),
        training_data_digest=digest_of("public"),
        heldout_top1=measured("heldout_top1", accuracy, n=700),
        heldout_top5=measured("heldout_top5", min(accuracy + 0.2, 1.0), n=700),
    )


def sample_prior(ceiling: float = 0.72, name: str = "vae") -> PriorCard:
    """A prior whose ceiling (both-agree) is `ceiling` ± 0.02."""
    return PriorCard(
        name=name,
        digest=digest_of(name),
        source="trained",
        latent_dim=192,
        training_data_digest=digest_of("public"),
        config={"steps": 1800, "kl_weight": 0.5},
        quality={"pixel_spread_ratio": 0.91, "reconstruction_mse": 0.0074},
        class_coverage=measured("class_coverage", 0.82, n=2000),
        ceiling_evaluator=measured("ceiling_evaluator", min(ceiling + 0.12, 1.0)),
        ceiling_judge=measured("ceiling_judge", min(ceiling + 0.05, 1.0)),
        ceiling_both=measured("ceiling_both", ceiling),
        control_both=measured("control_both", 0.01, 0.0, 0.02, n=2000),
    )


def sample_outcome(
    key: str = "ppa",
    *,
    attack: str | None = None,
    access: Access = Access.WHITE_BOX,
    lift: tuple[float, float, float] = LIFTS[Verdict.PASS],
    n_classes: int = 60,
    samples: int = 5,
    ceiling: float = 0.72,
    control: float = 0.01,
    adaptive: bool = False,
    is_control: bool = False,
    prior: str = "vae",
    w95_high: float = 0.12,
    named: tuple[int, ...] = (),
) -> AttackOutcome:
    """A completed attack whose rates are those that its lift implies."""
    n, headroom = n_classes * samples, ceiling - control
    both = [max(control + headroom * bound, 0.0) for bound in lift]
    evaluator = min(both[0] + 0.25, 1.0)
    judge = min(both[0] + 0.05, 1.0)
    scores: tuple[Score, ...] = (
        measured("evaluator_top1", evaluator, max(evaluator - 0.05, 0), min(evaluator + 0.05, 1), n),
        measured("evaluator_top5", min(evaluator + 0.15, 1.0), n=n),
        measured("judge_top1", judge, max(judge - 0.03, 0), min(judge + 0.03, 1), n),
        measured("judge_top5", min(judge + 0.15, 1.0), n=n),
        measured("both_agree", both[0], both[1], both[2], n),
        measured("implied_fpr", 0.2, n=n),
        measured("knn_distance", 31.0, 29.5, 32.4, n),
        measured("control_evaluator", control + 0.01, n=2000),
        measured("control_judge", control + 0.005, n=2000),
        measured("control_both", control, max(control - 0.01, 0), control + 0.01, 2000),
        measured("ceiling_both", ceiling, n=n),
        measured("lift", *lift, n),
    )
    rows = tuple(
        ClassRow(
            label=label,
            name=f"person-{label:03d}",
            n=samples,
            evaluator_top1=evaluator,
            evaluator_top5=min(evaluator + 0.15, 1.0),
            judge_top1=judge,
            judge_top5=min(judge + 0.15, 1.0),
            both=min(both[0] * (0.5 + label / max(n_classes - 1, 1)), 1.0),
            control_both=control,
            ceiling_both=ceiling,
            knn=30.0 + label % 7,
        )
        for label in range(n_classes)
    )
    return AttackOutcome(
        key=key,
        attack=attack or key,
        access=access,
        paper="Struppek et al., ICML 2022, arXiv 2201.12179",
        params={"steps": 120},
        prior=prior,
        adaptive=adaptive,
        is_control=is_control,
        status=OutcomeStatus.COMPLETED,
        coverage=Coverage(classes_done=n_classes, classes_planned=n_classes, samples_done=n, samples_planned=n),
        forward_queries=n * 170,
        backward_queries=n * 120 if access is Access.WHITE_BOX else 0,
        start_confidence=0.11,
        end_confidence=0.93,
        moved=True,
        scores=scores,
        per_class=rows,
        w95_high=w95_high,
        named_classes=named,
    )


def sample_control(lift: tuple[float, float, float] = (0.03, 0.01, 0.05), **fields: Any) -> AttackOutcome:
    """The audit's own best-of-prior control of the prior `vae`."""
    return sample_outcome(
        "control/vae", attack="best-of-prior", access=Access.SCORE, lift=lift, is_control=True, **fields
    )


def sample_attacks(
    lift: tuple[float, float, float] = LIFTS[Verdict.PASS], *, n_classes: int = 60, ceiling: float = 0.72
) -> tuple[AttackOutcome, ...]:
    """PPA plain and averaged (adaptive), MIRROR at score level, and the best-of-prior control."""
    weaker = (lift[0] * 0.8, lift[1] * 0.8, lift[2] * 0.8) if lift[0] > 0 else lift
    sizes = {"n_classes": n_classes, "ceiling": ceiling}
    return (
        sample_outcome("ppa", lift=lift, **sizes),  # type: ignore[arg-type]
        sample_outcome("ppa-averaged", attack="ppa", lift=lift, adaptive=True, **sizes),  # type: ignore[arg-type]
        sample_outcome("mirror-b", access=Access.SCORE, lift=weaker, **sizes),  # type: ignore[arg-type]
        sample_control(**sizes),  # type: ignore[arg-type]
    )


def sample_plan(n_classes: int = 60) -> AuditPlan:
    """The plan behind `sample_attacks`."""
    specs = (
        AttackSpec(name="ppa"),
        AttackSpec(name="ppa", label="ppa-averaged", params={"averaged": 3}),
        AttackSpec(name="mirror-b"),
    )
    return AuditPlan(name="quick", attacks=specs, priors=(PriorSpec(name="vae"),), n_classes=n_classes)


def sample_data() -> tuple[DataCard, ...]:
    """Private (fit and held out) and public image sets."""
    heldout = "Taken from the private images, which the target may have seen; success rates are optimistic."
    return (
        DataCard(role="private-fit", name="private", digest=digest_of("private-fit"), n_images=2820, n_classes=158),
        DataCard(
            role="private-heldout",
            name="private",
            digest=digest_of("heldout"),
            n_images=700,
            n_classes=158,
            note=heldout,
        ),
        DataCard(role="public", name="public", digest=digest_of("public"), n_images=7600, n_classes=None),
    )


def sample_fisher(verdict: Literal["informative", "uninformative"] = "informative") -> FisherReport:
    """Fisher layer scores of a six-unit network."""
    names = ("conv1", "conv2", "conv3", "conv4", "fc1", "fc2")
    cls, inv = (0.05, 0.08, 0.12, 0.20, 0.25, 0.30), (0.24, 0.22, 0.18, 0.15, 0.12, 0.09)
    units = tuple(
        UnitScore(
            name=name,
            parameters=(f"{name}.weight", f"{name}.bias"),
            n_parameters=1000 * 4**index,
            depth_frac=index / (len(names) - 1),
            classification_share={"relative": cls[index], "sum": cls[index], "density": cls[index]},
            inversion_share={"relative": inv[index], "sum": inv[index], "density": inv[index]},
            placebo_share={"relative": 1 / 6, "sum": 1 / 6, "density": 1 / 6},
            empirical_share={"relative": cls[index], "sum": cls[index], "density": cls[index]},
            inversion_true_share={"relative": inv[index], "sum": inv[index], "density": inv[index]},
            classification_interval=(cls[index] - 0.02, cls[index] + 0.03),
            inversion_interval=(inv[index] - 0.03, inv[index] + 0.02),
            placebo_interval=(0.15, 0.19),
            classification_trimmed=cls[index],
            inversion_trimmed=inv[index],
            contrast=(2.5 - index) * 0.6,
            contrast_low=(2.5 - index) * 0.6 - 0.35,
            contrast_high=(2.5 - index) * 0.6 + 0.35,
        )
        for index, name in enumerate(names)
    )
    informative = verdict == "informative"
    fracs = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0)
    trajectories = tuple(
        Trajectory(
            attack=attack,
            prior=prior,
            prior_free=prior == "pixels",
            fracs=fracs,
            weights=(1 / 6,) * 6,
            per_step_share=(inv,) * 6,
            n_classes=20,
            n_images=60,
        )
        for attack, prior in (("ppa", "vae"), ("pixel-tv", "pixels"))
    )
    low, high = 0.28 if informative else -0.1, 0.47
    asked: tuple[tuple[Literal["target-label", "true"], Literal["true", "empirical", "placebo"], str], ...] = (
        ("target-label", "true", ""),
        ("true", "true", ""),
        ("target-label", "empirical", ""),
        ("target-label", "true", "pixel-tv"),
        ("target-label", "placebo", ""),
    )
    readings = tuple(
        GapReading(
            inversion=inversion,
            against=against,
            aggregator="relative",
            attack=attack,
            gap=0.39,
            gap_low=low,
            gap_high=high,
            boundary=3,
            informative=informative,
        )
        for inversion, against, attack in asked
    )
    return FisherReport(
        units=units,
        classification_definition="sampled:2",
        inversion_true_definition="sampled:2",
        trajectories=trajectories,
        trajectory=fracs,
        trajectory_attack="ppa, pixel-tv",
        gap=0.39,
        gap_low=low,
        gap_high=high,
        gap_boundary=3,
        weighted_boundaries={"0.5": 4, "1": 3, "2": 2},
        readings=readings,
        boundary=3 if informative else None,
        candidates=(2, 3, 4),
        verdict=verdict,
        n_classes=20,
        n_images=100,
    )
