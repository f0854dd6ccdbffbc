"""ONNX graphs as differentiable torch modules: our own interpreter, one table of operators per node family."""

from auditor.targets.onnx_graph.build import interpret
from auditor.targets.onnx_graph.graph import parse_graph
from auditor.targets.onnx_graph.module import Binding, GraphModule, Layout
from auditor.targets.onnx_graph.table import unsupported_operators

__all__ = ["Binding", "GraphModule", "Layout", "interpret", "parse_graph", "unsupported_operators"]
