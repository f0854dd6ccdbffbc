"""The defense base class: it owns freezing, its proof, epoch selection and accuracies; a subclass owns the paper."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from auditor.contracts.base import Contract
from auditor.contracts.repair import FreezePlan, NormMode
from auditor.contracts.scores import Score
from auditor.errors import AuditorError
from auditor.evaluation.cards import accuracy_score
from auditor.evaluation.intervals import Bootstrap
from auditor.fisher.units import Unit
from auditor.tensors import ImageBatch, RunContext
from auditor.training import TrainConfig, TrainHistory
from remediation import freezing

Prepare = Callable[[Tensor], Tensor]
"""Images in [0, 1] to raw model input."""


class DefenseConfig(Contract):
    """Base of every defense's parameters."""

    validation_frac: float = Field(default=0.15, gt=0, lt=1)
    """Share of every class of the private fit images set aside to choose the epoch."""
    n_boundaries: int = Field(default=3, ge=1)
    """Boundaries tried when none are named."""
    boundaries: tuple[int, ...] = ()
    """Boundaries to try, instead of those proposed by the Fisher scores and the depth."""
    weights_are_public: bool = False
    """State that layers shared with the submission are public: it was itself fine-tuned from them."""


Objective = Literal["auto", "labels", "rotation"]
"""`auto`: the public labels where at least two classes have two images each, else rotation prediction."""

C = TypeVar("C", bound=DefenseConfig)


@dataclass(frozen=True)
class RepairData:
    """Private images in three disjoint roles, and public ones.

    Attributes:
        fit: trained on.
        validation: chooses the epoch.
        heldout: measures what the repair cost; never used for a choice within training.
        public: images an attacker may own.
        flip: whether a mirrored image keeps its class.
    """

    fit: ImageBatch
    validation: ImageBatch
    heldout: ImageBatch
    public: ImageBatch | None
    flip: bool


@dataclass(frozen=True)
class RepairedModel:
    """One boundary, trained.

    Attributes:
        module: raw model input to (B, K) logits, in evaluation mode.
        freeze: the plan with its proof.
        history: losses and validation accuracies by epoch.
        validation_accuracy: at the epoch that was kept.
        heldout_accuracy: of the kept weights.
    """

    module: nn.Module
    freeze: FreezePlan
    history: TrainHistory
    validation_accuracy: Score
    heldout_accuracy: Score


class DivergedTraining(AuditorError):
    """Fine-tuning ended with weights that are not finite."""

    code = "diverged_training"
    http_status = 422
    default_remedy = "Take a lower `lr` in `repair.params`."


class Defense(ABC, Generic[C]):
    """One way to retrain a classifier so that it gives away less. Subclasses implement `tune`."""

    name: str
    """Catalog name."""
    paper: str
    """Authors, venue, arXiv id."""
    Config: type[Any] = DefenseConfig

    def __init__(self, config: C) -> None:
        self.config = config

    @property
    @abstractmethod
    def pretraining(self) -> TrainConfig:
        """How the starting weights are trained when none are supplied."""

    @property
    @abstractmethod
    def objective(self) -> Objective:
        """What the starting weights learn on the public data."""

    @property
    @abstractmethod
    def norm_mode(self) -> NormMode:
        """What batch norms inside frozen units do."""

    @final
    def fit(
        self,
        start: nn.Module,
        units: Sequence[Unit],
        boundary: int,
        data: RepairData,
        ctx: RunContext,
        *,
        prepare: Prepare,
    ) -> RepairedModel:
        """Train `start` in place on the private images with its first `boundary` units held fixed.

        Args:
            start: public weights (`remediation.starting_weights` has checked them) under a fresh head of K outputs.
            units: its units.
            boundary: units frozen, 0..U-1.
            data: private images by role.
            ctx: device, seed, progress.
            prepare: images in [0, 1] to raw model input.

        Raises:
            InvalidInput: the boundary does not exist.
            FrozenStateMoved: something frozen changed.
            DivergedTraining: the weights are not finite.
        """
        plan = freezing.freeze_plan(units, boundary, self.norm_mode)
        freezing.apply(start, plan)
        start.to(ctx.device)
        if plan.norm_mode is NormMode.RECALIBRATE_PUBLIC and data.public is not None:
            batches = data.public.images.split(ctx.batch_size)
            freezing.recalibrate_norms(start, plan, (prepare(images.to(ctx.device)) for images in batches))
        before = freezing.seal(start, plan)
        history = self.tune(start, plan, data, ctx, prepare=prepare)
        if not all(bool(torch.isfinite(value).all()) for value in start.state_dict().values()):
            raise DivergedTraining(f"training with the first {boundary} units frozen gave weights that are not finite")
        start.eval()
        return RepairedModel(
            module=start,
            freeze=freezing.proven(start, plan, before),
            history=history,
            validation_accuracy=top1(start, data.validation, "validation_accuracy", ctx, prepare=prepare),
            heldout_accuracy=top1(start, data.heldout, "heldout_accuracy", ctx, prepare=prepare),
        )

    @abstractmethod
    def tune(
        self, module: nn.Module, plan: FreezePlan, data: RepairData, ctx: RunContext, *, prepare: Prepare
    ) -> TrainHistory:
        """The paper: train the parameters that require a gradient, with `freezing.set_mode` in place of `train()`."""


def top1(module: nn.Module, data: ImageBatch, metric: str, ctx: RunContext, *, prepare: Prepare) -> Score:
    """Top-1 accuracy on labelled images, mean over classes, with its class-bootstrap interval."""
    module.eval()
    return accuracy_score(metric, lambda images: module(prepare(images)), data, ctx, Bootstrap(seed=ctx.seed))
