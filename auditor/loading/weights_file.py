"""Bare weights: safetensors, and state dicts read with `weights_only`, into an architecture of the allow-list."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from auditor.contracts.submission import ModelFormat
from auditor.loading.limits import MAX_PARAMETERS, MAX_TENSOR_ELEMENTS
from auditor.loading.problems import RECIPE, SAFETENSORS_RECIPE, Problems
from auditor.targets.architectures import build_architecture

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
_SHOWN = 50
_RESAVE = (
    "Save it again: `torch.save({k: v.contiguous() for k, v in model.state_dict().items()}, path)`. "
    f"{SAFETENSORS_RECIPE}"
)


def read_weights(
    path: Path, kind: ModelFormat, problems: Problems, inferred: dict[str, str]
) -> dict[str, Tensor] | None:
    """Named tensors of the file, checked for size and finiteness; None when something was put into `problems`."""
    read = _read_safetensors if kind is ModelFormat.SAFETENSORS else _read_state_dict
    tensors = read(path, problems, inferred)
    if tensors is None:
        return None
    if not tensors:
        problems.add("the file holds no tensors")
        return None
    bad = [name for name, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if bad:
        problems.add(f"weights are not finite (NaN or infinity) in {', '.join(bad[:10])}")
    return _without_prefix(tensors, inferred)


def _read_safetensors(path: Path, problems: Problems, inferred: dict[str, str]) -> dict[str, Tensor] | None:
    try:
        with safe_open(path, framework="pt", device="cpu") as handle:
            shapes = {name: handle.get_slice(name).get_shape() for name in handle.keys()}  # noqa: SIM118
            if not _within_budget({name: _product(shape) for name, shape in shapes.items()}, problems):
                return None
            return {name: handle.get_tensor(name) for name in shapes}
    except Exception as error:
        problems.refuse(f"the safetensors file cannot be read: {_line(error)}", SAFETENSORS_RECIPE)
        return None


def _read_state_dict(path: Path, problems: Problems, inferred: dict[str, str]) -> dict[str, Tensor] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        problems.refuse(
            f"the file is a pickle of more than weights (a whole module?), which could run code: {_global(error)}",
            RECIPE,
        )
        return None
    except Exception as error:
        problems.refuse(f"the state dict cannot be read: {_line(error)}", _RESAVE)
        return None
    found = _find_state_dict(loaded, inferred)
    if found is None:
        problems.add("the file holds no state dict (a mapping of names to tensors)")
        return None
    if not _plain_tensors(found, problems):
        return None
    return {name: tensor.detach() for name, tensor in found.items()}


def _find_state_dict(loaded: Any, inferred: dict[str, str]) -> dict[str, Tensor] | None:
    if not isinstance(loaded, dict):
        return None
    tensors = {k: v for k, v in loaded.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if tensors and len(tensors) == len(loaded):
        return tensors
    for key in _WRAPPERS:
        inner = loaded.get(key)
        if isinstance(inner, dict) and inner and all(isinstance(v, Tensor) for v in inner.values()):
            inferred["state-dict"] = f"taken from the checkpoint's entry '{key}'"
            return {str(k): v for k, v in inner.items()}
    return None


def _plain_tensors(tensors: dict[str, Tensor], problems: Problems) -> bool:
    """Dense CPU tensors that are backed by the bytes they claim (a stride of 0 makes a kilobyte claim gigabytes)."""
    before = bool(problems)
    for name, tensor in tensors.items():
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided or tensor.device.type != "cpu":
            problems.refuse(f"'{name}' is no plain dense tensor", _RESAVE)
        elif tensor.is_quantized:
            problems.refuse(f"'{name}' is quantised", _RESAVE)
        elif tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            problems.refuse(
                f"'{name}' claims {tensor.numel()} values but is backed by {tensor.untyped_storage().nbytes()} bytes",
                _RESAVE,
            )
    if problems and not before:
        return False
    return _within_budget({name: tensor.numel() for name, tensor in tensors.items()}, problems)


def _within_budget(sizes: dict[str, int], problems: Problems) -> bool:
    largest = max(sizes, key=lambda name: sizes[name], default=None)
    if largest is not None and sizes[largest] > MAX_TENSOR_ELEMENTS:
        problems.refuse(
            f"'{largest}' holds {sizes[largest]} values; the limit is {MAX_TENSOR_ELEMENTS}", SAFETENSORS_RECIPE
        )
        return False
    if sum(sizes.values()) > MAX_PARAMETERS:
        problems.refuse(
            f"the file holds {sum(sizes.values())} values; the limit is {MAX_PARAMETERS}", SAFETENSORS_RECIPE
        )
        return False
    return True


def _without_prefix(tensors: dict[str, Tensor], inferred: dict[str, str]) -> dict[str, Tensor]:
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in tensors):
            inferred["prefix"] = f"'{prefix}' was taken off every name"
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def head_classes(architecture: str, tensors: dict[str, Tensor], channels: int) -> int | None:
    """The class count the weights were made for: the size of what grows with it in the architecture, if found."""
    with torch.device("meta"):
        few, more = (
            {
                k: v.shape
                for k, v in build_architecture(architecture, n_classes=n, channels=channels).state_dict().items()
            }
            for n in (3, 5)
        )
    found = set()
    for name, shape in few.items():
        for axis, (a, b) in enumerate(zip(shape, more[name], strict=True)):
            if a != b and name in tensors and tensors[name].ndim > axis:
                found.add(int(tensors[name].shape[axis]))
    return found.pop() if len(found) == 1 else None


def build_with_weights(
    architecture: str, tensors: dict[str, Tensor], *, n_classes: int, channels: int, problems: Problems
) -> nn.Module | None:
    """The architecture with these weights in single precision; None when names or shapes do not match."""
    with torch.device("meta"):
        skeleton = build_architecture(architecture, n_classes=n_classes, channels=channels)
    wanted = skeleton.state_dict()
    optional = {name for name in wanted if name.endswith("num_batches_tracked")}
    missing = [name for name in wanted if name not in tensors and name not in optional]
    unexpected = [name for name in tensors if name not in wanted]
    shapes = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    for what, names in (("lack", missing), ("have the unexpected", unexpected), ("have another shape for", shapes)):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            problems.add(f"the weights {what} {', '.join(names[:_SHOWN])}{more} (architecture '{architecture}')")
    if missing or unexpected or shapes:
        return None
    module = build_architecture(architecture, n_classes=n_classes, channels=channels)
    own = module.state_dict()
    own.update({name: tensors[name].to(own[name].dtype) for name in own if name in tensors})
    module.load_state_dict(own)  # what `state_dict` gave: it also says which version of a layer the values are of
    return module.eval()


def _product(shape: list[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _global(error: Exception) -> str:
    """The class a refused pickle asked for, when torch names it."""
    for line in str(error).splitlines():
        if "GLOBAL" in line or "Unsupported" in line:
            return line.strip()[:200]
    return _line(error)


def _line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
