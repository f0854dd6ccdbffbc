"""Digests of networks and images: who is who, and whether two networks are one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from auditor.contracts.base import digest_of
from auditor.tensors import ImageBatch


def shape_fingerprint(parameters: Iterable[Tensor] | Sequence[tuple[int, ...]]) -> str:
    """sha256 over the multiset of weight shapes with two dimensions or more.

    Biases and norms are left out and matrices may be transposed, so folding norms or exporting does not change it.
    """
    shapes = [tuple(item.shape) if isinstance(item, Tensor) else tuple(item) for item in parameters]
    kept = [sorted(shape) if len(shape) == 2 else list(shape) for shape in shapes if len(shape) >= 2]
    return digest_of(sorted(kept))


def parameters_digest(module: nn.Module) -> str:
    """sha256 over parameter names, shapes and bytes, in name order."""
    return _tensors_digest(sorted(module.named_parameters()))


def module_digest(architecture: str, module: nn.Module) -> str:
    """sha256 over the architecture's name and the whole state, buffers included."""
    return digest_of({"architecture": architecture, "state": _tensors_digest(sorted(module.state_dict().items()))})


def batch_digest(batch: ImageBatch) -> str:
    """sha256 over images, labels and their order."""
    tensors = [("images", batch.images)] + ([] if batch.labels is None else [("labels", batch.labels)])
    return _tensors_digest(tensors)


def _tensors_digest(named: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name}\0{tuple(tensor.shape)}\0{tensor.dtype}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
