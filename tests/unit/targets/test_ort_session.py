"""onnxruntime: silent, chunked, and score-level only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper

from auditor.contracts.access import Access
from auditor.contracts.manifest import InputSpec
from auditor.contracts.submission import ModelFormat, Output, TargetCard
from auditor.errors import InvalidInput
from auditor.targets.onnx_graph import Layout
from auditor.targets.ort_session import OnnxScoreTarget, OrtSession
from auditor.testing.onnx_models import model, one_node

_PROBE = """
import json, os
from auditor.targets.ort_session import OrtSession
from auditor.testing.onnx_models import one_node
import numpy as np
OrtSession(one_node("Relu", ("n", 3)).SerializeToString()).run(np.zeros((2, 3), np.float32))
print(json.dumps(os.environ.get("ORT_DISABLE_TELEMETRY")))
"""


def test_onnxruntime_leaves_no_trace_though_the_user_set_nothing(tmp_path: Path) -> None:
    """A fresh process with a home of its own; importing onnxruntime bare would write a device id under it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "ORT_"))}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", _PROBE], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == "1"
    left = [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()]
    assert [name for name in left if "onnx" in name.lower() or "microsoft" in name.lower() or "device" in name] == []


def test_onnxruntime_is_imported_in_one_place_only() -> None:
    root = Path(__file__).resolve().parents[3]
    importing = {
        path.relative_to(root).as_posix()
        for package in ("auditor", "remediation", "workers")
        for path in (root / package).rglob("*.py")
        if any(
            line.strip().startswith(("import onnxruntime", "from onnxruntime"))
            for line in path.read_text().splitlines()
        )
    }
    assert importing == {"auditor/targets/ort_session.py"}


def test_a_graph_with_a_fixed_batch_runs_in_padded_pieces() -> None:
    proto = one_node("Relu", (2, 3))
    session = OrtSession(proto.SerializeToString())
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_allclose(session.run(x), np.maximum(x, 0))


def test_images_are_laid_out_as_the_graph_reads_them() -> None:
    proto = model([helper.make_node("Flatten", ["x"], ["y"])], ("n", 2, 4, 3))
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 4)).astype(np.float32)
    out = OrtSession(proto.SerializeToString(), layout=Layout.CHANNELS_LAST).run(x)
    np.testing.assert_array_equal(out, np.moveaxis(x, 1, -1).reshape(2, -1))


def test_what_cannot_be_loaded_or_run_is_a_clear_error() -> None:
    with pytest.raises(InvalidInput, match="cannot load"):
        OrtSession(b"nonsense")
    broken = model(
        [helper.make_node("Reshape", ["x", "s"], ["y"])],
        ("n", 3),
        [numpy_helper.from_array(np.array([2, 2], np.int64), "s")],
    )
    with pytest.raises(InvalidInput, match="cannot run"):
        OrtSession(broken.SerializeToString()).run(np.zeros((2, 3), np.float32))


def test_a_score_target_gives_log_probabilities_and_no_gradients() -> None:
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(192, 4)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["l"]),
        helper.make_node("Softmax", ["l"], ["y"], axis=1),
    ]
    proto = model(nodes, ("n", 3, 8, 8), [weight])
    card = TargetCard(
        name="t",
        format=ModelFormat.ONNX,
        digest="0",
        weights_digest="0",
        architecture="onnx:0",
        n_classes=4,
        input=InputSpec(channels=3, height=8, width=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        output=Output.PROBABILITIES,
        n_parameters=768,
        access=(Access.SCORE, Access.LABEL),
    )
    target = OnnxScoreTarget(OrtSession(proto.SerializeToString()), card)
    images = torch.rand(3, 3, 8, 8, requires_grad=True)
    out = target.logits(images)
    assert target.module is None
    assert not out.requires_grad
    expected = ((images - 0.5) / 0.25).flatten(1) @ torch.tensor(numpy_helper.to_array(weight))
    torch.testing.assert_close(out, expected.log_softmax(1).detach(), atol=1e-4, rtol=1e-4)
    assert (target.n_classes, target.image_shape) == (4, (3, 8, 8))
