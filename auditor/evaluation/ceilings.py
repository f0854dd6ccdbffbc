"""What chance looks like and what a prior could at best draw: controls and ceilings.

Control (card D.9, B1): the share of unguided prior samples that are called class y. Ceiling (B4): real held-out private
images projected into the prior without any target, and judged like reconstructions. Both per class, so that the lift
can resample classes jointly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from auditor.contracts.scores import NotMeasured, Score
from auditor.evaluation.base import Floats, Reference
from auditor.evaluation.intervals import Bootstrap, Interval, mean_interval, rate_interval
from auditor.evaluation.judgement import choices, judge_images
from auditor.evaluation.scoring import measured
from auditor.priors.base import Prior
from auditor.priors.quality import decode_all, sample_images
from auditor.proportions import wilson
from auditor.tensors import ImageBatch, RunContext


@dataclass(frozen=True)
class ClassRates:
    """Acceptance rates of every class of the target under one kind of picture.

    Attributes:
        evaluator: (K,) share of the class's pictures the evaluator accepts; NaN where there is no picture.
        judge: (K,) the same by the judge; NaN also where the class has no reference.
        both: (K,) by both.
        n: (K,) pictures behind each rate.
    """

    evaluator: Floats
    judge: Floats
    both: Floats
    n: NDArray[np.int64]

    def score(self, metric: str, part: str, bootstrap: Bootstrap, classes: NDArray[np.int64] | None = None) -> Score:
        """Mean over classes that have a picture, with its class-bootstrap interval.

        Args:
            metric: name of the score.
            part: `evaluator`, `judge` or `both`.
            bootstrap: resamples and seed.
            classes: restrict to these; default all.
        """
        rates, n = getattr(self, part), self.n
        if classes is not None:
            rates, n = rates[classes], n[classes]
        known = np.isfinite(rates)
        if not bool(known.any()):
            return NotMeasured(metric=metric, reason="no class has an image to measure it with")
        interval = rate_interval(rates[known], n_resamples=bootstrap.n_resamples, generator=bootstrap.rng(metric, part))
        return measured(metric, interval, int(n[known].sum()), higher_is_riskier=False)

    def arrays(self, prefix: str) -> dict[str, NDArray[np.generic]]:
        """Its arrays by name, for an npz file."""
        return {f"{prefix}_{name}": getattr(self, name) for name in ("evaluator", "judge", "both", "n")}

    @classmethod
    def of_arrays(cls, arrays: dict[str, NDArray[np.generic]], prefix: str) -> ClassRates:
        """The inverse of `arrays`."""
        evaluator, judge, both = (
            np.asarray(arrays[f"{prefix}_{name}"], dtype=np.float64) for name in ("evaluator", "judge", "both")
        )
        return cls(evaluator, judge, both, np.asarray(arrays[f"{prefix}_n"], dtype=np.int64))


@dataclass(frozen=True)
class PriorMeasure:
    """A prior under this audit's evaluator and judge.

    Attributes:
        control: unguided samples; the rate of class y is the share of all samples that are called y.
        ceiling: real held-out private images projected into the prior.
        real: the same held-out images as they are.
        n_control_samples: samples behind the control.
    """

    control: ClassRates
    ceiling: ClassRates
    real: ClassRates
    n_control_samples: int

    def card_scores(self, bootstrap: Bootstrap) -> dict[str, Score]:
        """The scores of a PriorCard by field name."""
        won = (self.control.evaluator > 0).astype(np.float64)
        coverage = rate_interval(won, n_resamples=bootstrap.n_resamples, generator=bootstrap.rng("class_coverage"))
        return {
            "class_coverage": measured("class_coverage", coverage, self.n_control_samples, higher_is_riskier=False),
            "ceiling_evaluator": self.ceiling.score("ceiling_evaluator", "evaluator", bootstrap),
            "ceiling_judge": self.ceiling.score("ceiling_judge", "judge", bootstrap),
            "ceiling_both": self.ceiling.score("ceiling_both", "both", bootstrap),
            "control_both": control_score("control_both", "both", self.control, bootstrap),
        }

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything by name, for an npz file."""
        return {
            **self.control.arrays("control"),
            **self.ceiling.arrays("ceiling"),
            **self.real.arrays("real"),
            "n_control_samples": np.array(self.n_control_samples),
        }

    @classmethod
    def of_arrays(cls, arrays: dict[str, NDArray[np.generic]]) -> PriorMeasure:
        """The inverse of `arrays`."""
        control, ceiling, real = (ClassRates.of_arrays(arrays, part) for part in ("control", "ceiling", "real"))
        return cls(control, ceiling, real, int(np.asarray(arrays["n_control_samples"]).item()))


