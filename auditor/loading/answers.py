"""A model's answers in a few numbers, by which it is known again whatever file it comes in."""

from __future__ import annotations

import torch
from torch import Tensor

from auditor.contracts.submission import Output

_REACH = 5.0
_PER_IMAGE = 8
_DIGITS = 3


def folded_answers(scores: Tensor, output: Output) -> tuple[float, ...]:
    """What a model answers to the probe pictures, as 8 numbers a picture: the same function, nearly the same numbers.

    Neither names nor formats, folded norms, an order of channels or the last digits of weights show in them. How far
    two models are apart is told by `auditor.service.outcomes`.

    Args:
        scores: (n, n_classes), what the model gave for `probe_images`.
        output: what they are.

    Returns:
        (8 * n,) random projections of the log-probabilities, of which those further than 5 below a picture's highest
        count as 5 below (where scores are rounded, they jump), centred for every picture.
    """
    numbers = scores.double()
    logs = numbers.log() if output is Output.PROBABILITIES else numbers.log_softmax(dim=1)
    logs = (logs - logs.amax(dim=1, keepdim=True)).clamp(min=-_REACH)
    n_classes = logs.shape[1]
    directions = torch.randn(n_classes, _PER_IMAGE, generator=torch.Generator().manual_seed(0)).double()
    folded = (logs - logs.mean(dim=1, keepdim=True)) @ directions / n_classes**0.5
    return tuple(round(float(number), _DIGITS) for number in folded.flatten())
