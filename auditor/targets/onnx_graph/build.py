"""From a ModelProto to a `GraphModule`: trace the shapes on the meta device, fold constants, then hand out weights."""

from __future__ import annotations

from typing import Any

import onnx
from torch import nn

from auditor.contracts.submission import Output
from auditor.errors import UnsupportedModel
from auditor.targets.onnx_graph.batch_values import settle_host_values
from auditor.targets.onnx_graph.fusing import fuse_gelu
from auditor.targets.onnx_graph.graph import Graph, Node, inline_functions, parse_graph
from auditor.targets.onnx_graph.head import reveal_logits
from auditor.targets.onnx_graph.module import GraphModule, Layout, Program, Source, Step
from auditor.targets.onnx_graph.table import unsupported_operators
from auditor.targets.onnx_graph.trace import PROBES, Record, Tracer
from auditor.targets.onnx_graph.weights import PathNames, with_weights


def interpret(
    model: onnx.ModelProto,
    row_shape: tuple[int, ...],
    *,
    classifier: bool = True,
    output: str | None = None,
    layout: Layout = Layout.CHANNELS_FIRST,
) -> GraphModule:
    """Turn `model` into a differentiable module; no weight is copied before all shapes are known.

    Args:
        model: checked by the caller for size, domains and external data.
        row_shape: input shape without the batch axis, as the graph reads it.
        classifier: look for a final softmax or sigmoid and read the scores before it; give (B, K).
        output: name of the graph output to keep; default the first.
        layout: how the graph reads images; the module takes (B, C, H, W) whatever it is.

    Raises:
        UnsupportedModel: operators or forms of operators that cannot be interpreted, all operator names together.
    """
    missing = unsupported_operators(model)
    if missing:
        raise UnsupportedModel(f"operators that cannot be differentiated: {', '.join(missing)}")
    graph = parse_graph(inline_functions(model))
    wanted = output or graph.outputs[0].name
    nodes = _needed(fuse_gelu(graph.nodes, graph.constants), wanted)
    kind = Output.LOGITS
    notes: tuple[str, ...] = ()
    if classifier:
        nodes, kind, notes = reveal_logits(nodes, wanted)
    declared = (graph.inputs[0].dims or (None,))[0]
    tracer, fixed = _trace(graph, nodes, wanted, row_shape, declared)
    if fixed is not None:
        notes = (*notes, f"the graph is written for batches of {fixed}; larger ones run in pieces, which is slower")
    return _assemble(tracer, wanted, row_shape, fixed, kind, classifier, layout, notes)


def _needed(nodes: tuple[Node, ...], output: str) -> tuple[Node, ...]:
    """The nodes `output` depends on, in order."""
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    return tuple(reversed(kept))


def _trace(
    graph: Graph, nodes: tuple[Node, ...], output: str, row_shape: tuple[int, ...], declared: int | None
) -> tuple[Tracer, int | None]:
    """Trace at several batch sizes; a graph written for one batch size only is traced at that one."""
    attempts: list[tuple[tuple[int, ...], int | None]] = [(PROBES, None)]
    if declared is not None:
        attempts += [(PROBES, declared), ((declared,), None)]
    problem: UnsupportedModel | None = None
    for sizes, rewritten in attempts:
        try:
            tracer = Tracer(graph, nodes, output, row_shape, rewrite_batch=rewritten)
            for size in sizes:
                tracer.run(size)
            return tracer, (sizes[0] if len(sizes) == 1 else None)
        except UnsupportedModel as error:
            problem = problem or error
    raise problem or UnsupportedModel("the graph could not be traced")


def _assemble(
    tracer: Tracer,
    output: str,
    row_shape: tuple[int, ...],
    fixed: int | None,
    kind: Output,
    classifier: bool,
    layout: Layout,
    notes: tuple[str, ...],
) -> GraphModule:
    records, lines = settle_host_values(tracer)
    slots = {tracer.graph.inputs[0].name: 0}
    host = {name: index for index, name in enumerate(lines)}
    names = PathNames()
    layers: list[tuple[tuple[str, ...], Record, nn.Module]] = []
    steps: list[Step] = []
    last_use = _last_uses(records, output)
    for index, record in enumerate(records):
        path: tuple[str, ...] = ()
        if record.layer is not None:
            path = names.fresh(record)
            layers.append((path, record, record.layer))
        args = tuple(_argument(ref, slots, host) for ref in record.args)
        for name in record.outputs:
            if name:
                slots.setdefault(name, len(slots))
        steps.append(
            Step(
                op=record.node.op,
                node=record.identity,
                kernel=record.kernel,
                layer=path,
                args=args,
                outputs=tuple(slots[name] if name in last_use else -1 for name in record.outputs),
                free=tuple(slots[name] for name in record.reads if last_use[name] == index),
                placed=record.placed,
            )
        )
    program = Program(
        steps=tuple(steps),
        n_slots=len(slots),
        result=slots[output],
        batch_values=tuple(lines.values()),
        row_shape=row_shape,
        layout=layout,
        fixed_batch=fixed,
        output=kind,
        flatten=classifier,
        notes=notes,
    )
    return with_weights(program, layers, tracer.constants)


def _argument(ref: tuple[Source, Any], slots: dict[str, int], host: dict[str, int]) -> tuple[Source, Any]:
    source, key = ref
    if source == Source.SLOT:
        return source, slots[key]
    if source in (Source.PER_BATCH, Source.PER_BATCH_TENSOR):
        return source, host[key]
    return source, key


def _last_uses(records: list[Record], output: str) -> dict[str, int]:
    uses = {name: index for index, record in enumerate(records) for name in record.reads}
    uses[output] = -1  # never freed
    return uses
