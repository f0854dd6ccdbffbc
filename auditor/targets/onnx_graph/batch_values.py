"""Host values that depend on the batch size: most are a line in it, known ahead; the others run with the batch."""

from __future__ import annotations

import numpy as np

from auditor.errors import UnsupportedModel
from auditor.targets.onnx_graph.graph import Array
from auditor.targets.onnx_graph.module import BatchValue, Source
from auditor.targets.onnx_graph.table import OPERATORS
from auditor.targets.onnx_graph.trace import Record, Tracer


def fit_line(values: dict[int, Array]) -> BatchValue | None:
    """`offset + slope * B` for a host array traced at several batch sizes; None when it is not exactly that."""
    sizes = sorted(values)
    first = values[sizes[0]]
    if any(value.shape != first.shape for value in values.values()):
        return None
    if first.dtype == np.bool_ or len(sizes) == 1:
        constant = all(np.array_equal(value, first) for value in values.values())
        return BatchValue(first, None) if constant else None
    second = values[sizes[1]]
    slope = ((second - first) / (sizes[1] - sizes[0])).astype(first.dtype)
    line = BatchValue(first - slope * sizes[0], slope)
    return line if all(np.array_equal(line.at(size), value) for size, value in values.items()) else None


def settle_host_values(tracer: Tracer) -> tuple[list[Record], dict[str, BatchValue]]:
    """Decide which host nodes must run with the batch (an index table over the batch, say) and which are lines.

    Returns:
        The records to run, in order, and the host arrays they read.

    Raises:
        UnsupportedModel: a shape is not linear in the batch size.
    """
    producers = {name: record for record in tracer.order if record.host for name in record.outputs if name}
    lines: dict[str, BatchValue] = {}
    running = {id(record) for record in tracer.order if not record.host}
    pending = [record for record in tracer.order if not record.host]
    while pending:
        record = pending.pop()
        for position, (source, key) in enumerate(record.args):
            if source not in (Source.PER_BATCH, Source.PER_BATCH_TENSOR):
                continue
            line = lines.get(key) or fit_line(tracer.host_values(key))
            if line is not None:
                lines[key] = line
                continue
            if source == Source.PER_BATCH:
                raise UnsupportedModel(f"{record.node.op}: '{key}' is not linear in the batch size")
            record.args[position] = (Source.SLOT, key)
            producer = producers[key]
            if id(producer) not in running:
                running.add(id(producer))
                _run_with_batch(tracer, producer)
                pending.append(producer)
    return [record for record in tracer.order if id(record) in running], lines


def _run_with_batch(tracer: Tracer, record: Record) -> None:
    """Turn a host node's arguments into those of a node that runs on the device."""
    host = OPERATORS[record.node.op].host
    for position, (source, key) in enumerate(record.args):
        if position in host:
            continue
        if source == Source.PER_BATCH:
            record.args[position] = (Source.PER_BATCH_TENSOR, key)
        elif source == Source.FIXED and key is not None:
            record.args[position] = (Source.CONSTANT, tracer.buffer(f"{record.identity}_{position}", key))
    record.host = False
    record.placed = True
