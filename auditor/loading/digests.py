"""Content hashes of weights and graphs."""

from __future__ import annotations

import hashlib

import onnx
import torch
from torch import Tensor, nn


def weights_digest(module: nn.Module) -> str:
    """sha256 (hex) over the names, types, shapes and bytes of all parameters and buffers, in order."""
    return tensors_digest(module.state_dict())


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """sha256 (hex) over named tensors, in order."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()


def graph_digest(model: onnx.ModelProto) -> str:
    """sha256 (hex) of what a graph computes apart from its weights: operators, attributes, wiring, constant shapes."""
    digest = hashlib.sha256()
    numbers: dict[str, int] = {}

    def number(name: str) -> str:
        return "-" if not name else str(numbers.setdefault(name, len(numbers)))

    for value in model.graph.input:
        number(value.name)
    for tensor in model.graph.initializer:
        digest.update(f"{number(tensor.name)}:{tensor.data_type}:{list(tensor.dims)};".encode())
    for node in model.graph.node:
        digest.update(f"{node.domain}:{node.op_type}({','.join(map(number, node.input))})".encode())
        for attribute in sorted(node.attribute, key=lambda a: a.name):
            if not attribute.HasField("t"):
                digest.update(attribute.SerializeToString(deterministic=True))
        digest.update(f"->{','.join(map(number, node.output))};".encode())
    return digest.hexdigest()
