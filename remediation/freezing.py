"""Freezing by parameter name, in whole execution-ordered units, with a proof that nothing frozen moved.

Freezing is a list of names because every other way has failed somewhere: an index that freezes one block more than the
documentation says, a misspelt `requires_grad` that Python accepts, a batch norm whose statistics keep moving under
`train()`. Boundary k freezes units[:k], 0 <= k <= U-1: the last unit, the head, is never frozen, 0 trains everything,
and no value means anything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from auditor.contracts.repair import FreezePlan, NormMode
from auditor.errors import AuditorError, InvalidInput
from auditor.fisher.units import Unit
from auditor.loading.digests import tensors_digest


class FrozenStateMoved(AuditorError):
    """A parameter or buffer that a freeze plan holds fixed has changed; the repair is worthless and nothing is kept."""

    code = "frozen_state_moved"


def freeze_plan(units: Sequence[Unit], boundary: int, norm_mode: NormMode) -> FreezePlan:
    """The plan that freezes `units[:boundary]`.

    Raises:
        InvalidInput: the boundary is outside 0..U-1.
    """
    if not 0 <= boundary <= len(units) - 1:
        raise InvalidInput(
            f"boundary {boundary} is outside 0..{len(units) - 1}: the network has {len(units)} units and its head is "
            "always trained"
        )
    frozen, tuned = units[:boundary], units[boundary:]
    return FreezePlan(
        boundary=boundary,
        n_units=len(units),
        units=tuple(unit.name for unit in frozen),
        parameters=tuple(name for unit in frozen for name in unit.parameters),
        buffers=tuple(name for unit in frozen for name in unit.buffers),
        modules=tuple(path for unit in frozen for path in unit.modules),
        norm_mode=norm_mode,
        tuned_parameters=sum(unit.n_parameters for unit in tuned),
        total_parameters=sum(unit.n_parameters for unit in units),
    )


def apply(module: nn.Module, plan: FreezePlan) -> None:
    """Set `requires_grad` on every parameter: False for those of the plan, True for the others.

    Raises:
        InvalidInput: the plan names something the module does not have.
    """
    parameters = dict(module.named_parameters())
    _require(plan.parameters, parameters, "parameters")
    _require(plan.buffers, dict(module.named_buffers()), "buffers")
    _require(plan.modules, dict(module.named_modules()), "modules")
    frozen = set(plan.parameters)
    for name, parameter in parameters.items():
        parameter.requires_grad_(name not in frozen)


def set_mode(module: nn.Module, plan: FreezePlan) -> None:
    """Training mode for `module`, evaluation mode for what the plan froze (norms, dropout), unless it says `reference`.

    To be called wherever `module.train()` would be.
    """
    module.train()
    if plan.norm_mode is not NormMode.REFERENCE:
        for path in plan.modules:
            module.get_submodule(path).eval()


@dataclass(frozen=True)
class Seal:
    """Digests taken before training, to be compared afterwards."""

    parameters: str
    state: str
    """Parameters and buffers."""


def frozen_digest(module: nn.Module, plan: FreezePlan) -> str:
    """sha256 over the names, types, shapes and bytes of the frozen parameters and buffers, in name order."""
    return _digest(module, (*plan.parameters, *plan.buffers))


def seal(module: nn.Module, plan: FreezePlan) -> Seal:
    """The frozen state as it is now."""
    return Seal(_digest(module, plan.parameters), frozen_digest(module, plan))


def proven(module: nn.Module, plan: FreezePlan, before: Seal) -> FreezePlan:
    """The plan with its proof: digests of the frozen state before and after training.

    In `reference` mode the statistics take up private data by design: the digests differ and show it, but the
    parameters must not have moved all the same.

    Raises:
        FrozenStateMoved: something moved that should not have.
    """
    after = seal(module, plan)
    moved = after.parameters != before.parameters
    if moved or (after.state != before.state and plan.norm_mode is not NormMode.REFERENCE):
        what = "parameters" if moved else "statistics"
        raise FrozenStateMoved(f"{what} of the first {plan.boundary} units changed during training")
    return plan.model_copy(update={"digest_before": before.state, "digest_after": after.state})


@torch.no_grad()
def recalibrate_norms(module: nn.Module, plan: FreezePlan, inputs: Iterable[Tensor]) -> None:
    """Re-estimate the batch-norm statistics of the frozen units in one pass over public images, all batches alike.

    Args:
        module: left in evaluation mode.
        plan: only norms among its modules are touched.
        inputs: batches of raw model input; never private images.
    """
    module.eval()
    norms = [m for m in (module.get_submodule(path) for path in plan.modules) if isinstance(m, _BatchNorm)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for batch in inputs:
        module(batch)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
        norm.eval()


def _require(names: Sequence[str], known: Mapping[str, object], what: str) -> None:
    missing = [name for name in names if name not in known]
    if missing:
        raise InvalidInput(f"the freeze plan names {what} that this network does not have: {', '.join(missing[:10])}")


def _digest(module: nn.Module, names: Iterable[str]) -> str:
    state: dict[str, Tensor] = dict(module.named_parameters()) | dict(module.named_buffers())
    return tensors_digest({name: state[name] for name in sorted(names)})
