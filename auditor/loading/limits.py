"""Size budgets, checked before anything is allocated."""

from __future__ import annotations

MAX_FILE_BYTES = 2**31
"""Largest model file. An ONNX file cannot be larger either (protobuf)."""
MAX_PARAMETERS = 2**30
"""Largest number of weights in all."""
MAX_TENSOR_ELEMENTS = 2**29
"""Largest single tensor."""
MAX_ZIP_MEMBERS = 100_000
"""More members than any state dict has tensors."""
MAX_PICKLE_BYTES = 64 * 2**20
"""Largest pickle inside a state dict: names and shapes only, no data."""
MAX_NODES = 100_000
"""Largest number of nodes in a graph."""
