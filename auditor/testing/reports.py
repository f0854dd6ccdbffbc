"""Complete, valid reports with a chosen verdict, for tests of everything that reads reports. No torch needed."""

from __future__ import annotations

import io

from auditor.contracts.base import digest_of
from auditor.contracts.cards import ClassifierCard, JudgeCard, OverlapCheck, PriorCard
from auditor.contracts.fisher import FisherReport
from auditor.contracts.manifest import RepairBudget
from auditor.contracts.outcome import AttackOutcome
from auditor.contracts.plan import AuditPlan
from auditor.contracts.policy import Policy, Verdict
from auditor.contracts.repair import (
    FreezePlan,
    HeuristicCheck,
    HeuristicRow,
    NormMode,
    PairedDifference,
    RepairCandidate,
    RepairReport,
    Utility,
)
from auditor.contracts.report import AuditReport, Gallery, GalleryRow
from auditor.contracts.scores import NotMeasured
from auditor.contracts.submission import TargetCard
from auditor.report.build import build_report, sealed
from auditor.risk.decide import decide
from auditor.testing.evidence import (
    LIFTS,
    measured,
    sample_attacks,
    sample_control,
    sample_data,
    sample_evaluator,
    sample_fisher,
    sample_judge,
    sample_outcome,
    sample_plan,
    sample_prior,
    sample_target,
)

__all__ = [
    "LIFTS",
    "measured",
    "sample_attacks",
    "sample_control",
    "sample_data",
    "sample_evaluator",
    "sample_fisher",
    "sample_gallery",
    "sample_judge",
    "sample_outcome",
    "sample_plan",
    "sample_prior",
    "sample_repair_report",
    "sample_report",
    "sample_target",
]


def sample_report(
    verdict: Verdict = Verdict.FAIL,
    *,
    lift: tuple[float, float, float] | None = None,
    n_classes: int = 60,
    ceiling: float = 0.72,
    policy: Policy | None = None,
    target: TargetCard | None = None,
    attacks: tuple[AttackOutcome, ...] | None = None,
    evaluator: ClassifierCard | NotMeasured | None = None,
    judge: JudgeCard | NotMeasured | None = None,
    priors: tuple[PriorCard, ...] | None = None,
    overlap: OverlapCheck | None = None,
    plan: AuditPlan | None = None,
    fisher: FisherReport | NotMeasured | None = None,
    weights_published: bool = False,
    gallery_digest: str | None = None,
) -> AuditReport:
    """A complete report that the gate really decides; every argument left out has a value that allows a verdict.

    `verdict` picks the lift from `LIFTS`, `lift` gives (value, low, high) of R instead. Under another policy or with
    other evidence the gate may say otherwise: the verdict in the report is always what `decide` made of it.
    """
    evidence = {
        "attacks": sample_attacks(lift or LIFTS[verdict], n_classes=n_classes, ceiling=ceiling)
        if attacks is None
        else attacks,
        "evaluator": evaluator or sample_evaluator(),
        "judge": judge or sample_judge(),
        "priors": (sample_prior(ceiling),) if priors is None else priors,
        "overlap": overlap or OverlapCheck(checked=True),
        "plan": plan or sample_plan(n_classes),
        "policy": policy or Policy(),
        "target": target or sample_target(),
        "weights_published": weights_published,
    }
    return build_report(
        **evidence,  # type: ignore[arg-type]
        verdict=decide(**evidence),  # type: ignore[arg-type]
        data=sample_data(),
        fisher=fisher or sample_fisher(),
        code_digest=digest_of("code"),
        versions={"auditor": "0.1.0", "python": "3.11", "torch": "2.14.1"},
        device="cpu",
        started_at="2026-01-01T00:00:00Z",
        seconds={"check": 2.0, "prepare": 240.0, "attack": 310.0, "fisher": 25.0, "finish": 12.0},
        peak_memory_bytes=2_300_000_000,
        gallery_digest=gallery_digest,
    )


