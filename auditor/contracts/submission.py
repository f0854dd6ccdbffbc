"""What was submitted, as found by the intake check, and how the model could be loaded."""

from __future__ import annotations

from enum import StrEnum

from auditor.contracts.access import Access
from auditor.contracts.base import Contract
from auditor.contracts.manifest import InputSpec


class ModelFormat(StrEnum):
    """Accepted model files."""

    ONNX = "onnx"
    SAFETENSORS = "safetensors"
    STATE_DICT = "state-dict"


class Output(StrEnum):
    """What the model's output layer gives."""

    LOGITS = "logits"
    LOG_PROBABILITIES = "log-probabilities"
    PROBABILITIES = "probabilities"


class ParityCheck(Contract):
    """The interpreted graph against onnxruntime on random inputs."""

    batch_sizes: tuple[int, ...]
    max_abs_error: float
    tolerance: float
    passed: bool


class SplitPoint(Contract):
    """A place where the model can be cut in two."""

    layer: str
    """Module path, or value name of an ONNX graph."""
    shape: tuple[int, ...]
    """Of what passes there for one image, without the batch axis."""


class TargetCard(Contract):
    """The loaded target: what it is and what may be done with it."""

    name: str
    format: ModelFormat
    digest: str
    """sha256 of the submitted file."""
    weights_digest: str
    """sha256 over the parameters' names, shapes and bytes."""
    answers: tuple[float, ...] = ()
    """To the probe pictures, folded (`auditor.loading.answers`); (): it was read by an older version."""
    architecture: str
    """Allow-list name, or `onnx:<digest of the graph without weights>`."""
    n_classes: int
    input: InputSpec
    output: Output
    n_parameters: int
    access: tuple[Access, ...]
    """Access levels that can be audited."""
    parity: ParityCheck | None = None
    unsupported_operators: tuple[str, ...] = ()
    inferred: dict[str, str] = {}
    """Facts taken from the file, not from the manifest."""
    warnings: tuple[str, ...] = ()
    split: SplitPoint | None = None
    """None: the audit does not look at what passes between two parts of the model."""
    public_front: SplitPoint | None = None
    """Up to where the model equals the public one it was fine-tuned from; None: nowhere, or no such model was named."""
