"""Skip connections of a residual network: finding those of the last stage, and scaling them.

A stage begins with a block whose skip has a convolution of its own and goes on with blocks that pass their input on as
it is. In networks of the allow-list the skip is a named part of the block; in an interpreted ONNX graph it is the input
of an addition with fewer convolutions behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from auditor.targets.onnx_graph import GraphModule
from auditor.targets.onnx_graph.module import Program, Source, Step

_SHORTCUTS = {
    "auditor.targets.architectures._Residual": "shortcut",
    "torchvision.models.resnet.BasicBlock": "downsample",
    "torchvision.models.resnet.Bottleneck": "downsample",
    "torchvision.models.regnet.ResBottleneckBlock": "proj",
}
"""Blocks that compute F(x) + shortcut(x), and what they call the shortcut; None or an identity passes x on."""
_SUMS, _CONVOLUTIONS = frozenset({"Add", "Sum"}), frozenset({"Conv", "ConvTranspose"})


class Scale(nn.Module):
    """Multiplies by a constant that is no parameter."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x * self.factor


def last_stage(module: nn.Module) -> tuple[str, ...]:
    """The blocks of the last stage whose skips can be scaled, first to last; empty: none are known."""
    if isinstance(module, GraphModule):
        return tuple(module.program.steps[joint.step].node for joint in _last_joints(module.program))
    paths = [path for path, block in module.named_modules() if _attribute(block)]
    found: list[str] = []
    for path in reversed(paths):
        found.append(path)
        if _projection(module.get_submodule(path)) is not None:
            break
    return tuple(reversed(found))


def scale_last_stage(module: nn.Module, factor: float) -> tuple[str, ...]:
    """Multiply what the skips of the last stage carry by `factor`, in place; returns their blocks.

    No parameter or buffer gets another name. The network is told from an unscaled one by its `Scale` modules.
    """
    blocks = last_stage(module)
    if isinstance(module, GraphModule):
        _scale_graph(module, factor)
        return blocks
    for path in blocks:
        block = module.get_submodule(path)
        projection = _projection(block)
        if isinstance(projection, nn.Sequential):
            projection.append(Scale(factor))
        else:
            setattr(block, _attribute(block), Scale(factor))
    return blocks


def _attribute(block: nn.Module) -> str:
    return _SHORTCUTS.get(f"{type(block).__module__}.{type(block).__qualname__}", "")


def _projection(block: nn.Module) -> nn.Module | None:
    """The shortcut's own layers; all known blocks keep them in a sequence."""
    shortcut = getattr(block, _attribute(block))
    return shortcut if isinstance(shortcut, nn.Sequential) else None


@dataclass(frozen=True)
class _Joint:
    """An addition that ends a residual block.

    Attributes:
        step: its index.
        position: which of its inputs is the skip.
        entry: convolutions behind the skip.
        depth: convolutions behind the sum.
        projects: the skip is computed, and not an input of the other branch.
    """

    step: int
    position: int
    entry: int
    depth: int
    projects: bool


def _last_joints(program: Program) -> list[_Joint]:
    """From the last one back to one whose skip projects, or to where blocks no longer follow upon each other."""
    stage: list[_Joint] = []
    for joint in reversed(_joints(program)):
        if stage and (stage[-1].projects or joint.depth != stage[-1].entry):
            break
        stage.append(joint)
    return stage[::-1]


def _joints(program: Program) -> list[_Joint]:
    """Every sum of two values with different numbers of convolutions behind them, in order."""
    depth, sources, joints = {program.entry: 0}, dict[int, list[int]](), []
    for index, step in enumerate(program.steps):
        read = _read(step)
        reached = max((depth.get(slot, 0) for slot in read), default=0)
        if step.op in _SUMS and step.layer == () and len(step.args) == len(read) == 2:
            depths = [depth.get(slot, 0) for slot in read]
            if depths[0] != depths[1]:
                position = depths.index(min(depths))
                projects = not _behind(read[1 - position], read[position], sources)
                joints.append(_Joint(index, position, depths[position], reached, projects))
        for slot in step.outputs:
            depth[slot] = reached + (step.op in _CONVOLUTIONS)
            sources[slot] = read
    return joints


def _read(step: Step) -> list[int]:
    return [key for source, key in step.args if source == Source.SLOT]


def _behind(slot: int, wanted: int, sources: dict[int, list[int]]) -> bool:
    """Whether `slot` was computed from `wanted`."""
    pending, seen = [slot], set[int]()
    while pending:
        current = pending.pop()
        if current == wanted:
            return True
        if current not in seen:
            seen.add(current)
            pending += sources.get(current, [])
    return False


def _scale_graph(module: GraphModule, factor: float) -> None:
    """Put a `Scale` before one input of every sum of the last stage."""
    program = module.program
    steps, n_slots = list(program.steps), program.n_slots
    for number, joint in reversed(list(enumerate(_last_joints(program)))):
        name = f"skip_scale_{number}"
        module.add_module(name, Scale(factor))
        steps[joint.step : joint.step + 1] = _scaled(steps[joint.step], joint.position, name, n_slots)
        n_slots += 1
    module.program = replace(program, steps=tuple(steps), n_slots=n_slots)


def _scaled(step: Step, position: int, name: str, slot: int) -> Sequence[Step]:
    """The sum with what it reads at `position` passed through the module `name` into `slot` first."""
    skip = Step("Mul", f"{step.node}__{name}", None, (name,), (step.args[position],), (slot,), ())
    args = (*step.args[:position], (Source.SLOT, slot), *step.args[position + 1 :])
    return (skip, replace(step, args=args, free=(*step.free, slot)))
