"""What a repair may start from: public weights, proved to be loaded, trained, and not the submission's own.

Transfer learning protects only if the frozen layers never saw private data. Freezing layers of a model that was already
trained on it changes nothing: their values hold private gradients. So a start is refused when a frozen layer is the
submission's own, when a name is missing, or when a layer still has its random initial values (published code has
frozen a randomly initialised backbone because a name in a list did not match).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from auditor.contracts.submission import ModelFormat, TargetCard
from auditor.errors import InvalidInput
from auditor.fisher.units import Unit
from auditor.loading.onnx_file import read_onnx
from auditor.loading.problems import Problems
from auditor.loading.weights_file import read_weights
from auditor.targets.onnx_graph import parse_graph

_MIN_FAN_IN = 8
"""Smaller filters can be parallel by chance, so they prove nothing."""
_WIDE_FAN_IN = 27
_PARALLEL = 0.95
"""Cosine from which two filters in one place are one that was trained on; independent ones of wide fan-in never are."""
_SHARED_FRAC = {True: 0.1, False: 0.5}
"""Share of such filters that makes a layer the submission's, by whether the fan-in is wide."""

IN_PLACE = (
    "These layers come from the submitted model itself. They were trained on the private data, so freezing them, or "
    "training on from them, would keep what they learned about it: a repair must restart from weights that never saw "
    "it."
)
IN_PLACE_REMEDY = (
    "Give weights trained on public data only, or leave `--weights` out so that the repair pre-trains on the public "
    "data. If the submission was itself fine-tuned from these public weights, say so with `weights_are_public: true`."
)


def load_public_weights(module: nn.Module, weights: Mapping[str, Tensor], head: Sequence[str]) -> None:
    """Copy `weights` into `module`, all but the head.

    Args:
        module: freshly initialised.
        weights: named tensors of the public model.
        head: names of the head's parameters; the file may hold them in any shape, or not at all.

    Raises:
        InvalidInput: names missing or unexpected, or shapes that differ, beyond the head; all listed.
    """
    own = module.state_dict()
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in weights and name not in head and name not in optional]
    unexpected = [name for name in weights if name not in own and name not in head]
    shapes = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in weights and name not in head and weights[name].shape != own[name].shape
    ]
    problems = [
        f"the public weights {what} {', '.join(names[:20])}"
        for what, names in (("lack", missing), ("have the unexpected", unexpected), ("have another shape for", shapes))
        if names
    ]
    if problems:
        raise InvalidInput(problems, remedy="Give weights of the same architecture; only the head may differ.")
    own.update({name: weights[name] for name in own if name in weights and name not in head})
    module.load_state_dict(own)  # what `state_dict` gave: it also says which version of a layer the values are of


def check_trained(module: nn.Module, fresh: Mapping[str, Tensor], frozen: Sequence[Unit]) -> None:
    """Refuse frozen layers that still have random initial values.

    Args:
        module: with the starting weights.
        fresh: the same network's state before anything was loaded or trained.
        frozen: units that will be frozen.

    Raises:
        InvalidInput: the layers, by name.
    """
    state, untouched = module.state_dict(), []
    for unit in frozen:
        weights = [name for name in unit.parameters if state[name].ndim >= 2]
        untouched += [name for name in weights if torch.equal(state[name].cpu(), fresh[name].cpu())]
        untouched += [path for path in unit.modules if _pristine(module.get_submodule(path))]
    if untouched:
        raise InvalidInput(
            f"layers to be frozen still have their random initial values: {', '.join(untouched[:10])}",
            remedy="Give weights that hold every layer but the head, or pre-train on public data.",
        )


def _pristine(module: nn.Module) -> bool:
    """A batch norm that never saw a batch, or another norm that no step has moved."""
    if isinstance(module, nn.LayerNorm | nn.GroupNorm) and module.weight is not None:
        untouched = bool((module.weight == 1).all())
        return untouched and (module.bias is None or not bool(module.bias.any()))
    if not isinstance(module, _BatchNorm) or module.running_mean is None or module.running_var is None:
        return False
    scale = module.weight
    return (
        not bool(module.running_mean.any())
        and bool((module.running_var == 1).all())
        and (scale is None or bool((scale == 1).all()))
    )


def submitted_weights(path: Path, card: TargetCard) -> list[Tensor]:
    """Every matrix and filter bank in the submitted file, matrices also transposed: exporters store them either way."""
    if card.format is ModelFormat.ONNX:
        graph = parse_graph(read_onnx(path, card.input, card.n_classes).model)
        tensors = [torch.from_numpy(array.copy()) for array in graph.constants.values() if array.dtype.kind == "f"]
    else:
        problems = Problems()
        tensors = list((read_weights(path, card.format, problems, {}) or {}).values())
        problems.raise_any()
    weights = [tensor for tensor in tensors if tensor.ndim >= 2]
    return weights + [tensor.T for tensor in weights if tensor.ndim == 2]


def check_not_in_place(module: nn.Module, submitted: Sequence[Tensor], units: Iterable[Unit]) -> None:
    """Refuse layers that are the submission's own, also when its norms were folded in or they were trained on a little.

    Args:
        module: with the starting weights.
        submitted: from `submitted_weights`.
        units: what is looked at: all that comes from the starting weights.

    Raises:
        InvalidInput: with the explanation, naming the layers.
    """
    if shared := shared_layers(module, submitted, units):
        raise InvalidInput(f"{IN_PLACE} ({', '.join(shared[:10])})", remedy=IN_PLACE_REMEDY)


def check_not_submission(weights: Mapping[str, Tensor], submitted: Sequence[Tensor], head: Sequence[str]) -> None:
    """Refuse a file that holds the submission's own classifier: it is the submission, whatever is stated of it.

    Args:
        weights: named tensors of the file.
        submitted: from `submitted_weights`.
        head: names of the head's parameters.

    Raises:
        InvalidInput: it does.
    """
    own = [name for name in head if name in weights and any(_same_filters(weights[name], w) for w in submitted)]
    if own:
        raise InvalidInput(
            f"the weights hold the submission's own classifier ({', '.join(own)}): they are the submission itself, so "
            "that nothing in it would be private",
            remedy="Give the weights that the submission was fine-tuned from, before it saw the private images.",
        )


def shared_layers(module: nn.Module, submitted: Sequence[Tensor], units: Iterable[Unit]) -> list[str]:
    """Names of weights of `units` that the submission has too.

    Two weights are taken for one when a share of their output filters is nearly parallel, place by place: folding
    scales filters, further training turns them a little, and single ones can be drawn anew.
    """
    state = {name: value.detach().cpu() for name, value in module.named_parameters()}
    return [
        name
        for unit in units
        for name in unit.parameters
        if state[name].ndim >= 2 and any(_same_filters(state[name], other) for other in submitted)
    ]


def _same_filters(a: Tensor, b: Tensor) -> bool:
    if a.ndim < 2 or a.shape != b.shape or a[0].numel() < _MIN_FAN_IN:
        return False
    rows_a, rows_b = a.flatten(1).double(), b.flatten(1).double()
    norms = rows_a.norm(dim=1) * rows_b.norm(dim=1)
    live = norms > 0
    cosine = (rows_a * rows_b).sum(dim=1)[live] / norms[live]
    wanted = _SHARED_FRAC[a[0].numel() >= _WIDE_FAN_IN] * len(cosine)
    return bool(live.any()) and float((cosine.abs() > _PARALLEL).sum()) >= max(1.0, wanted)
