"""The defense base class: it owns freezing, its proof and accuracies; a subclass owns the paper."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from auditor.contracts.access import Access
from auditor.contracts.base import Contract
from auditor.contracts.repair import FreezePlan, NormMode, Offer
from auditor.contracts.scores import Score
from auditor.errors import AuditorError
from auditor.evaluation.cards import accuracy_score
from auditor.evaluation.intervals import Bootstrap
from auditor.fisher.units import Unit
from auditor.tensors import ImageBatch, RunContext
from auditor.training import Loss, TrainConfig, TrainHistory, fit_classifier
from remediation import freezing
from remediation.frozen_front import FrontOnce, front_once
from remediation.offers import OFFERS, offer_of

Prepare = Callable[[Tensor], Tensor]
"""Images in [0, 1] to raw model input."""
Objective = Literal["auto", "labels", "rotation"]
"""`auto`: the public labels where at least two classes have two images each, else rotation prediction."""


class DefenseConfig(Contract):
    """Parameters that every defense by training has: how the public and the private stage are trained."""

    validation_frac: float = Field(default=0.15, gt=0, lt=1)
    """Share of every class of the private fit images set aside to choose the epoch."""
    n_boundaries: int = Field(default=3, ge=1)
    """Boundaries tried where the defense is one of freezing and none are named."""
    boundaries: tuple[int, ...] = ()
    """Boundaries to try, in place of the defense's own: units frozen at public weights, so that any defense that
    retrains can be combined with TL-DMI."""
    weights_are_public: bool = False
    """State that layers shared with the submission are public: it was itself fine-tuned from them."""
    norm_mode: NormMode = NormMode.FROZEN
    epochs: int = Field(default=30, ge=1)
    lr: float = Field(default=2e-3, gt=0)
    """Peak learning rate of the private stage."""
    batch_size: int = Field(default=64, ge=2)
    weight_decay: float = Field(default=5e-4, ge=0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    augment: bool = True
    patience: int | None = Field(default=None, ge=1)
    """Stop after this many epochs without a better validation accuracy."""
    pretrain_objective: Objective = "auto"
    """`auto`: the public labels where at least two classes have two images each, else rotation prediction."""
    pretrain_epochs: int = Field(default=20, ge=1)
    pretrain_lr: float = Field(default=2e-3, gt=0)
    pretrain_batch_size: int = Field(default=64, ge=2)

    @property
    def training(self) -> TrainConfig:
        """The private stage."""
        return TrainConfig(
            epochs=self.epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            weight_decay=self.weight_decay,
            optimizer=self.optimizer,
            augment=self.augment,
            patience=self.patience,
        )

    @property
    def pretraining(self) -> TrainConfig:
        """The public stage, where no weights are supplied."""
        return TrainConfig(
            epochs=self.pretrain_epochs,
            lr=self.pretrain_lr,
            batch_size=self.pretrain_batch_size,
            augment=self.augment,
        )


C = TypeVar("C", bound=DefenseConfig)


@dataclass(frozen=True)
class RepairData:
    """Private images in three disjoint roles, and public ones.

    Attributes:
        fit: trained on.
        validation: chooses the epoch.
        heldout: chooses among candidates; never used for a choice within training.
        public: images an attacker may own.
        flip: whether a mirrored image keeps its class.
    """

    fit: ImageBatch
    validation: ImageBatch
    heldout: ImageBatch
    public: ImageBatch | None
    flip: bool


@dataclass(frozen=True)
class Tuning:
    """What the private stage works on.

    Attributes:
        module: raw model input to (B, K) logits, with the starting weights and a fresh head (the submission's own where
            the defense fine-tunes); what `plan` freezes requires no gradient.
        units: its units, in execution order.
        head: path of the layer that gives the K outputs.
        plan: what is frozen.
        data: private images by role.
        prepare: images in [0, 1] to raw model input.
        ctx: device, seed, progress.
        cut: where the model is cut for split inference, by the name its card has; None: it is deployed whole.
    """

    module: nn.Module
    units: tuple[Unit, ...]
    head: str
    plan: FreezePlan
    data: RepairData
    prepare: Prepare
    ctx: RunContext
    cut: str | None = None

    def train(
        self,
        config: TrainConfig,
        loss: Loss | None = None,
        degrade: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        *,
        stage: str = "repair",
        module: nn.Module | None = None,
        keep_from: int = 0,
    ) -> TrainHistory:
        """The common loop over the private images; every boundary sees the same batches.

        A frozen front is run once and not in every epoch where nothing changes its images and nothing looks at them.

        Args:
            config: hyper-parameters.
            loss: default: cross-entropy.
            degrade: (images in [0, 1], CPU generator) to images, after the augmentation.
            stage: for progress and seeding.
            module: trained in place of `self.module`, of which it holds the frozen parts under the same names.
            keep_from: first epoch, from 0, whose weights may be kept.
        """
        plain = module is None and loss is None and degrade is None and not config.augment
        if plain and (once := self._front_once()) is not None:
            return fit_classifier(
                once.tail,
                once.fit,
                once.validation,
                config.model_copy(update={"channels_last": config.channels_last and once.fit.images.ndim == 4}),
                self.ctx,
                stage=stage,
                set_mode=lambda _tail: freezing.set_mode(self.module, self.plan),
                keep_from=keep_from,
            )
        return fit_classifier(
            self.module if module is None else module,
            self.data.fit,
            self.data.validation,
            config,
            self.ctx,
            stage=stage,
            prepare=self.prepare,
            set_mode=lambda m: freezing.set_mode(m, self.plan),
            loss=loss,
            flip=self.data.flip,
            degrade=degrade,
            keep_from=keep_from,
        )

    def _front_once(self) -> FrontOnce | None:
        return front_once(self.module, self.plan, self.data.fit, self.data.validation, self.ctx, prepare=self.prepare)


@dataclass(frozen=True)
class Tuned:
    """What the private stage ended with.

    Attributes:
        module: raw model input to (B, K) logits, as it is to be deployed. It may be another network than the one that
            was trained (`Defense.reshapes`); frozen parts keep their names.
        history: losses and validation accuracies by epoch.
        notes: remarks for the report.
        secrets: what only the owner may know, such as planted triggers, by name; stored apart from the model.
    """

    module: nn.Module
    history: TrainHistory
    notes: tuple[str, ...] = ()
    secrets: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class RepairedModel:
    """One boundary, trained.

    Attributes:
        module: raw model input to (B, K) logits, in evaluation mode.
        freeze: the plan with its proof.
        history: losses and validation accuracies by epoch.
        validation_accuracy: of the kept weights.
        heldout_accuracy: of the kept weights.
        notes: remarks for the report.
        secrets: as in `Tuned`.
    """

    module: nn.Module
    freeze: FreezePlan
    history: TrainHistory
    validation_accuracy: Score
    heldout_accuracy: Score
    notes: tuple[str, ...] = ()
    secrets: dict[str, Tensor] | None = None


class DivergedTraining(AuditorError):
    """Fine-tuning ended with weights that are not finite."""

    code = "diverged_training"
    http_status = 422
    default_remedy = "Take a lower `lr` in `repair.params`."


class Defense(ABC, Generic[C]):
    """One way to retrain a classifier so that it gives away less. Subclasses implement `tune`.

    What the defense is, what it takes and which attacks know it stands in `remediation.offers` under its name.
    """

    name: str
    """Catalog name."""
    paper: str
    """Authors, venue, arXiv id: as offered."""
    Config: type[Any] = DefenseConfig
    freezes: bool = False
    """Whether freezing is the defense itself, so that boundaries are proposed and tried; else nothing is frozen
    unless `boundaries` are named."""
    reshapes: bool = False
    """Whether the deployed network may be another than the submitted one; bare weights could not say so, and such a
    repair is written as ONNX."""

    def __init_subclass__(cls) -> None:
        if (offer := OFFERS.get(getattr(cls, "name", ""))) is not None:
            cls.paper = offer.paper

    def __init__(self, config: C) -> None:
        self.config = config

    @property
    def offer(self) -> Offer:
        """What is known of it without running it."""
        return offer_of(self.name)

    def shortened(self, frac: float) -> Defense[C]:
        """The same with a share of the private stage's epochs."""
        epochs = max(1, round(self.config.epochs * frac))
        return type(self)(self.config.model_copy(update={"epochs": epochs}))

    def inapplicable(self, module: nn.Module, units: Sequence[Unit], head: str) -> str:
        """Why this network cannot be defended so, and what to do instead; empty: it can.

        Args:
            module: raw model input to (B, K) logits.
            units: its units.
            head: path of its last layer.
        """
        return ""

    def misplaced(self, deployment: Access, cut: str | None) -> str:
        """Why it is of no use where the model is deployed, and what to do instead; empty: it is.

        Args:
            deployment: what attackers of the deployment reach.
            cut: where the model is cut for split inference; None: it is deployed whole.
        """
        return ""

    def comparable(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """(B,) bool: rows of raw model input on which a faithful file has to give what the deployed `module` gives.

        Not those on which a difference in the last digit of the arithmetic may change the outputs visibly.
        """
        return torch.ones(len(inputs), dtype=torch.bool)

    def own_boundaries(self, n_units: int) -> tuple[int, ...]:
        """Boundaries to try where none are named; not asked where `freezes`."""
        return (0,)

    @final
    def fit(
        self,
        start: nn.Module,
        units: Sequence[Unit],
        head: str,
        boundary: int,
        data: RepairData,
        ctx: RunContext,
        *,
        prepare: Prepare,
        cut: str | None = None,
    ) -> RepairedModel:
        """Train `start` in place on the private images with its first `boundary` units held fixed.

        Args:
            start: weights that `remediation.starting_weights` has checked.
            units: its units.
            head: path of the layer that gives the K outputs.
            boundary: units frozen, 0..U-1.
            data: private images by role.
            ctx: device, seed, progress.
            prepare: images in [0, 1] to raw model input.
            cut: where the model is cut for split inference; None: it is deployed whole.

        Raises:
            InvalidInput: the boundary does not exist.
            FrozenStateMoved: something frozen changed.
            DivergedTraining: the weights are not finite.
        """
        plan = freezing.freeze_plan(units, boundary, self.config.norm_mode)
        freezing.apply(start, plan)
        start.to(ctx.device)
        if plan.norm_mode is NormMode.RECALIBRATE_PUBLIC and data.public is not None:
            batches = data.public.images.split(ctx.batch_size)
            freezing.recalibrate_norms(start, plan, (prepare(images.to(ctx.device)) for images in batches))
        before = freezing.seal(start, plan)
        tuned = self.tune(Tuning(start, tuple(units), head, plan, data, prepare, ctx, cut))
        if not all(bool(torch.isfinite(value).all()) for value in tuned.module.state_dict().values()):
            raise DivergedTraining(f"training with the first {boundary} units frozen gave weights that are not finite")
        tuned.module.eval()
        return RepairedModel(
            module=tuned.module,
            freeze=freezing.proven(tuned.module, plan, before),
            history=tuned.history,
            validation_accuracy=top1(tuned.module, data.validation, "validation_accuracy", ctx, prepare=prepare),
            heldout_accuracy=top1(tuned.module, data.heldout, "heldout_accuracy", ctx, prepare=prepare),
            notes=tuned.notes,
            secrets=tuned.secrets,
        )

    @abstractmethod
    def tune(self, job: Tuning) -> Tuned:
        """The paper: train the parameters that require a gradient, with `freezing.set_mode` in place of `train()`."""


def top1(module: nn.Module, data: ImageBatch, metric: str, ctx: RunContext, *, prepare: Prepare) -> Score:
    """Top-1 accuracy on labelled images, mean over classes, with its class-bootstrap interval."""
    module.eval()
    return accuracy_score(metric, lambda images: module(prepare(images)), data, ctx, Bootstrap(seed=ctx.seed))
