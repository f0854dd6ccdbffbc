"""Candidates of a repair by their accuracy and the upper bounds of their lifts."""

from auditor.contracts.base import digest_of
from auditor.contracts.manifest import RepairBudget
from auditor.contracts.repair import FreezePlan, NormMode, RepairStart, TrainedCandidate
from auditor.contracts.scores import NotMeasured
from auditor.testing.evidence import measured, sample_outcome
from auditor.testing.reports import sample_report
from remediation.compare import audited_candidate

BUDGET = RepairBudget(max_accuracy_loss=0.03)
BEFORE = measured("heldout_accuracy", 0.75)


def trained(boundary, accuracy=0.74):
    plan = FreezePlan(
        boundary=boundary, n_units=7, units=(), parameters=(), norm_mode=NormMode.FROZEN, tuned_parameters=1,
        total_parameters=2, digest_before="a", digest_after="a",
    )  # fmt: skip
    return TrainedCandidate(
        freeze=plan, proposed_by="quantile", best_epoch=3, epochs=10, validation_accuracy=measured("v", accuracy),
        heldout_accuracy=measured("heldout_accuracy", accuracy), model_digest=digest_of(boundary),
        model_format="safetensors", parity_max_abs_error=None,
    )  # fmt: skip


def quick(*lifts, **options):
    """A report whose attacks have these upper bounds of the lift."""
    attacks = tuple(sample_outcome(f"a{i}", lift=(high - 0.1, high - 0.2, high)) for i, high in enumerate(lifts))
    return sample_report(attacks=attacks, **options)


def candidate(boundary, report, accuracy=0.74):
    return audited_candidate(trained(boundary, accuracy), report, BEFORE, BUDGET)


def start():
    return RepairStart(
        defense="tl-dmi", paper="p", pretraining="public", weights_digest="w", network="small-cnn", n_units=7,
        boundaries={2: "fisher", 4: "quantile", 5: "quantile"}, accuracy_before=BEFORE,
    )  # fmt: skip


def unmeasured(report, metrics):
    attacks = tuple(
        outcome.model_copy(
            update={
                "scores": tuple(
                    NotMeasured(metric=s.metric, reason="r") if s.metric in metrics else s for s in outcome.scores
                )
            }
        )
        for outcome in report.attacks
    )
    return report.model_copy(update={"attacks": attacks})
