"""A tiny network, trained by any defense on tiny images."""

import pytest
import torch

from auditor.fisher.units import execution_units
from auditor.targets.architectures import build_architecture
from auditor.tensors import ImageBatch, RunContext
from remediation.defenses.base import RepairData
from remediation.defenses.catalog import DEFENSES


def network(architecture="small-cnn"):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_architecture(architecture, n_classes=3, channels=1)


def repair_data(n=48):
    """Images that are brighter the higher their label."""
    generator = torch.Generator().manual_seed(0)

    def batch(n):
        labels = torch.arange(n) % 3
        return ImageBatch((torch.rand(n, 1, 16, 16, generator=generator) + labels.view(-1, 1, 1, 1)) / 3, labels)

    return RepairData(batch(n), batch(24), batch(24), ImageBatch(batch(16).images), flip=False)


@pytest.fixture
def tiny_network():
    """The network as it is before any training."""
    return network()


@pytest.fixture
def tiny_data():
    """What it is trained on."""
    return repair_data()


@pytest.fixture
def defended():
    """`defended(name, boundary=0, **params)`: the tiny network after that defense."""

    def defend(name, boundary=0, *, start=None, head="head", **params):
        module = network() if start is None else start
        units = execution_units(module, torch.zeros(1, 1, 16, 16))
        given = {"epochs": 2, "batch_size": 16, "augment": False} | params
        return DEFENSES.build(name, given).fit(
            module, units, head, boundary, repair_data(), RunContext(), prepare=lambda images: images
        )

    return defend
