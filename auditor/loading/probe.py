"""Trying a loaded model on made-up images: shape, finiteness, life, and parity with onnxruntime."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from auditor.contracts.manifest import InputSpec
from auditor.contracts.submission import Output, ParityCheck

PARITY_BATCH_SIZES = (1, 3, 8)
_RELATIVE = 1e-4
_RELATIVE_HALF = 2e-2
_SPREAD = 1e-6


def probe_images(spec: InputSpec, n: int = 12, seed: int = 0) -> Tensor:
    """(n, C, H, W) float32 in [0, 1]: noise, smooth patterns, and plain black and white; the same every time."""
    generator = torch.Generator().manual_seed(seed)
    shape = (spec.channels, spec.height, spec.width)
    noise = torch.rand(n, *shape, generator=generator)
    coarse = torch.rand(n, spec.channels, 4, 4, generator=generator)
    smooth = interpolate(coarse, shape[1:], mode="bilinear", align_corners=False)
    mix = torch.linspace(0, 1, n).view(n, 1, 1, 1)
    images = noise * mix + smooth * (1 - mix)
    images[-1], images[-2] = 0.0, 1.0
    return images


def output_problems(scores: Tensor) -> list[str]:
    """What is wrong with (B, K) scores of different images."""
    if scores.ndim != 2:
        return [f"the model gives an output of shape {tuple(scores.shape)}; the auditor needs (batch, classes)"]
    if not bool(torch.isfinite(scores).all()):
        return ["the model's output is not finite (NaN or infinity) on ordinary images"]
    if scores.shape[1] < 2:
        return [
            f"the model gives {scores.shape[1]} score per image; an audit needs one for each class, at least two "
            "(a graph that ends in ArgMax gives labels only: export it up to the scores)"
        ]
    spread = float((scores - scores[:1]).abs().max())
    if spread <= _SPREAD * max(1.0, float(scores.abs().max())):
        return ["the model's output is constant: it does not depend on the image"]
    return []


def looks_like_probabilities(scores: Tensor) -> bool:
    """Whether every row of (B, K) is non-negative and sums to one."""
    sums = scores.double().sum(dim=1)
    return bool((scores >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all())


def looks_like_log_probabilities(scores: Tensor) -> bool:
    """Whether the exponentials of every row of (B, K) sum to one."""
    return bool((scores <= 1e-6).all()) and looks_like_probabilities(scores.double().exp())


def check_parity(
    interpreted: Callable[[Tensor], Tensor],
    reference: Callable[[Tensor], Tensor],
    inputs: Tensor,
    *,
    output: Output,
    half: bool = False,
) -> ParityCheck:
    """Compare the interpreted graph with onnxruntime at several batch sizes.

    Args:
        interpreted: raw model input to scores; log-probabilities where the model gives probabilities.
        reference: raw model input to the model's own scores.
        inputs: (N, C, H, W) raw model input, N at least the largest batch size.
        output: what the model's own scores are.
        half: the file computes in half precision, we in single: a wider tolerance.
    """
    worst, size = 0.0, 1.0
    for batch in PARITY_BATCH_SIZES:
        chunk = inputs[-batch:] if batch > 1 else inputs[:1]
        with torch.no_grad():
            ours = interpreted(chunk).float().cpu()
        theirs = reference(chunk)
        if output is Output.PROBABILITIES:
            ours = ours.exp()
        if ours.shape != theirs.shape:
            worst = float("inf")
            break
        difference = (ours - theirs).abs().max()
        worst = max(worst, float(difference) if bool(torch.isfinite(difference)) else float("inf"))
        size = max(size, float(theirs.abs().max()))
    tolerance = (_RELATIVE_HALF if half else _RELATIVE) * size
    return ParityCheck(
        batch_sizes=PARITY_BATCH_SIZES,
        max_abs_error=min(worst, 1e30),
        tolerance=tolerance,
        passed=worst <= tolerance,
    )
