"""The allow-list."""

from __future__ import annotations

import pytest
import torch

from auditor.errors import UnknownName
from auditor.targets.architectures import architecture_names, build_architecture


def test_the_list_holds_our_nets_and_torchvisions_classifiers_only() -> None:
    names = architecture_names()
    assert {"small-cnn", "small-resnet", "resnet18", "vit_b_16", "vgg16_bn", "mobilenet_v3_small"} <= set(names)
    assert not any("fcn" in name or "rcnn" in name or "raft" in name or "quantized" in name for name in names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["small-cnn", "small-cnn-wide", "small-resnet", "resnet18", "mobilenet_v3_small"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_network_takes_the_channels_and_gives_the_classes_asked_for(name: str, channels: int) -> None:
    network = build_architecture(name, n_classes=6, channels=channels).eval()
    with torch.no_grad():
        assert network(torch.rand(2, channels, 32, 32)).shape == (2, 6)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"'my-net' is not on the allow-list: small-cnn"):
        build_architecture("my-net", n_classes=2, channels=3)
