"""Which network a repair trains, and how the result is written back in the format it came in.

Bare weights: the architecture of the allow-list. ONNX: the same when the manifest names one, else the submitted graph
itself, through the auditor's interpreter; norms that the exporter folded into convolutions are put back for training
and folded again before writing.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import save_file
from torch import nn

from auditor.contracts.access import Access
from auditor.contracts.manifest import Manifest
from auditor.contracts.submission import ModelFormat, TargetCard
from auditor.errors import InvalidInput, UnsupportedModel
from auditor.loading.inspection import interpreted, settle_output
from auditor.loading.onnx_export import export_onnx
from auditor.loading.onnx_file import read_onnx
from auditor.loading.problems import Problems
from auditor.loading.weights_file import read_weights
from auditor.targets.architectures import build_architecture
from auditor.targets.onnx_graph import GraphModule
from auditor.tensors import RunContext
from remediation.folded_norms import fold_norms, unfold_norms
from remediation.graph_file import write_graph
from remediation.reinitialise import reinitialise

SUBMITTED_GRAPH = "submitted graph"


class ModelSource(Protocol):
    """A network that can be built afresh and written out."""

    description: str
    """Architecture name, or `submitted graph`."""

    def fresh(self, ctx: RunContext) -> nn.Module:
        """Randomly initialised, with the private number of outputs; the same every time for one seed."""
        ...

    def submitted(self) -> nn.Module:
        """The submission itself, ready to be trained further."""
        ...

    def write(self, module: nn.Module, path: Path) -> None:
        """Write a trained network in the submitted format; the network itself is not changed.

        One that is built otherwise than the submission cannot be told by its weights alone, and becomes an ONNX file.
        """
        ...


def pick_source(path: Path, card: TargetCard, manifest: Manifest, *, fresh: bool = True) -> ModelSource:
    """The network to train for the submission at `path`.

    Args:
        path: the submitted file.
        card: the submission.
        manifest: as submitted.
        fresh: whether training starts again; what goes on from an ONNX file goes on with its own graph.

    Raises:
        UnsupportedModel: a graph that cannot be differentiated, and no architecture named.
    """
    if manifest.model.architecture is not None and (fresh or card.format is not ModelFormat.ONNX):
        return ArchitectureSource(manifest.model.architecture, path, card)
    if card.format is not ModelFormat.ONNX:
        raise InvalidInput("bare weights need `model.architecture` in the manifest")
    if Access.WHITE_BOX not in card.access:
        raise UnsupportedModel(
            "the submitted graph cannot be differentiated, so it cannot be retrained",
            remedy="Name the architecture in the manifest (`model.architecture`), so that the repair can build it.",
        )
    return GraphSource(path, card)


class ArchitectureSource:
    """A network of the allow-list.

    Args:
        architecture: its name.
        path: the submitted file.
        card: the submission; says format, input and class count.
    """

    def __init__(self, architecture: str, path: Path, card: TargetCard) -> None:
        self.description = architecture
        self._path, self._card = path, card

    def fresh(self, ctx: RunContext) -> nn.Module:
        """Initialised by the architecture's own constructor."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ctx.rng("repair", "initial", self.description).initial_seed())
            return self._blank()

    def _blank(self) -> nn.Module:
        return build_architecture(self.description, n_classes=self._card.n_classes, channels=self._card.input.channels)

    def submitted(self) -> nn.Module:
        """With the weights of the submitted file."""
        problems = Problems()
        weights = read_weights(self._path, self._card.format, problems, {})
        problems.raise_any()
        module = self._blank()
        state = module.state_dict()
        state.update(weights or {})
        module.load_state_dict(state)
        return module

    def write(self, module: nn.Module, path: Path) -> None:
        """As ONNX, safetensors or a state dict."""
        if self._card.format is ModelFormat.ONNX or not same_build(module, self._blank()):
            export_onnx(module, self._card.input, path, n_classes=self._card.n_classes)
            return
        state = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
        if self._card.format is ModelFormat.SAFETENSORS:
            save_file(state, path)
        else:
            torch.save(state, path)


class GraphSource:
    """The submitted ONNX graph itself.

    Args:
        path: the submitted file.
        card: says how it is read.
    """

    description = SUBMITTED_GRAPH

    def __init__(self, path: Path, card: TargetCard) -> None:
        self._card = card
        self._file = read_onnx(path, card.input, card.n_classes)

    def submitted(self) -> GraphModule:
        """Interpreted as it is: a norm that was folded into a convolution stays there."""
        module, unsupported = interpreted(self._file)
        if module is None:
            raise UnsupportedModel(f"the submitted graph cannot be retrained: {', '.join(unsupported)}")
        settle_output(module, self._card.output)
        return module

    def fresh(self, ctx: RunContext) -> GraphModule:
        """Interpreted, with its norms put back and every weight drawn afresh."""
        module = self.submitted()
        unfold_norms(module)
        reinitialise(module, ctx.rng("repair", "initial", self.description))
        return module

    def write(self, module: nn.Module, path: Path) -> None:
        """The same graph with other numbers."""
        if not self._same_graph(module):
            export_onnx(module, self._card.input, path, n_classes=self._card.n_classes)
            return
        folded = copy.deepcopy(module).cpu()
        if not isinstance(folded, GraphModule):
            raise TypeError("only an interpreted graph can be written back")
        fold_norms(folded)
        write_graph(folded, self._file.model, path)

    def _same_graph(self, module: nn.Module) -> bool:
        """Whether `module` is the submitted graph, with or without its norms put back."""
        plain = self.submitted()
        unfolded = copy.deepcopy(plain)
        unfold_norms(unfolded)
        return isinstance(module, GraphModule) and any(same_build(module, other) for other in (plain, unfolded))


def same_build(a: nn.Module, b: nn.Module) -> bool:
    """Whether two networks have the same modules in the same places, and weights of the same names and shapes."""
    kinds = [[(path, type(module)) for path, module in network.named_modules()] for network in (a, b)]
    shapes = [{name: value.shape for name, value in network.state_dict().items()} for network in (a, b)]
    return kinds[0] == kinds[1] and shapes[0] == shapes[1]
