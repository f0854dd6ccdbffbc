"""Writing a torch module as one ONNX file, checked against onnxruntime."""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from auditor.contracts.manifest import InputSpec
from auditor.errors import InvalidInput
from auditor.loading.probe import PARITY_BATCH_SIZES, probe_images
from auditor.targets.ort_session import OrtSession
from auditor.targets.preprocess import Preprocess

EXPORT_OPSET = 17


def export_onnx(module: nn.Module, input_spec: InputSpec, path: Path, *, n_classes: int) -> float:
    """Write `module` in eval mode as one ONNX file with a dynamic batch, and compare it with onnxruntime.

    Args:
        module: raw model input (B, C, H, W) to (B, K); not changed.
        input_spec: image shape; scaling stays outside the file, as in the manifest.
        path: where to write; replaced only after the file was checked.
        n_classes: K, checked.

    Returns:
        The largest absolute difference between the module and onnxruntime on probe images at several batch sizes.

    Raises:
        InvalidInput: the module cannot be exported, or does not give K classes.
    """
    frozen = copy.deepcopy(module).cpu().eval().requires_grad_(False)
    frozen = frozen.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    inputs = Preprocess(input_spec)(probe_images(input_spec))
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder) / "draft.onnx"
        _export_quietly(frozen, inputs[:2], draft)
        error = _difference(frozen, draft.read_bytes(), inputs, n_classes)
        draft.replace(path)
    return error


def _export_quietly(module: nn.Module, example: Tensor, path: Path) -> None:
    """The TorchScript-based exporter: it needs no tracing of symbolic shapes and folds norms into convolutions."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                (example,),
                str(path),
                dynamo=False,
                opset_version=EXPORT_OPSET,
                input_names=["input"],
                output_names=["logits"],
                dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
            )
    except (RuntimeError, TypeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
        first = (str(error).splitlines() or [""])[0][:200]
        raise InvalidInput(f"the model cannot be exported to ONNX: {first}") from error
    finally:
        logger.setLevel(level)


def _difference(module: nn.Module, model: bytes, inputs: Tensor, n_classes: int) -> float:
    session, worst = OrtSession(model), 0.0
    for batch in PARITY_BATCH_SIZES:
        with torch.no_grad():
            ours = module(inputs[:batch]).numpy()
        theirs = session.run(inputs[:batch].numpy())
        if ours.shape != (batch, n_classes) or theirs.shape != ours.shape:
            raise InvalidInput(f"the module gives {ours.shape[1:]} scores per image, expected {n_classes}")
        worst = max(worst, float(np.abs(ours - theirs).max()))
    return worst
