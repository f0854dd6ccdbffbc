"""The classifier that the demo submits to its own audit."""

from __future__ import annotations

import torch
from torch import nn

from auditor.data.image_set import ImageSet
from auditor.targets.architectures import build_architecture
from auditor.tensors import RunContext
from auditor.training import TrainConfig, fit_classifier

_CONFIG = TrainConfig(epochs=15, batch_size=64, lr=4e-3)


def train_demo_target(
    private: ImageSet,
    shape: tuple[int, int, int],
    n_classes: int,
    ctx: RunContext,
    architecture: str = "small-cnn",
    *,
    flip: bool = True,
) -> nn.Module:
    """A classifier trained on all of `private`, on the CPU in evaluation mode; its input is plain images in [0, 1].

    Args:
        private: labelled training images.
        shape: (C, H, W) of the network's input.
        n_classes: outputs.
        ctx: device, seed, progress (stage `demo-target`).
        architecture: name from the allow-list.
        flip: whether mirrored images keep their class.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(ctx.rng("demo-target", "init").initial_seed())
        network = build_architecture(architecture, n_classes=n_classes, channels=shape[0])
    fit_classifier(network, private.batch(shape), None, _CONFIG, ctx, stage="demo-target", flip=flip)
    return network.cpu().eval()
