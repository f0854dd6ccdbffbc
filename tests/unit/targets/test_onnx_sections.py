"""Graphs in pieces: where they can be cut, and that the pieces together are the graph."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import Tensor, nn

from auditor.targets.onnx_graph import GraphModule, Layout, interpret
from auditor.targets.onnx_graph.sections import sections
from auditor.testing.onnx_models import exported


class Dcgan(nn.Module):
    """Three sizes; with `residual`, blocks that are added to what went in; with `again`, the latent comes back late."""

    def __init__(self, residual: bool = False, again: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.late = nn.Linear(5, 6 * 16), nn.Linear(5, 6)
        self.norm = nn.BatchNorm2d(6)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(6, 6, 4, stride=2, padding=1) for _ in range(2))
        self.same = nn.Conv2d(6, 6, 3, padding=1)
        self.last = nn.Conv2d(6, 1, 3, padding=1)
        self.residual, self.again = residual, again

    def forward(self, z: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.fc(z).reshape(-1, 6, 4, 4)))
        if self.residual:
            x = x + torch.relu(self.same(x))
        x = torch.relu(self.ups[0](x))
        x = torch.relu(self.ups[1](x))
        if self.again:
            x = x + self.late(z)[:, :, None, None]
        return torch.tanh(self.last(x))


class Mlp(nn.Sequential):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(
            nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 64)
        )


class Mixed(nn.Module):
    """The batch is folded into the channels on the way, as in a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.end = nn.Linear(5, 8), nn.Linear(8, 9)

    def forward(self, z: Tensor) -> Tensor:
        x = self.fc(z)
        folded = torch.relu(x.reshape(1, -1) * 2)
        return self.end(folded.reshape(x.shape[0], 8))


def graph_of(network: nn.Module, dynamo: bool = False) -> GraphModule:
    opset = 18 if dynamo else 17
    proto = onnx.load_model_from_string(exported(network.eval(), (5,), opset=opset, dynamo=dynamo))
    return interpret(proto, (5,), classifier=False, layout=Layout.FLAT)


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (Dcgan(), [(6, 4, 4), (6, 8, 8)]),
        (Dcgan(residual=True), [(6, 4, 4), (6, 8, 8)]),
        (Dcgan(again=True), []),
        (Mlp(), [(12,), (30,)]),
        (Mixed(), [(8,)]),
    ],
    ids=["dcgan", "residual", "latent-again", "mlp", "batch-in-channels"],
)
def test_pieces_compose_to_the_graph(network: nn.Module, expected: list[tuple[int, ...]], dynamo: bool) -> None:
    graph = graph_of(network, dynamo)
    pieces = sections(graph)
    assert [piece.program.row_shape for piece in pieces[1:]] == expected
    for batch in (1, 2, 7):
        z = torch.randn(batch, 5, requires_grad=True)
        value: Tensor = z
        for piece in pieces:
            value = piece(value)
            assert len(value) == batch
        assert torch.equal(value, graph(z))
        (ours,) = torch.autograd.grad(value.square().sum(), z)
        (theirs,) = torch.autograd.grad(graph(z).square().sum(), z)
        torch.testing.assert_close(ours, theirs)


def test_rows_stay_apart_in_every_piece_and_weights_are_shared() -> None:
    graph = graph_of(Dcgan())
    pieces = sections(graph)
    value = torch.randn(4, 5)
    for piece in pieces:
        together, alone = piece(value), piece(value[2:3])
        torch.testing.assert_close(together[2:3], alone, atol=1e-6, rtol=1e-5)
        value = together
    owned = [id(parameter) for piece in pieces for parameter in piece.parameters()]
    assert len(owned) == len(set(owned))
    assert set(owned) == {id(parameter) for parameter in graph.parameters()}
