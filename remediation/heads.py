"""The classification head of a network: finding it, and giving it another number of outputs."""

from __future__ import annotations

import torch
from torch import nn

from auditor.errors import UnsupportedModel
from auditor.fisher.units import Unit

_REMEDY = "Name the architecture in the manifest (`model.architecture`), so that the repair can build it."


def find_head(module: nn.Module, units: tuple[Unit, ...], n_outputs: int) -> str:
    """Path of the last linear layer or convolution of the last unit with `n_outputs` outputs.

    Raises:
        UnsupportedModel: there is none.
    """
    for path in reversed(units[-1].modules):
        layer = module.get_submodule(path)
        if (isinstance(layer, nn.Linear) and layer.out_features == n_outputs) or (
            isinstance(layer, nn.Conv2d) and layer.out_channels == n_outputs
        ):
            return path
    raise UnsupportedModel(
        f"the network's last unit '{units[-1].name}' holds no layer with {n_outputs} outputs to replace", remedy=_REMEDY
    )


def replace_head(module: nn.Module, path: str, n_outputs: int, generator: torch.Generator) -> tuple[str, ...]:
    """Put a freshly initialised layer with `n_outputs` outputs at `path`; returns its parameter names.

    The initial weights are normal with variance 1/fan-in: the head's outputs start at the scale of its features.
    """
    old = module.get_submodule(path)
    if isinstance(old, nn.Linear):
        new: nn.Linear | nn.Conv2d = nn.Linear(old.in_features, n_outputs, bias=old.bias is not None)
    elif isinstance(old, nn.Conv2d):
        new = nn.Conv2d(
            old.in_channels,
            n_outputs,
            old.kernel_size,  # type: ignore[arg-type]
            old.stride,  # type: ignore[arg-type]
            old.padding,  # type: ignore[arg-type]
            old.dilation,  # type: ignore[arg-type]
            bias=old.bias is not None,
        )
    else:
        raise UnsupportedModel(f"a {type(old).__name__} cannot be given another number of outputs", remedy=_REMEDY)
    fan_in = new.weight[0].numel()
    with torch.no_grad():
        new.weight.copy_(torch.randn(new.weight.shape, generator=generator) / fan_in**0.5)
        if new.bias is not None:
            new.bias.zero_()
    parent, _, leaf = path.rpartition(".")
    owner = module.get_submodule(parent)
    owner._modules[leaf] = new.to(old.weight.device)
    return tuple(f"{path}.{name}" for name, _ in new.named_parameters())
