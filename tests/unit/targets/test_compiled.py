"""Compiled targets: the same answers, hooks that are honoured, one graph for all batch sizes, and a way back."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
import torch
import torch._inductor.config as inductor
from safetensors.torch import save_file
from torch import Tensor, nn

from auditor.contracts.access import Access
from auditor.contracts.base import digest_of_file
from auditor.contracts.jobs import UnitSpec
from auditor.contracts.plan import AttackSpec, AuditPlan, PriorSpec
from auditor.contracts.prepared import AttackCost
from auditor.priors.catalog import PRIORS
from auditor.priors.storage import save_prior
from auditor.service.stages import attack
from auditor.service.workspace import Workspace
from auditor.targets.architectures import SmallCnn, build_architecture
from auditor.targets.compiled import CompiledTarget
from auditor.targets.onnx_graph import Layout, interpret
from auditor.targets.torch_target import TorchTarget
from auditor.targets.views import WhiteBoxView, narrow
from auditor.tensors import RunContext
from auditor.testing import ToyTarget, toy_card, toy_templates

SHAPE, K = (3, 16, 16), 5


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def network() -> nn.Module:
    torch.manual_seed(0)
    return SmallCnn(K, 3, (4, 4))


def target(module: nn.Module | None = None) -> TorchTarget:
    return TorchTarget(module or network(), toy_card(n_classes=K, image_shape=SHAPE))


def images(n: int) -> Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(n))


def answers(logits: Callable[[Tensor], Tensor], n: int) -> tuple[Tensor, Tensor]:
    leaf = images(n).requires_grad_(True)
    scores = logits(leaf)
    return scores.detach(), torch.autograd.grad(scores.logsumexp(dim=1).sum(), leaf)[0]


class Backend:
    """Runs graphs as they are, and counts them."""

    def __init__(self) -> None:
        self.n_graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., object]:
        self.n_graphs += 1
        return graph.forward


def as_graph(module: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.onnx.export(
        module.eval(),
        (images(2),),
        buffer,
        dynamo=False,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
    )
    return interpret(onnx.load_from_string(buffer.getvalue()), SHAPE, output="y", layout=Layout.CHANNELS_FIRST)


@pytest.mark.parametrize("make", [network, lambda: as_graph(network())], ids=["module", "onnx"])
def test_one_graph_serves_every_batch_size(make: Callable[[], nn.Module]) -> None:
    backend, plain = Backend(), target(make())
    compiled = CompiledTarget(plain, backend=backend)
    for n in (7, 3, 1, 5, 7):
        for found, expected in zip(answers(compiled.logits, n), answers(plain.logits, n), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert backend.n_graphs == 1
    assert compiled.notes == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("bf16", [False, True])
def test_real_compiling_changes_no_answer_beyond_rounding(
    bf16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    plain = target()
    compiled = CompiledTarget(plain)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        found, expected = answers(compiled.logits, 6), answers(plain.logits, 6)
    assert compiled.notes == []
    for ours, theirs in zip(found, expected, strict=True):
        scale = float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=(0.05 if bf16 else 1e-4) * scale)


def test_hooks_put_on_later_see_every_pass() -> None:
    compiled = CompiledTarget(target(), backend=Backend())
    view = narrow(compiled, Access.WHITE_BOX)
    assert isinstance(view, WhiteBoxView)
    view.logits(images(4))
    seen: list[Tensor] = []
    head = next(layer for layer in view.layers if isinstance(layer, nn.Linear))
    handle = head.register_forward_hook(lambda _layer, _inputs, output: seen.append(output))
    scores = view.logits(images(4))
    assert torch.equal(seen[0], scores)
    handle.remove()
    torch.testing.assert_close(view.logits(images(4)), scores, rtol=1e-4, atol=1e-5)
    assert (len(seen), view.counter.forward) == (1, 12)


def failing(_graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., object]:
    raise RuntimeError("no compiler here\n\nand much about it")


def doubling(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., object]:
    return lambda *values: tuple(2 * output for output in graph(*values))


class _Stuck(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: object, *_: Tensor) -> Tensor:
        raise RuntimeError("no compiler for the backward pass")


def stuck_backwards(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., object]:
    return lambda *values: tuple(_Stuck.apply(output) for output in graph(*values))


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        (failing, "ran uncompiled: torch.compile failed: .*no compiler here$"),
        (stuck_backwards, "torch.compile failed: no compiler for the backward pass"),
        (doubling, "gives other results"),
    ],
)
def test_a_compiler_that_fails_or_errs_is_left_with_a_note(backend: Callable[..., object], reason: str) -> None:
    plain = target()
    compiled = CompiledTarget(plain, backend=backend)
    for _ in range(2):
        for found, expected in zip(answers(compiled.logits, 4), answers(plain.logits, 4), strict=True):
            assert torch.equal(found, expected)
    (note,) = compiled.notes
    assert re.search(reason, note)


def test_a_network_with_a_switch_on_its_values_runs_as_it_is() -> None:
    class Switch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)[:, :K]
            return flat if float(x.sum()) > 0 else -flat

    compiled = CompiledTarget(target(Switch()), backend="eager")
    assert torch.equal(compiled.logits(images(3)), images(3).flatten(1)[:, :K])
    assert len(compiled.notes) == 1


def test_memory_that_runs_out_is_not_taken_for_a_compiler_that_fails() -> None:
    def exhausted(_graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., object]:
        def run(*_: Tensor) -> object:
            raise torch.OutOfMemoryError("too many rows")

        return run

    compiled = CompiledTarget(target(), backend=exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        compiled.logits(images(4))
    assert compiled.notes == []


def test_scores_alone_are_not_compiled() -> None:
    plain = ToyTarget(toy_templates(3), access=(Access.SCORE, Access.LABEL))
    compiled = CompiledTarget(plain, backend=failing)
    shown = plain.templates
    assert torch.equal(compiled.logits(shown), plain.logits(shown))
    assert compiled.notes == ["the target ran uncompiled: only its scores can be had"]


@pytest.mark.parametrize("wanted", [False, True])
def test_a_plan_that_compiles_without_a_compiler_says_so_in_the_attacks_notes(
    wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    torch.manual_seed(0)
    weights = build_architecture("small-resnet", n_classes=K, channels=3).state_dict()
    save_file({name: value.contiguous() for name, value in weights.items()}, inputs / "model")
    card = toy_card(n_classes=K, image_shape=SHAPE, architecture="small-resnet")
    card = card.model_copy(update={"digest": digest_of_file(inputs / "model")})
    (inputs / "target.json").write_text(card.model_dump_json())
    spec = AttackSpec(name="mi-face", params={"steps": 2})
    plan = AuditPlan(name="p", attacks=(spec,), priors=(PriorSpec(name="pixels"),), samples_per_class=1, compile=wanted)
    (inputs / "plan.json").write_text(plan.model_dump_json())
    save_prior(PRIORS.build("pixels", {}).blank(SHAPE), inputs / "prior-pixels.safetensors")
    params = {"attack": spec.model_dump(mode="json"), "classes": [0, 1], "prior": "pixels"}
    with inductor.patch({"cpp.cxx": ("/nowhere/g++",)}):
        value = attack.run(UnitSpec(kind="attack", key="a", params=params), Workspace(tmp_path, tmp_path), RunContext())
    notes = AttackCost.model_validate(value).notes
    assert any("No working C++ compiler" in note for note in notes) == wanted
