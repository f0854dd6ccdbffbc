"""Small networks taught to answer like the target, from public images and its soft labels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from auditor.targets.architectures import SmallCnn, SmallResNet
from auditor.tensors import ImageBatch, RunContext
from auditor.training import Step, TrainConfig, fit_classifier, predict

_BODIES: tuple[Callable[[int, int], nn.Module], ...] = (
    lambda n_classes, channels: SmallCnn(n_classes, channels, (24, 24, 48, 48, 96, 96)),
    lambda n_classes, channels: SmallResNet(n_classes, channels, (24, 48, 96)),
    lambda n_classes, channels: SmallCnn(n_classes, channels, (16, 32, 64, 96)),
)
MAX_STUDENTS = len(_BODIES)
"""How many different students there are."""


class Student(nn.Module):
    """A small classifier of images in [0, 1] of at least 8x8 pixels."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B, K) logits."""
        logits: Tensor = self.body(4 * images - 2)
        return logits


def blank_student(index: int, n_classes: int, channels: int) -> Student:
    """An untrained student; those of different `index` in 0..MAX_STUDENTS-1 differ in architecture."""
    return Student(_BODIES[index](n_classes, channels))


def distil(
    student: nn.Module,
    images: Tensor,
    teacher_log_probs: Tensor,
    ctx: RunContext,
    *,
    epochs: int,
    stage: str,
    batch_size: int = 64,
    lr: float = 2e-3,
) -> None:
    """Train `student` in place to give the teacher's probabilities on `images`; the teacher is not asked.

    Minimises the cross-entropy with the teacher's probabilities, which is KL(teacher || student) up to a constant
    (Hinton et al., 2015, arXiv 1503.02531, at temperature 1), with AdamW under a one-cycle schedule. The images are
    shown as they are: changing them and keeping the teacher's answer lowered the agreement.

    Args:
        student: (B, C, H, W) images in [0, 1] to (B, K) logits; ends in eval mode.
        images: (N, C, H, W) in [0, 1].
        teacher_log_probs: (N, K), the teacher's answers to them.
        ctx: device, seed, progress.
        epochs: passes over the images.
        stage: name for progress; also seeds the order.
        batch_size: images per step.
        lr: peak step size.
    """

    def loss(step: Step) -> Tensor:
        return -(step.labels.exp() * log_softmax(step.model(step.inputs).float(), dim=1)).sum(dim=1).mean()

    config = TrainConfig(epochs=epochs, batch_size=batch_size, lr=lr, augment=False)
    fit_classifier(student, ImageBatch(images, teacher_log_probs), None, config, ctx, stage=stage, loss=loss)


@torch.no_grad()
def agreement(student: nn.Module, images: Tensor, teacher_log_probs: Tensor, ctx: RunContext) -> float:
    """Share of (N, C, H, W) `images` on which student and teacher name the same class."""
    guessed = predict(student, images, ctx).argmax(dim=1)
    return float((guessed == teacher_log_probs.cpu().argmax(dim=1)).float().mean())