def sample_repair_report(
    *, chosen: int | None = 2, gain: tuple[float, float, float] = (0.18, 0.09, 0.27)
) -> RepairReport:
    """Three boundaries tried on the model of `sample_report(Verdict.FAIL)`.

    `chosen` is the boundary that was kept (None: none stayed within the budget), `gain` the lift before minus after.
    """
    before = LIFTS[Verdict.FAIL]
    candidates = tuple(
        _candidate(boundary, accuracy, lift, within=boundary < 5)
        for boundary, accuracy, lift in ((2, 0.735, 0.20), (4, 0.72, 0.14), (5, 0.61, 0.05))
    )
    kept = next((item for item in candidates if item.freeze.boundary == chosen), None)
    differences = (
        PairedDifference(
            attack="ppa",
            metric="lift",
            before=measured("lift", *before),
            after=measured("lift", before[0] - gain[0], before[0] - gain[2], before[0] - gain[1]),
            difference=measured("lift", *gain),
        ),
        PairedDifference(
            attack="ppa",
            metric="both_agree",
            before=measured("both_agree", 0.28),
            after=measured("both_agree", 0.15),
            difference=measured("both_agree_difference", 0.13, 0.06, 0.19),
        ),
    )
    report = RepairReport(
        id=digest_of("repair"),
        defense="tl-dmi",
        paper="Ho et al., CVPR 2024, arXiv 2405.05588",
        before_report_id=digest_of("before"),
        before_quick_report_id=digest_of("before quick"),
        after_report_id=digest_of("after") if kept else None,
        budget=RepairBudget(),
        accuracy_before=measured("heldout_accuracy", 0.74, n=700),
        accuracy_after=kept.heldout_accuracy
        if kept
        else NotMeasured(metric="heldout_accuracy", reason="no candidate stayed within the budget"),
        utility_before=_utility(0.74, 0.031),
        utility_after=_utility(0.71, 0.052) if kept else None,
        pretraining="trained on the public data, 40 epochs",
        candidates=candidates,
        front=(2, 4, 5),
        chosen=chosen,
        unkept="" if kept else "No boundary stayed within the accuracy budget.",
        quick_lift_before={"ppa": measured("lift", *before)},
        heuristic=_heuristic(candidates),
        differences=differences if kept else (),
        verdict_before=Verdict.FAIL,
        verdict_after=Verdict.INCONCLUSIVE if kept else None,
        model_digest=digest_of("repaired model") if kept else None,
        model_format="onnx",
        parity_max_abs_error=3e-6 if kept else None,
    )
    return sealed(report)


def _utility(accuracy: float, calibration_error: float) -> Utility:
    """Figures that go with an accuracy."""
    robust = {
        size: measured(f"robust_accuracy_{size}", accuracy - loss) for size, loss in (("0.0005", 0.01), ("0.001", 0.03))
    }
    return Utility(calibration_error=calibration_error, robust_accuracy=robust, latency_ms=1.4, size_bytes=1_200_000)


def _heuristic(candidates: tuple[RepairCandidate, ...]) -> HeuristicCheck:
    rows = tuple(
        HeuristicRow(
            boundary=item.freeze.boundary,
            inversion_mass=0.2 * item.freeze.boundary,
            classification_mass=0.1 * item.freeze.boundary,
            lift=item.lift["ppa"],
            within_budget=item.within_budget,
        )
        for item in candidates
    )
    return HeuristicCheck(
        proposed=2,
        best=4,
        regret=measured("lift", 0.06, 0.0, 0.15, n=2),
        correlation=measured("lift", 1.0, 0.5, 1.0, n=3),
        rows=rows,
        notes=("The frozen inversion mass grows with the boundary.",),
    )


def _candidate(boundary: int, accuracy: float, lift: float, *, within: bool) -> RepairCandidate:
    units = tuple(f"conv{index}" for index in range(1, boundary + 1))
    return RepairCandidate(
        freeze=FreezePlan(
            boundary=boundary,
            n_units=6,
            units=units,
            parameters=tuple(f"{unit}.weight" for unit in units),
            norm_mode=NormMode.FROZEN,
            tuned_parameters=1_240_000 - 150_000 * boundary,
            total_parameters=1_240_000,
            digest_before=digest_of(["frozen", boundary]),
            digest_after=digest_of(["frozen", boundary]),
        ),
        proposed_by="fisher" if boundary == 4 else "quantile",
        best_epoch=17,
        validation_accuracy=measured("validation_accuracy", accuracy + 0.01, n=500),
        heldout_accuracy=measured("heldout_accuracy", accuracy, n=700),
        within_budget=within,
        report_id=digest_of(["quick", boundary]),
        lift={"ppa": measured("lift", lift, lift - 0.08, lift + 0.08)},
        both_agree={"ppa": measured("both_agree", 0.01 + 0.71 * lift)},
        evaluator_top1={"ppa": measured("evaluator_top1", 0.3 + 0.5 * lift)},
    )


def sample_gallery(n_rows: int = 4, per_row: int = 5, size: int = 32) -> Gallery:
    """Pictures of plain gradients, one row per class of `sample_outcome`."""
    return Gallery(
        rows=tuple(
            GalleryRow(
                label=label,
                name=f"person-{label:03d}",
                attack="ppa",
                reconstructions_png=tuple(_gradient_png(label * 7 + index, size) for index in range(per_row)),
                nearest_public_png=_gradient_png(label * 13 + 3, size),
                accepted=tuple((label + index) % 2 == 0 for index in range(per_row)),
            )
            for label in range(n_rows)
        )
    )


def _gradient_png(seed: int, size: int) -> bytes:
    from PIL import Image

    picture = Image.new("RGB", (size, size))
    hue = (37 * seed) % 256
    picture.putdata([(hue, 255 * x // size, 255 * y // size) for y in range(size) for x in range(size)])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
