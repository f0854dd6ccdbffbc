"""Trying a generator's files on random latents: shape, range, life, and parity with onnxruntime."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from auditor.contracts.manifest import GeneratorSpec
from auditor.contracts.submission import Output
from auditor.loading.generator_inputs import PackedGenerator
from auditor.loading.probe import check_parity
from auditor.loading.problems import Problems
from auditor.targets.onnx_graph import parse_graph
from auditor.targets.ort_session import OrtSession

_ROWS = 8
_TAIL = 0.01
"""Share of values at each end that may lie anywhere: StyleGAN's pictures are not clamped."""


@torch.no_grad()
def try_rows(entry: nn.Module, latent_dim: int, n_classes: int = 0) -> Tensor:
    """(8, n) what `entry` makes of random latents; the first half of one class, the others of another."""
    latents = torch.randn(_ROWS, latent_dim, generator=torch.Generator().manual_seed(0))
    if not n_classes:
        return entry(latents)  # type: ignore[no-any-return]
    return entry(latents, (torch.arange(_ROWS) >= _ROWS // 2).long() * (n_classes - 1))  # type: ignore[no-any-return]


def check_pictures(
    packed: PackedGenerator, draw: nn.Module, rows: Tensor, spec: GeneratorSpec, problems: Problems
) -> None:
    """What is wrong with the pictures of `rows`, and with `draw` beside onnxruntime.

    Args:
        packed: the file that draws.
        draw: the same, interpreted.
        rows: from `try_rows`.
        spec: output range and image shape.
        problems: takes what is found.
    """
    session = OrtSession(packed.model.SerializeToString())
    raw = _reference(session, packed, rows)
    size = spec.channels * spec.height * spec.width
    if raw.shape[1] != size:
        problems.add(
            f"the generator gives {raw.shape[1]} values per picture, but the manifest says {spec.channels} channels of "
            f"{spec.height}x{spec.width}"
        )
        return
    if not bool(torch.isfinite(raw).all()):
        problems.add("the generator's pictures are not finite (NaN or infinity)")
        return
    if float((raw - raw[:1])[: _ROWS // 2].abs().max()) <= 1e-6:
        problems.add("the generator draws the same picture whatever its latent is")
    slack = 0.25 * (spec.high - spec.low)
    darkest, brightest = np.quantile(raw.numpy(), (_TAIL, 1 - _TAIL)).tolist()
    if darkest < spec.low - slack or brightest > spec.high + slack:
        problems.add(
            f"the generator's values reach from {darkest:.2f} to {brightest:.2f}, but the manifest says {spec.low} to "
            f"{spec.high}"
        )
    _check_parity(session, packed, draw, rows, "generator", problems)


def check_mapping(packed: PackedGenerator, mapper: nn.Module, rows: Tensor, problems: Problems) -> None:
    """What is wrong with the styles of `rows`, and with `mapper` beside onnxruntime."""
    session = OrtSession(packed.model.SerializeToString())
    raw = _reference(session, packed, rows)
    if not bool(torch.isfinite(raw).all()):
        problems.add("the mapping's styles are not finite (NaN or infinity)")
    elif float((raw - raw[:1]).abs().max()) <= 1e-6:
        problems.add("the mapping gives the same styles whatever its latent is")
    else:
        _check_parity(session, packed, mapper, rows, "mapping", problems)


def _reference(session: OrtSession, packed: PackedGenerator, rows: Tensor) -> Tensor:
    """(B, n) rows to (B, F) by onnxruntime."""
    return torch.from_numpy(session.run(rows.reshape(len(rows), *packed.row_shape).contiguous().numpy()))


def _check_parity(
    session: OrtSession, packed: PackedGenerator, network: nn.Module, rows: Tensor, what: str, problems: Problems
) -> None:
    parity = check_parity(
        lambda chunk: network(chunk).flatten(1),
        lambda chunk: _reference(session, packed, chunk),
        rows,
        output=Output.LOGITS,
        half=any(array.dtype == np.float16 for array in parse_graph(packed.model).constants.values()),
    )
    if not parity.passed:
        problems.add(f"the interpreted {what} differs from onnxruntime by {parity.max_abs_error:.2g}")
