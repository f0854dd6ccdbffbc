"""Mangled files end in a clear error, or load; nothing else."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from auditor.contracts.manifest import InputSpec, ModelSpec
from auditor.errors import AuditorError
from auditor.loading.inspection import inspect_model
from auditor.targets.architectures import build_architecture
from auditor.testing.onnx_models import exported, randomised

SPEC = ModelSpec(name="m", architecture="small-cnn", input=InputSpec(channels=3, height=16, width=16))


class Little(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3))).softmax(1)


@cache
def sound(kind: str) -> bytes:
    if kind == "onnx":
        return exported(Little(), (3, 16, 16), opset=17, dynamo=False)
    state = randomised(build_architecture("small-cnn", n_classes=3, channels=3)).state_dict()
    if kind == "safetensors":
        return save(state)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def where(kind: str) -> st.SearchStrategy[float]:
    """Mostly in the headers, where structure lives."""
    head = 2000 / len(sound(kind))
    ends = [st.floats(0, min(1, head)), st.floats(max(0, 1 - 4 * head), 1, exclude_max=True)]
    return st.one_of(*ends, st.floats(0, 1, exclude_max=True))


@pytest.mark.parametrize("kind", ["onnx", "safetensors", "state-dict"])
def test_the_unmangled_file_loads(tmp_path: Path, kind: str) -> None:
    (tmp_path / "m").write_bytes(sound(kind))
    assert inspect_model(tmp_path / "m", SPEC).n_classes == 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["onnx", "safetensors", "state-dict"])
def test_flipped_bytes_never_end_in_anything_but_our_own_errors(tmp_path: Path, kind: str) -> None:
    original, path = sound(kind), tmp_path / "m"

    @settings(max_examples=40, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(changes=st.lists(st.tuples(where(kind), st.integers(0, 255)), min_size=1, max_size=4))
    def flip(changes: list[tuple[float, int]]) -> None:
        data = bytearray(original)
        for place, value in changes:
            data[int(place * len(data))] = value
        path.write_bytes(bytes(data))
        try:
            inspect_model(path, SPEC)
        except AuditorError as error:
            assert error.message  # noqa: PT017 - both ends are fine

    flip()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["onnx", "safetensors", "state-dict"])
def test_a_cut_or_padded_file_never_ends_in_anything_but_our_own_errors(tmp_path: Path, kind: str) -> None:
    original, path = sound(kind), tmp_path / "m"

    @settings(max_examples=15, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(length=st.floats(0, 1), tail=st.binary(max_size=20))
    @example(length=1.0, tail=b"\0" * 8)
    def cut(length: float, tail: bytes) -> None:
        path.write_bytes(original[: int(length * len(original))] + tail)
        try:
            inspect_model(path, SPEC)
        except AuditorError as error:
            assert error.message  # noqa: PT017 - both ends are fine

    cut()
