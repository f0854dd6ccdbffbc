"""onnxruntime: the one place that imports it, with its telemetry switched off first, and the score-level target on it.

Since 1.29 importing onnxruntime writes a device id under the user's cache folder and sends events unless
`ORT_DISABLE_TELEMETRY` is set before the import; afterwards it is too late. So it is set here, whatever it was.
"""

from __future__ import annotations

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnx
import torch  # before onnxruntime: it brings the CUDA libraries the GPU build looks for
from numpy.typing import NDArray
from torch import Tensor

# isort: split
import onnxruntime

from auditor.contracts.submission import Output, TargetCard
from auditor.errors import InvalidInput
from auditor.targets.onnx_graph.module import Layout, arranged
from auditor.targets.preprocess import Preprocess

_FATAL = 4
_INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


class OrtSession:
    """One model in onnxruntime: arrays in, one array out, any number of rows.

    Args:
        model: serialised ModelProto without external data.
        output: name of the output to read; default the first.
        layout: how the model reads images; arrays come in as (B, C, H, W) whatever it is.
        device: CUDA is used only when it is asked for and there.

    Raises:
        InvalidInput: onnxruntime cannot load the model.
    """

    def __init__(
        self,
        model: bytes,
        *,
        output: str | None = None,
        layout: Layout = Layout.CHANNELS_FIRST,
        device: torch.device | None = None,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = torch.get_num_threads()
        providers = ["CPUExecutionProvider"]
        if device is not None and device.type == "cuda":
            providers.insert(0, "CUDAExecutionProvider")
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=providers)
        except Exception as error:
            raise InvalidInput(f"onnxruntime cannot load the model: {_first_line(error)}") from error
        self.provider: str = self._session.get_providers()[0]
        """Where it really runs: asking for CUDA without a GPU silently gives the CPU."""
        entry = self._session.get_inputs()[0]
        if entry.type not in _INPUT_TYPES:
            raise InvalidInput(f"the model's input is {entry.type}; the auditor feeds floating-point images")
        self._name, self._dtype = entry.name, _INPUT_TYPES[entry.type]
        self._fixed = entry.shape[0] if entry.shape and isinstance(entry.shape[0], int) else None
        self._output = output or self._session.get_outputs()[0].name
        self._layout = layout
        self._row_shape = tuple(d if isinstance(d, int) else -1 for d in entry.shape[1:])

    def run(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, ...) float32 to (B, F) float32, where F is everything behind the batch axis."""
        data = (
            arranged(torch.from_numpy(inputs), self._layout, self._row_shape).contiguous().numpy().astype(self._dtype)
        )
        size = self._fixed or len(data)
        parts = []
        for start in range(0, len(data), size):
            chunk = data[start : start + size]
            missing = size - len(chunk)
            if missing:
                chunk = np.concatenate([chunk, np.repeat(chunk[:1], missing, axis=0)])
            try:
                result = self._session.run([self._output], {self._name: chunk})[0]
            except Exception as error:
                raise InvalidInput(f"onnxruntime cannot run the model: {_first_line(error)}") from error
            parts.append(result[: size - missing])
        joined = np.concatenate(parts).astype(np.float32)
        return joined.reshape(len(joined), -1)


class OnnxScoreTarget:
    """A target on onnxruntime: scores without gradients, for graphs that cannot be interpreted faithfully.

    Args:
        session: the model.
        card: what it is; `output` says how its scores are turned into log-probabilities.
        device: where scores are put.
    """

    def __init__(self, session: OrtSession, card: TargetCard, device: torch.device | None = None) -> None:
        self._session = session
        self._card = card
        self._device = device or torch.device("cpu")
        self._preprocess = Preprocess(card.input)

    @property
    def card(self) -> TargetCard:
        """What it is and which access levels it offers."""
        return self._card

    @property
    def n_classes(self) -> int:
        """Number of classes K."""
        return self._card.n_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of its input."""
        spec = self._card.input
        return (spec.channels, spec.height, spec.width)

    @property
    def module(self) -> None:
        """None: nothing here can be differentiated."""
        return None

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float32 in [0, 1] to (B, K) float32 logits or log-probabilities, without gradient."""
        prepared = self._preprocess(images.detach().float().cpu())
        scores = torch.from_numpy(self._session.run(prepared.numpy()))
        if self._card.output is Output.PROBABILITIES:
            scores = scores.clamp_min(torch.finfo(torch.float32).tiny).log()
        return scores.to(self._device)


def session_for(
    model: onnx.ModelProto, *, output: str | None = None, layout: Layout = Layout.CHANNELS_FIRST
) -> OrtSession:
    """A CPU session for a parsed model."""
    return OrtSession(model.SerializeToString(), output=output, layout=layout)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
