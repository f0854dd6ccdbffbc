"""Fresh random weights for a graph whose constructor is not known: by kind of layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from auditor.errors import UnsupportedModel
from auditor.targets.onnx_graph import GraphModule

_SCALES = frozenset({"Mul", "InstanceNormalization", "GroupNormalization", "RMSNormalization", "LayerNormalization"})
_OFFSETS = frozenset({"Add", "Concat", "Expand"})
_PRODUCTS = frozenset({"Gemm", "MatMul", "Einsum", "Conv", "ConvTranspose"})
_EMBEDDING_STD = 0.02
_PRELU_SLOPE = 0.25


@torch.no_grad()
def reinitialise(module: GraphModule, generator: torch.Generator) -> None:
    """Give every parameter of an interpreted graph a fresh value, in place.

    Convolutions and matrices: normal with variance 2/fan-in (He et al., ICCV 2015, arXiv 1502.01852), biases 0. Norms:
    scale 1, offset 0, statistics reset. Position embeddings and class tokens: normal with deviation 0.02.

    Raises:
        UnsupportedModel: a parameter of a node for which no rule is known.
    """
    done: set[int] = set()
    for layer in module.modules():
        own = dict(layer.named_parameters(recurse=False))
        if not own:
            continue
        if isinstance(layer, _BatchNorm):
            layer.reset_running_stats()
        if isinstance(layer, (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.PReLU)):
            layer.reset_parameters()
            done |= {id(value) for value in own.values()}
        elif isinstance(layer, (nn.Linear, _ConvNd)):
            for name, value in own.items():
                _fill(value, generator, "product" if name == "weight" else "offset")
                done.add(id(value))
    operators = {step.node: step.op for step in module.program.steps}
    parameters = dict(module.named_parameters())
    for binding in module.bindings:
        held = parameters.get(binding.parameter)
        rule = _rule(operators.get(binding.node, ""), binding.position)
        if held is not None and id(held) not in done and rule is not None:
            _fill(held, generator, rule)
            done.add(id(held))
    unknown = [name for name, value in parameters.items() if id(value) not in done]
    if unknown:
        raise UnsupportedModel(
            f"the graph cannot be trained from scratch: it is not known how {', '.join(unknown[:10])} should start",
            remedy="Name the architecture in the manifest (`model.architecture`), so that the repair can build it.",
        )


def _rule(operator: str, position: int) -> str | None:
    if operator in _PRODUCTS:
        return "product" if position in (0, 1) else "offset"
    if operator in _SCALES:
        return "scale" if operator == "Mul" or position == 1 else "offset"
    if operator in _OFFSETS:
        return "embedding"
    return "slope" if operator == "PRelu" else None


def _fill(value: Tensor, generator: torch.Generator, rule: str) -> None:
    if rule == "product":
        fan_in = max(1, value[0].numel())
        value.copy_(torch.randn(value.shape, generator=generator) * math.sqrt(2 / fan_in))
    elif rule == "embedding" and value.squeeze().ndim >= 2:
        value.copy_(torch.randn(value.shape, generator=generator) * _EMBEDDING_STD)
    else:
        value.fill_({"scale": 1.0, "slope": _PRELU_SLOPE}.get(rule, 0.0))
