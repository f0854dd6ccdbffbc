"""Units and scores of third-party graphs; the files are not part of the project."""

import os
from pathlib import Path

import onnx
import pytest
import torch

from auditor.contracts.plan import FisherSpec
from auditor.fisher.diagonal import FisherScorer
from auditor.fisher.units import execution_units
from auditor.targets.onnx_graph import interpret
from auditor.tensors import RunContext

SHARED = Path(os.environ.get("AUDITOR_SHARED_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "shape", "n_units", "first", "last"),
    [("mnist_lenet5.onnx", (1, 32, 32), 5, "c1", "f7"), ("cifar10_resnet20.onnx", (3, 32, 32), 11, None, "m.linear")],
)
def test_units_and_scores(name, shape, n_units, first, last):
    if not (SHARED / name).exists():
        pytest.skip(f"{name} is not there: set AUDITOR_SHARED_DATA")
    module = interpret(onnx.load(SHARED / name), shape)
    units = execution_units(module, torch.zeros(1, *shape))
    assert len(units) == n_units
    assert units[-1].name == last
    assert first in (None, units[0].name)
    assert sorted(p for unit in units for p in unit.parameters) == sorted(n for n, _ in module.named_parameters())
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    scorer = FisherScorer(module, lambda images: images, units, RunContext())
    squares, definition = scorer.true(x, FisherSpec())
    assert definition == "exact"
    assert scorer.gradients.engine == "layerwise"
    assert bool((squares.squared > 0).all())
