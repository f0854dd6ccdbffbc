"""Whole networks from both of torch's exporters against onnxruntime, and their gradients against the native modules."""

from __future__ import annotations

import copy

import onnx
import pytest
import torch
import torchvision
from torch import Tensor, nn

from auditor.targets.architectures import SmallCnn, SmallResNet, build_architecture
from auditor.targets.onnx_graph import GraphModule, interpret, unsupported_operators
from auditor.targets.ort_session import OrtSession
from auditor.testing.onnx_models import exported, randomised

K = 7


class TinyTransformer(nn.Module):
    """A vision transformer of one block, written with torch's own attention layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 65, 16))
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, K)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.mlp(self.norm2(x))
        return self.head(x[:, 0])


class Gated(nn.Module):
    """Grouped, dilated and transposed convolutions, a squeeze-and-excite gate, resizing, and a softmax at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.b = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4, bias=False)
        self.norm = nn.GroupNorm(2, 8)
        self.squeeze = nn.Conv2d(8, 8, 1)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.slope = nn.PReLU(6)
        self.head = nn.Linear(6, K)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.nn.functional.hardswish(self.a(x))
        x = self.norm(self.b(x))
        x = x * torch.nn.functional.hardsigmoid(self.squeeze(x.mean((2, 3), keepdim=True)))
        x = torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
        x = self.slope(self.up(x))
        return self.head(x.amax((2, 3))).softmax(1)


SMALL = {
    "small-cnn": (lambda: SmallCnn(K, 3, (8, 8, 16, 16)), 32),
    "small-resnet": (lambda: SmallResNet(K, 3, (8, 16)), 32),
    "transformer": (TinyTransformer, 32),
    "gated": (Gated, 32),
    "shufflenet": (lambda: build_architecture("shufflenet_v2_x0_5", n_classes=K, channels=3), 32),
}

BIG = {
    "resnet18": 32, "resnet50": 32, "mobilenet_v2": 32, "mobilenet_v3_small": 32, "densenet121": 32,
    "efficientnet_b0": 32, "convnext_tiny": 32, "swin_t": 32, "vgg16": 32, "vgg16_bn": 32, "squeezenet1_1": 48,
    "regnet_y_400mf": 32,
}  # fmt: skip


def build(name: str) -> tuple[nn.Module, int]:
    """The same weights whatever ran before; other seeds put some activation so near 0 that its gradient flips."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return _built(name)


def _built(name: str) -> tuple[nn.Module, int]:
    if name in SMALL:
        make, size = SMALL[name]
        return randomised(make()), size
    if name == "vit_b_16":
        return randomised(torchvision.models.vit_b_16(num_classes=K, image_size=32)), 32
    network = build_architecture(name, n_classes=K, channels=3)
    for part in network.modules():  # the widest layers only cost memory here
        if isinstance(part, nn.AdaptiveAvgPool2d) and name.startswith("vgg"):
            part.output_size = (1, 1)
    if name.startswith("vgg"):
        network.classifier = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, K))  # type: ignore[assignment]
    return randomised(network), BIG[name]


def assert_faithful(network: nn.Module, data: bytes, size: int) -> GraphModule:
    proto = onnx.load_model_from_string(data)
    assert unsupported_operators(proto) == ()
    module = interpret(proto, (3, size, size))
    session = OrtSession(data)
    images = torch.rand(8, 3, size, size, generator=torch.Generator().manual_seed(2))
    logged = module.output == "probabilities"
    for rows in (1, 3, 8):
        ours = module(images[:rows]).detach()
        theirs = torch.from_numpy(session.run(images[:rows].numpy()))
        torch.testing.assert_close(ours.exp() if logged else ours, theirs, atol=2e-5, rtol=1e-4)
    weights = torch.randn(3, K, generator=torch.Generator().manual_seed(3))
    gradients = []
    for net in (module, network):
        inputs = images[:3].clone().requires_grad_()
        out = net(inputs)
        out = out.exp() if logged and net is module else out
        (out * weights).sum().backward()
        gradients.append(inputs.grad)
    assert gradients[0] is not None
    assert gradients[1] is not None
    scale = float(gradients[1].abs().max())
    assert scale > 0
    assert float((gradients[0] - gradients[1]).abs().max()) < 1e-3 * scale
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in module.parameters())
    return module


QUICK = {
    False: {
        ("small-cnn", 11),
        ("small-cnn", 20),
        ("small-resnet", 17),
        ("transformer", 17),
        ("gated", 13),
        ("gated", 18),
    },
    True: {("transformer", 20)},
}


def exports(dynamo: bool, names: list[str], opsets: list[int]) -> list[object]:
    """Every pair; all but a few are slow."""
    pairs = [(name, opset) for name in names for opset in opsets if (name, opset >= 14) != ("transformer", False)]
    return [pytest.param(*pair, marks=() if pair in QUICK[dynamo] else pytest.mark.slow) for pair in pairs]


@pytest.mark.parametrize(("name", "opset"), exports(False, list(SMALL), [11, 13, 17, 18, 20]))
def test_a_small_network_from_the_torchscript_exporter(name: str, opset: int) -> None:
    network, size = build(name)
    assert_faithful(network, exported(network, (3, size, size), opset=opset, dynamo=False), size)


@pytest.mark.parametrize(("name", "opset"), exports(True, ["small-cnn", "transformer", "gated"], [18, 20]))
def test_a_small_network_from_the_dynamo_exporter(name: str, opset: int) -> None:
    network, size = build(name)
    assert_faithful(network, exported(network, (3, size, size), opset=opset, dynamo=True), size)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*BIG, "vit_b_16"])
def test_a_torchvision_network_from_the_torchscript_exporter(name: str) -> None:
    network, size = build(name)
    native = sum(p.numel() for p in network.parameters())
    for opset in (17,) if name in ("vit_b_16", "convnext_tiny", "swin_t") else (11, 20):
        module = assert_faithful(
            copy.deepcopy(network), exported(network, (3, size, size), opset=opset, dynamo=False), size
        )
        found = sum(p.numel() for p in module.parameters())
        assert abs(found - native) < 0.02 * native


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "swin_t"])
def test_a_torchvision_network_from_the_dynamo_exporter(name: str) -> None:
    network, size = build(name)
    assert_faithful(network, exported(network, (3, size, size), opset=18, dynamo=True), size)
