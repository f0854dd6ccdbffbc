"""The classification head of a network: finding it, and giving it another number of outputs."""

from __future__ import annotations

import torch
from torch import nn

from auditor.errors import UnsupportedModel
from auditor.fisher.units import Unit

Head = nn.Linear | nn.Conv2d
"""What a head may be; a convolution gives one score per class and position, which the network then averages."""
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


def read_head(module: nn.Module, path: str) -> Head:
    """The layer at `path`.

    Raises:
        UnsupportedModel: it is neither a linear layer nor a convolution.
    """
    layer = module.get_submodule(path)
    if not isinstance(layer, (nn.Linear, nn.Conv2d)):
        raise UnsupportedModel(f"a {type(layer).__name__} cannot be given another number of outputs", remedy=_REMEDY)
    return layer


def replace_head(module: nn.Module, path: str, n_outputs: int, generator: torch.Generator) -> tuple[str, ...]:
    """Put a freshly initialised layer with `n_outputs` outputs at `path`; returns its parameter names."""
    new = fresh_layer(read_head(module, path), n_outputs, generator)
    put_layer(module, path, new)
    return tuple(f"{path}.{name}" for name, _ in new.named_parameters())


def put_layer(module: nn.Module, path: str, layer: nn.Module) -> None:
    """Put `layer` in the place of the one at `path`."""
    parent, _, leaf = path.rpartition(".")
    module.get_submodule(parent)._modules[leaf] = layer


def fresh_layer(
    like: Head, n_outputs: int, generator: torch.Generator, *, n_inputs: int | None = None, pointwise: bool = False
) -> Head:
    """A layer of the kind and on the device of `like`, freshly initialised.

    The initial weights are normal with variance 1/fan-in: the outputs start at the scale of the inputs. Biases are 0.

    Args:
        like: says kind, kernel and whether there is a bias.
        n_outputs: features or channels out.
        generator: of the initial weights; on the CPU.
        n_inputs: features or channels in; default: those of `like`.
        pointwise: a convolution gets a kernel of one pixel, and so follows one that already has the kernel of `like`.
    """
    bias = like.bias is not None
    new: Head
    if isinstance(like, nn.Linear):
        new = nn.Linear(n_inputs or like.in_features, n_outputs, bias=bias)
    elif pointwise:
        new = nn.Conv2d(n_inputs or like.in_channels, n_outputs, 1, bias=bias)
    else:
        new = nn.Conv2d(
            n_inputs or like.in_channels,
            n_outputs,
            like.kernel_size,  # type: ignore[arg-type]
            like.stride,  # type: ignore[arg-type]
            like.padding,  # type: ignore[arg-type]
            like.dilation,  # type: ignore[arg-type]
            bias=bias,
        )
    fan_in = new.weight[0].numel()
    with torch.no_grad():
        new.weight.copy_(torch.randn(new.weight.shape, generator=generator) / fan_in**0.5)
        if new.bias is not None:
            new.bias.zero_()
    return new.to(like.weight.device)


def no_two_layers(module: nn.Module, path: str) -> str:
    """Why the head cannot give way to two layers in a row of its kind; empty: it can."""
    head = read_head(module, path)
    if isinstance(head, nn.Conv2d) and (head.groups != 1 or head.padding_mode != "zeros"):
        return (
            f"its head '{path}' is a convolution in groups or with padding other than zeros, which cannot become "
            "two layers in a row. Give the network a linear head or a plain 1x1 convolution, or take another defense."
        )
    return ""
