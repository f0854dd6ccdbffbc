import pytest
import torch
from torch import nn

from auditor.fisher import weight_squares
from auditor.fisher.layer_rules import CaptureGradients
from auditor.fisher.weight_squares import MatrixSquares, VectorSquares, prefer_pairs


def brute_force(theta, a, deltas):
    """g formed for every sample, pass and group, squared, summed."""
    total = torch.zeros(2, len(a), dtype=torch.float64)
    for delta in deltas:
        g = torch.einsum("bgot,bgti->bgoi", delta.double(), a.double())
        total[0] += g.square().sum((1, 2, 3))
        total[1] += (g.square() * theta.double().square()).sum((1, 2, 3))
    return total


@pytest.mark.parametrize("by_pairs", [False, True])
@pytest.mark.parametrize(("T", "n_passes"), [(1, 1), (4, 3), (9, 40)])
def test_both_ways_equal_brute_force_for_groups_positions_and_passes(monkeypatch, by_pairs, T, n_passes):
    monkeypatch.setattr(weight_squares, "prefer_pairs", lambda *_: by_pairs)
    monkeypatch.setattr(weight_squares, "_BLOCK_BYTES", 100)
    monkeypatch.setattr(weight_squares, "_PAIR_BYTES", 1000)
    generator = torch.Generator().manual_seed(T)
    theta = torch.randn(2, 3, 5, generator=generator)
    a = torch.randn(4, 2, T, 5, generator=generator)
    deltas = torch.randn(n_passes, 4, 2, 3, T, generator=generator)
    squares = MatrixSquares(theta, lambda: a, lambda delta: delta)
    for _ in range(2):  # a second round starts from nothing
        squares.begin(n_passes)
        for delta in deltas:
            squares.add(delta)
        torch.testing.assert_close(squares.sums(), brute_force(theta, a, deltas), rtol=1e-5, atol=1e-9)


def test_the_choice_goes_with_positions_and_passes():
    assert prefer_pairs(1, 1)
    assert prefer_pairs(16, 10)
    assert not prefer_pairs(16, 1)
    assert not prefer_pairs(1024, 1000)


def test_nothing_added_is_an_error():
    squares = VectorSquares(torch.ones(2), lambda delta: delta)
    squares.begin(1)
    with pytest.raises(RuntimeError, match="nothing"):
        squares.sums()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
        nn.Conv2d(4, 8, 3, groups=4, bias=False),
        nn.Conv2d(4, 4, 1, stride=2),
    ],
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_convolutions_of_every_shape(layer, channels_last):
    x = torch.rand(3, 4, 9, 8, generator=torch.Generator().manual_seed(0))
    if channels_last:
        x, layer = x.contiguous(memory_format=torch.channels_last), layer.to(memory_format=torch.channels_last)
    with CaptureGradients({id(p): name for name, p in layer.named_parameters()}) as capture:
        z = layer(x.requires_grad_())
    cotangents = [torch.randn(z.shape, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    found = dict(capture.reduce(z, cotangents))
    for row in range(3):
        for name, parameter in layer.named_parameters():
            expected = torch.zeros(2, dtype=torch.float64)
            for cotangent in cotangents:
                g = torch.autograd.grad(layer(x[row : row + 1]), parameter, cotangent[row : row + 1])[0].double()
                expected += torch.stack([g.square().sum(), (g * parameter.detach()).square().sum()])
            torch.testing.assert_close(found[name][:, row], expected, rtol=1e-5, atol=1e-9)
