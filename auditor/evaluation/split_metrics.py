"""How near a rebuilt image comes to the one it was rebuilt from: PSNR, SSIM and a perceptual distance, with controls.

Attacks on split inference rebuild one image each, so there is a true answer beside the question whose picture it is.
Two controls stand beside every value: the reconstruction of *another* private image (what the attack draws when it was
shown something else), and the mean public image (what is drawn by who saw nothing). Intervals resample classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import conv2d, normalize

from auditor.contracts.scores import NotMeasured, Score
from auditor.evaluation.base import Floats, Judgement, Reference
from auditor.evaluation.ceilings import ClassRates
from auditor.evaluation.intervals import Bootstrap, mean_interval
from auditor.evaluation.judgement import choices, eight_bit
from auditor.evaluation.scoring import measured
from auditor.tensors import RunContext

_LEAST_ERROR = 1 / (12 * 255**2)
"""Mean squared error of rounding to 8 bits: what cannot be told from a perfect copy (58.9 dB)."""
_UNITS = {"psnr": "dB", "ssim": "index", "perceptual": "ratio"}
_CONTROLS = ("control", "mean_image")


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """(N,) peak signal-to-noise ratio in dB of (N, C, H, W) images in [0, 1], at most 58.9."""
    error = (images - truth).square().flatten(1).mean(dim=1)
    return -10 * error.clamp_min(_LEAST_ERROR).log10()


def ssim(images: Tensor, truth: Tensor) -> Tensor:
    """(N,) structural similarity in [-1, 1] of (N, C, H, W) images in [0, 1], mean over channels and window places.

    Wang, Bovik, Sheikh and Simoncelli, IEEE Transactions on Image Processing 2004: a Gaussian window of 11 pixels and
    deviation 1.5, constants 0.01 and 0.03, moments of the population. Images smaller than the window get the largest
    odd one that fits.
    """
    _, C, H, W = images.shape
    size = min(11, *((side - 1) // 2 * 2 + 1 for side in (H, W)))
    places = torch.arange(size, dtype=torch.float64) - size // 2
    line = torch.exp(-places.square() / (2 * 1.5**2))
    line = line / line.sum()
    window = torch.outer(line, line).expand(C, 1, size, size)

    def mean(x: Tensor) -> Tensor:
        return conv2d(x, window, groups=C)

    x, y = images.double(), truth.double()
    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return index.flatten(1).mean(dim=1).float()


class PerceptualDistance:
    """Distance of feature maps in the manner of LPIPS (Zhang, Isola, Efros, Shechtman and Wang, CVPR 2018).

    As there: the outputs of a network's convolutions, scaled to length 1 over channels at every place, squared
    differences summed over channels, means over places. Differently: the network is this audit's own (the judge where
    it was trained here, else the evaluator), since the published one needs weights that are not ours to ship; layers
    count alike, without learned weights. The scale is that network's: compare values within one report only.

    Args:
        network: images in [0, 1] to anything.
        owner: the module whose convolutions are read.
    """

    def __init__(self, network: Callable[[Tensor], Tensor], owner: nn.Module) -> None:
        self._network = network
        self._layers = [layer for layer in owner.modules() if isinstance(layer, nn.Conv2d)]

    @torch.no_grad()
    def __call__(self, images: Tensor, truth: Tensor, ctx: RunContext) -> Tensor:
        """(N,) distances in [0, 4]; 0 for equal images."""
        parts = []
        for a, b in zip(images.split(ctx.batch_size), truth.split(ctx.batch_size), strict=True):
            pairs = zip(self._maps(a, ctx), self._maps(b, ctx), strict=True)
            each = [(x - y).square().sum(dim=1).flatten(1).mean(dim=1) for x, y in pairs]
            parts.append(torch.stack(each).mean(dim=0).cpu())
        return torch.cat(parts)

    def _maps(self, images: Tensor, ctx: RunContext) -> list[Tensor]:
        kept: list[Tensor] = []
        hooks = [
            layer.register_forward_hook(lambda _layer, _inputs, output: kept.append(normalize(output.float(), dim=1)))
            for layer in self._layers
        ]
        try:
            self._network(images.to(ctx.device))
        finally:
            for hook in hooks:
                hook.remove()
        return kept


def perceptual_distance(reference: Reference) -> PerceptualDistance | None:
    """The distance by the judge's network, else by the evaluator's; None without either."""
    judge = None if reference.judge is None else reference.judge.judge.embedder
    if isinstance(judge, nn.Module):
        return PerceptualDistance(judge, judge)
    if reference.evaluator is not None:
        return PerceptualDistance(reference.evaluator.logits, reference.evaluator.module)
    return None


@dataclass(frozen=True)
class Pairs:
    """Reconstructions and what they should show.

    Attributes:
        images: (N, C, H, W) uint8 reconstructions.
        truth: (N, C, H, W) uint8 the private images behind them.
        labels: (N,) int64 their classes.
        mean_image: (C, H, W) uint8 mean of the public images, or None.
    """

    images: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    labels: NDArray[np.int64]
    mean_image: NDArray[np.uint8] | None


def fidelity_scores(pairs: Pairs, reference: Reference, bootstrap: Bootstrap, ctx: RunContext) -> tuple[Score, ...]:
    """`psnr`, `ssim`, `perceptual`, each with `control_...` and `mean_image_...`."""
    truth = eight_bit(pairs.truth)
    shown: dict[str, Tensor | NotMeasured] = {"": eight_bit(pairs.images)}
    other = another_class(pairs.labels, bootstrap)
    shown["control_"] = (
        NotMeasured(metric="", reason="there are images of one class only")
        if other is None
        else eight_bit(pairs.images[other])
    )
    shown["mean_image_"] = (
        NotMeasured(metric="", reason="no public data was given")
        if pairs.mean_image is None
        else eight_bit(pairs.mean_image)[None].expand_as(truth)
    )
    distance = perceptual_distance(reference)
    scores: list[Score] = []
    for metric in _UNITS:
        for prefix, images in shown.items():
            name = prefix + metric
            if isinstance(images, NotMeasured):
                scores.append(images.model_copy(update={"metric": name}))
            elif metric == "perceptual" and distance is None:
                scores.append(NotMeasured(metric=name, reason="there is neither a judge nor an evaluator"))
            else:
                values = _values(metric, images, truth, distance, ctx)
                scores.append(_score(name, metric, values, pairs.labels, bootstrap))
    return tuple(scores)


def _values(metric: str, images: Tensor, truth: Tensor, distance: PerceptualDistance | None, ctx: RunContext) -> Floats:
    if metric == "perceptual" and distance is not None:
        values = distance(images, truth, ctx)
    else:
        values = psnr(images, truth) if metric == "psnr" else ssim(images, truth)
    return values.double().numpy().astype(np.float64)


def _score(name: str, metric: str, values: Floats, labels: NDArray[np.int64], bootstrap: Bootstrap) -> Score:
    per_class = Judgement(labels, int(labels.max()) + 1, {}, {}).per_class(values)
    interval = mean_interval(per_class, n_resamples=bootstrap.n_resamples, generator=bootstrap.rng(name))
    return measured(name, interval, len(values), unit=_UNITS[metric], higher_is_riskier=metric != "perceptual")


def another_class(labels: NDArray[np.int64], bootstrap: Bootstrap) -> NDArray[np.int64] | None:
    """(N,) for every row a row of another class, drawn at random; None where there is one class only."""
    if len(np.unique(labels)) < 2:
        return None
    generator = bootstrap.rng("another_class")
    return np.array([generator.choice(np.flatnonzero(labels != label)) for label in labels], dtype=np.int64)


def exchanged_rates(
    images: NDArray[np.uint8], labels: NDArray[np.int64], reference: Reference, ctx: RunContext
) -> ClassRates | NotMeasured:
    """The control of identification: for every class, how often reconstructions of *other* classes are called by it.

    An attack that draws the same whatever it is shown has a control as high as its rate.
    """
    if reference.evaluator is None or reference.judge is None:
        return NotMeasured(metric="control", reason="evaluator or judge is missing")
    K = reference.evaluator.n_classes
    n = np.array([int((labels != k).sum()) for k in range(K)], dtype=np.int64)
    if len(np.unique(labels)) < 2:
        return NotMeasured(metric="control", reason="there are images of one class only")
    called = choices(images, reference.evaluator, reference.judge, ctx)

    def shares(*names: NDArray[np.int64]) -> Floats:
        agreed = [np.logical_and.reduce([name == k for name in names]) for k in range(K)]
        hits = [int(((labels != k) & agreed[k]).sum()) for k in range(K)]
        return np.array(hits, dtype=np.float64) / n

    return ClassRates(shares(called[0]), shares(called[1]), shares(*called), n)