def control_score(
    metric: str, part: str, control: ClassRates, bootstrap: Bootstrap, classes: NDArray[np.int64] | None = None
) -> Score:
    """Mean over classes of the control rates, bootstrapped over classes.

    All classes are measured on the same N samples, of which each is called by one class at most. The mean is therefore
    the share of samples called by any of the G classes, over G, and its bounds are at least as wide as Wilson's for N.
    """
    rates, N = getattr(control, part), int(control.n.max())
    if classes is not None:
        rates = rates[classes]
    interval = mean_interval(rates, n_resamples=bootstrap.n_resamples, generator=bootstrap.rng(metric, part))
    low, high = (bound / len(rates) for bound in wilson(min(1.0, float(rates.sum())), N))
    return measured(metric, Interval(interval.value, min(interval.low, low), max(interval.high, high)), N)


def measure_prior(
    prior: Prior,
    reference: Reference,
    heldout: ImageBatch,
    ctx: RunContext,
    *,
    n_control_samples: int = 2000,
    latents: Tensor | None = None,
) -> PriorMeasure:
    """Control, ceiling and real-image rates of `prior`.

    Args:
        prior: the image prior.
        reference: evaluator and judge; both must be there.
        heldout: real private images the reference was not built from, with labels.
        ctx: device, seed, batch size, progress.
        n_control_samples: unguided samples to draw.
        latents: (N, D) of `heldout` projected into the prior, where that was done before; None: it is done here.
    """
    samples = sample_images(prior, n_control_samples, ctx.rng("control", prior.digest), ctx)
    control = control_rates(samples, reference, ctx)
    if latents is None:
        latents = prior.project(heldout.images, ctx, heldout.labels)
    projected = decode_all(prior, latents.to(ctx.device), heldout.labels, ctx)
    return PriorMeasure(
        control=control,
        ceiling=real_rates(ImageBatch(projected, heldout.labels), reference, ctx),
        real=real_rates(heldout, reference, ctx),
        n_control_samples=n_control_samples,
    )


def control_rates(samples: Tensor, reference: Reference, ctx: RunContext) -> ClassRates:
    """For every class, the share of `samples` ((N, C, H, W), drawn without any target) that is called by it."""
    if reference.evaluator is None or reference.judge is None:
        raise ValueError("a control needs both an evaluator and a judge")
    by_evaluator, by_judge = choices(samples, reference.evaluator, reference.judge, ctx)
    K, N = reference.evaluator.n_classes, len(samples)
    agreed = by_evaluator[by_evaluator == by_judge]
    shares = [np.bincount(called, minlength=K) / N for called in (by_evaluator, by_judge, agreed)]
    return ClassRates(shares[0], shares[1], shares[2], np.full(K, N, dtype=np.int64))


def real_rates(images: ImageBatch, reference: Reference, ctx: RunContext) -> ClassRates:
    """For every class, the share of its own pictures that is accepted."""
    if reference.evaluator is None or reference.judge is None or images.labels is None:
        raise ValueError("a ceiling needs an evaluator, a judge and labels")
    K = reference.evaluator.n_classes
    judgement = judge_images(images.images, images.labels, reference, ctx)
    counts = np.bincount(judgement.labels, minlength=K).astype(np.int64)
    by_evaluator, by_judge = judgement.value("evaluator_top1"), judgement.value("judge_top1")
    shares = []
    for rows in (by_evaluator, by_judge, by_evaluator * by_judge):
        sums = np.zeros(K)
        np.add.at(sums, judgement.labels, rows)
        shares.append(np.divide(sums, counts, out=np.full(K, np.nan), where=counts > 0))
    return ClassRates(shares[0], shares[1], shares[2], counts)
