"""Small ONNX models for tests."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn


def one_node(
    op: str,
    shape: Sequence[int | str],
    constants: Sequence[np.ndarray | None] = (),
    *,
    opset: int = 17,
    n_outputs: int = 1,
    **attributes: Any,
) -> onnx.ModelProto:
    """`x -> op(x, *constants)`; None is an omitted input."""
    names = ["" if array is None else f"c{i}" for i, array in enumerate(constants)]
    outputs = ["y", *(f"y{i}" for i in range(1, n_outputs))]
    node = helper.make_node(op, ["x", *names], outputs, name=f"the_{op}", **attributes)
    tensors = [numpy_helper.from_array(a, n) for n, a in zip(names, constants, strict=True) if a is not None]
    return model([node], shape, tensors, opset=opset)


def model(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    initialisers: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = 17,
    output: str = "y",
    output_shape: Sequence[int | str] | None = None,
    elem_type: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model from nodes; input `x` of `shape`. Without `output_shape` it is not valid, though runtimes accept it."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", elem_type, list(shape))],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, output_shape)],
        list(initialisers),
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    proto.ir_version = 8
    return proto


def exported(module: nn.Module, shape: Sequence[int], *, opset: int, dynamo: bool, dynamic: bool = True) -> bytes:
    """`module` through one of torch's two exporters; `shape` with a batch of two."""
    buffer: Any = io.BytesIO()
    example = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            batch = ({0: torch.export.Dim("batch")},) if dynamic else None
            program: Any = torch.onnx.export(
                module.eval(), (example,), dynamo=True, opset_version=opset, dynamic_shapes=batch, verbose=False
            )
            data: bytes = program.model_proto.SerializeToString()
            return data
        axes = {"input": {0: "batch"}, "output": {0: "batch"}} if dynamic else None
        torch.onnx.export(
            module.eval(),
            (example,),
            buffer,
            dynamo=False,
            opset_version=opset,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes=axes,
        )
    written: bytes = buffer.getvalue()
    return written


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in eval mode with lively norms and a lively head, so that nothing hides behind ones and zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) and part.track_running_stats:
                for statistic, spread, centre in ((part.running_mean, 0.2, -0.1), (part.running_var, 1.0, 0.5)):
                    assert statistic is not None  # noqa: S101 - tracked
                    statistic.copy_(torch.rand(statistic.shape, generator=generator) * spread + centre)
            if isinstance(part, nn.Linear) and not bool(part.weight.any()):
                part.weight.copy_(torch.randn(part.weight.shape, generator=generator) * 0.05)
    return module.eval()


def exported_inputs(
    module: nn.Module, examples: dict[str, torch.Tensor], *, opset: int = 17, dynamo: bool = False, dynamic: bool = True
) -> bytes:
    """`module` with named inputs, in the order of its arguments; the batch is free where an example has two rows."""
    free = {name: {0: "batch"} for name, value in examples.items() if dynamic and value.ndim and len(value) == 2}
    buffer: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            batch = torch.export.Dim("batch")
            shapes = tuple({0: batch} if name in free else None for name in examples)
            program: Any = torch.onnx.export(
                module.eval(),
                tuple(examples.values()),
                dynamo=True,
                opset_version=opset,
                input_names=list(examples),
                dynamic_shapes=shapes,
                verbose=False,
            )
            data: bytes = program.model_proto.SerializeToString()
            return data
        torch.onnx.export(
            module.eval(),
            tuple(examples.values()),
            buffer,
            dynamo=False,
            opset_version=opset,
            input_names=list(examples),
            output_names=["output"],
            dynamic_axes={**free, "output": {0: "batch"}} if free else None,
        )
    written: bytes = buffer.getvalue()
    return written
