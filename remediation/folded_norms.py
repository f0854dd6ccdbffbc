"""Batch norms that an exporter folded into convolutions: put back for training, folded again afterwards.

A convolution without its norm trains badly, and most exporters fold norms by default. Folded: y = W' x + b' with
W' = W * scale / sqrt(var + eps) per output filter and b' = offset - mean * scale / sqrt(var + eps).
"""

from __future__ import annotations

import torch
from torch import nn

from auditor.targets.onnx_graph import GraphModule


class NormedConv(nn.Sequential):
    """A convolution without bias (at `[0]`) and its batch norm (at `[1]`), in the place of a convolution with bias."""


def unfold_norms(module: GraphModule) -> tuple[str, ...]:
    """Give every convolution that holds a folded norm its norm back, in place; returns their paths.

    A convolution holds one when it has a bias that is no parameter of the original network: exporters keep the pair of
    names `X.weight` and `X.bias` where the network had both, and make a name up for a bias that folding created. A
    graph that has batch norms of its own was exported without folding and is left alone. The function computed does not
    change: the norm starts with mean 0, variance 1, scale 1 and the old bias as its offset.
    """
    if any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules()):
        return ()
    values = {binding.parameter: binding.value for binding in module.bindings}
    paths = [
        path
        for path, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d)
        and layer.bias is not None
        and _made_up(values.get(f"{path}.weight", ""), values.get(f"{path}.bias", ""))
    ]
    for path in paths:
        conv = module.get_submodule(path)
        assert isinstance(conv, nn.Conv2d)  # noqa: S101 - selected above
        _put(module, path, _with_norm(conv))
    return tuple(paths)


def _made_up(weight: str, bias: str) -> bool:
    stem, _, leaf = weight.rpartition(".")
    return not (leaf == "weight" and bias == f"{stem}.bias")


@torch.no_grad()
def fold_norms(module: nn.Module) -> None:
    """Undo `unfold_norms`: fold every norm it put back into its convolution, with the statistics it has now."""
    for path, layer in list(module.named_modules()):
        if isinstance(layer, NormedConv):
            conv, norm = layer[0], layer[1]
            assert isinstance(conv, nn.Conv2d)  # noqa: S101 - built so
            assert isinstance(norm, nn.BatchNorm2d)  # noqa: S101 - built so
            assert norm.running_mean is not None  # noqa: S101 - built so
            assert norm.running_var is not None  # noqa: S101 - built so
            factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            folded = _like(conv, bias=True)
            folded.weight.copy_(conv.weight.double() * factor.view(-1, 1, 1, 1))
            assert folded.bias is not None  # noqa: S101 - just asked for
            folded.bias.copy_(norm.bias.double() - norm.running_mean.double() * factor)
            _put(module, path, folded)


@torch.no_grad()
def _with_norm(conv: nn.Conv2d) -> NormedConv:
    norm = nn.BatchNorm2d(conv.out_channels)
    bare = _like(conv, bias=False)
    bare.weight.copy_(conv.weight * (1 + norm.eps) ** 0.5)
    assert conv.bias is not None  # noqa: S101 - selected for having one
    norm.bias.copy_(conv.bias)
    return NormedConv(bare, norm.eval())


def _like(conv: nn.Conv2d, *, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        conv.dilation,  # type: ignore[arg-type]
        conv.groups,
        bias=bias,
        device=conv.weight.device,
    ).train(conv.training)


def _put(module: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    module.get_submodule(parent)._modules[leaf] = layer
