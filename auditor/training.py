"""One supervised training loop for targets of the demo, evaluators, judges and repairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from auditor.contracts.base import Contract
from auditor.tensors import ImageBatch, RunContext


class TrainConfig(Contract):
    """Hyper-parameters of one training run."""

    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=64, ge=2)
    lr: float = Field(default=2e-3, gt=0)
    """Peak learning rate; one-cycle for AdamW, cosine for SGD."""
    weight_decay: float = Field(default=5e-4, ge=0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    augment: bool = True
    """Flips, shifts, small rotations and scalings, brightness and contrast."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after this many epochs without a better validation accuracy; None: run all epochs."""
    channels_last: bool = True


@dataclass
class TrainHistory:
    """What happened, epoch by epoch; the model holds the best epoch's weights when validation data was given."""

    loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    best_epoch: int = 0


@dataclass(frozen=True)
class Step:
    """One step of a training: all that its loss may look at.

    Attributes:
        model: what is trained, in its training mode.
        images: (B, C, H, W) in [0, 1], augmented.
        inputs: the same as raw model input.
        labels: (B,) int64, or whatever the labels of the training are.
        epoch: from 0.
        n_epochs: of the whole training.
    """

    model: nn.Module
    images: Tensor
    inputs: Tensor
    labels: Tensor
    epoch: int
    n_epochs: int


Loss = Callable[[Step], Tensor]
"""A step to its mean loss; runs under the training's autocast."""


def plain_loss(smoothing: float = 0.0) -> Loss:
    """Cross-entropy."""
    return lambda step: cross_entropy(step.model(step.inputs), step.labels, label_smoothing=smoothing)


def augment_images(images: Tensor, generator: torch.Generator, *, strength: float = 1.0, flip: bool = True) -> Tensor:
    """Per-sample random affine and photometric change.

    Args:
        images: (B, C, H, W) float32 in [0, 1].
        generator: CPU generator; one draw per sample, so results do not depend on the device.
        strength: 1 means shifts of 6 %, rotations of 8 degrees, scales within 8 %, brightness and contrast within 20 %.
        flip: also mirror half of the images.
    """
    B = len(images)
    u = torch.rand(B, 7, generator=generator) * 2 - 1
    angle, scale = u[:, 0] * 0.14 * strength, 1 + u[:, 1] * 0.08 * strength
    mirror = torch.where(u[:, 2] > 0, 1.0, -1.0) if flip else torch.ones(B)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    theta = torch.stack(
        [
            torch.stack([cos * mirror, -sin, u[:, 3] * 0.12 * strength], dim=1),
            torch.stack([sin * mirror, cos, u[:, 4] * 0.12 * strength], dim=1),
        ],
        dim=1,
    ).to(images.device)
    warped = grid_sample(
        images,
        affine_grid(theta, list(images.shape), align_corners=False),
        padding_mode="reflection",
        align_corners=False,
    )
    brightness = (u[:, 5] * 0.15 * strength).to(images.device).view(B, 1, 1, 1)
    contrast = (1 + u[:, 6] * 0.2 * strength).to(images.device).view(B, 1, 1, 1)
    mean = warped.mean(dim=(1, 2, 3), keepdim=True)
    return ((warped - mean) * contrast + mean + brightness).clamp(0, 1)


def fit_classifier(
    model: nn.Module,
    train: ImageBatch,
    validation: ImageBatch | None,
    config: TrainConfig,
    ctx: RunContext,
    *,
    stage: str,
    prepare: Callable[[Tensor], Tensor] = lambda images: images,
    set_mode: Callable[[nn.Module], object] = lambda model: model.train(),
    loss: Loss | None = None,
    flip: bool = True,
    degrade: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    keep_from: int = 0,
) -> TrainHistory:
    """Train `model` in place on labelled images with cross-entropy; only parameters that require a gradient move.

    Args:
        model: raw model input to (B, K) logits.
        train: images in [0, 1] and labels.
        validation: chooses the epoch whose weights are kept; None keeps the last.
        config: hyper-parameters.
        ctx: device, seed, progress.
        stage: name for progress and for seeding.
        prepare: images in [0, 1] to raw model input (scaling, mean and std).
        set_mode: called before each epoch; a repair uses it to keep frozen norms in evaluation mode.
        loss: default: cross-entropy with the config's smoothing.
        flip: whether mirrored images keep their label (not so for digits).
        degrade: (images in [0, 1], CPU generator) to images, applied to each training batch after the augmentation.
        keep_from: first epoch, from 0, whose weights may be kept: where the loss changes on the way, an early epoch
            is not what was asked for, however accurate.
    """
    loss = loss or plain_loss(config.label_smoothing)
    model.to(ctx.device)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = _Batches(train, config, ctx, ctx.rng("train", stage), prepare, flip, degrade)
    optimizer, schedule = _optimizer((p for p in model.parameters() if p.requires_grad), config, batches.steps)
    history, best, stale = TrainHistory(), None, 0
    for epoch in range(config.epochs):
        set_mode(model)
        total = 0.0
        for images, inputs, labels in batches.epoch():
            with ctx.autocast():
                value = loss(Step(model, images, inputs, labels, epoch, config.epochs))
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += float(value.detach())
        history.loss.append(total / batches.steps)
        ctx.tick(stage, epoch + 1, config.epochs)
        if validation is None:
            history.best_epoch = epoch
            continue
        history.validation_accuracy.append(top_k_accuracy(model, validation, ctx, prepare=prepare))
        if epoch < keep_from:
            continue
        if best is None or history.validation_accuracy[-1] > history.validation_accuracy[history.best_epoch]:
            history.best_epoch, stale = epoch, 0
            best = {name: value.detach().clone() for name, value in model.state_dict().items()}
            continue
        stale += 1
        if config.patience is not None and stale >= config.patience:
            break
    if best is not None:
        model.load_state_dict(best)
    model.eval()
    return history


class _Batches:
    """Shuffled, augmented raw model inputs with their labels; the last, incomplete batch of an epoch is left out."""

    def __init__(
        self,
        train: ImageBatch,
        config: TrainConfig,
        ctx: RunContext,
        generator: torch.Generator,
        prepare: Callable[[Tensor], Tensor],
        flip: bool,
        degrade: Callable[[Tensor, torch.Generator], Tensor] | None,
    ) -> None:
        if train.labels is None:
            raise ValueError("training needs labels")
        self._images, self._labels = train.images.to(ctx.device), train.labels.to(ctx.device)
        self._size = min(config.batch_size, len(train))
        self._config, self._generator = config, generator
        self._prepare, self._flip, self._degrade = prepare, flip, degrade
        self.steps = max(1, len(train) // self._size)

    def epoch(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Images, raw model inputs and labels of every batch of one pass over the data."""
        order = torch.randperm(len(self._labels), generator=self._generator).to(self._labels.device)
        for index in order.split(self._size)[: self.steps]:
            images = self._images[index]
            if self._config.augment:
                images = augment_images(images, self._generator, flip=self._flip)
            if self._degrade is not None:
                images = self._degrade(images, self._generator)
            inputs = self._prepare(images)
            if self._config.channels_last:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            yield images, inputs, self._labels[index]


def _optimizer(
    parameters: Iterable[nn.Parameter], config: TrainConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    total = steps * config.epochs
    if config.optimizer == "adamw":
        adamw = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
        return adamw, torch.optim.lr_scheduler.OneCycleLR(adamw, config.lr, total_steps=total + 1)
    sgd = torch.optim.SGD(parameters, lr=config.lr, momentum=0.9, weight_decay=config.weight_decay)
    return sgd, torch.optim.lr_scheduler.CosineAnnealingLR(sgd, total)


@torch.no_grad()
def predict(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    ctx: RunContext,
    *,
    prepare: Callable[[Tensor], Tensor] = lambda images: images,
) -> Tensor:
    """(N, ...) float32 outputs of `model` on (N, C, H, W) images in [0, 1], batched, on the CPU; in eval mode."""
    if isinstance(model, nn.Module):
        model.eval()
    parts = []
    for chunk in images.split(ctx.batch_size):
        with ctx.autocast():
            parts.append(model(prepare(chunk.to(ctx.device))).float().cpu())
    return torch.cat(parts)


def top_k_accuracy(
    model: Callable[[Tensor], Tensor],
    data: ImageBatch,
    ctx: RunContext,
    *,
    k: int = 1,
    prepare: Callable[[Tensor], Tensor] = lambda images: images,
) -> float:
    """Share of `data` whose label is among the `k` highest outputs."""
    if data.labels is None:
        raise ValueError("accuracy needs labels")
    scores = predict(model, data.images, ctx, prepare=prepare)
    top = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return float((top == data.labels[:, None]).any(dim=1).float().mean())
