"""TL-DMI: keep private gradients out of the early layers.

Ho, Hao, Chandrasegaran, Nguyen and Cheung, "Model Inversion Robustness: Can Transfer Learning Help?", CVPR 2024,
arXiv 2405.05588. The network is split at a boundary: what lies before it keeps weights trained on public data; what
lies after it, with a new head, is fine-tuned on the private data with plain cross-entropy. How many layers are tuned is
the only choice.

Departures from the authors' code:

- boundaries count execution-ordered units (a convolution with its norm, or a residual block), exclusively, and 0 means
  that everything is trained; theirs count registered children, inclusively, and 0 means that nothing but the head is;
- frozen batch norms stay in evaluation mode. Theirs run in training mode, so their statistics take up private data
  (`norm_mode: reference` reproduces that);
- a validation split chooses the epoch; theirs takes the epoch that is best on the test set;
- only parameters that are trained reach the optimiser, so weight decay cannot move the others.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from auditor.contracts.repair import FreezePlan, NormMode
from auditor.tensors import RunContext
from auditor.training import TrainConfig, TrainHistory, fit_classifier
from remediation import freezing
from remediation.defenses.base import Defense, DefenseConfig, Objective, Prepare, RepairData


class TlDmiConfig(DefenseConfig):
    """Parameters of TL-DMI."""

    norm_mode: NormMode = NormMode.FROZEN
    epochs: int = Field(default=30, ge=1)
    lr: float = Field(default=2e-3, gt=0)
    """Peak learning rate of fine-tuning."""
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


class TlDmi(Defense[TlDmiConfig]):
    """Early layers trained on public data and frozen, the rest fine-tuned on the private data."""

    name = "tl-dmi"
    paper = "Ho, Hao, Chandrasegaran, Nguyen and Cheung, CVPR 2024, arXiv 2405.05588"
    Config = TlDmiConfig

    @property
    def norm_mode(self) -> NormMode:
        """As configured."""
        return self.config.norm_mode

    @property
    def objective(self) -> Objective:
        """As configured."""
        return self.config.pretrain_objective

    @property
    def pretraining(self) -> TrainConfig:
        """The public stage."""
        return TrainConfig(
            epochs=self.config.pretrain_epochs,
            lr=self.config.pretrain_lr,
            batch_size=self.config.pretrain_batch_size,
            augment=self.config.augment,
        )

    def tune(
        self, module: nn.Module, plan: FreezePlan, data: RepairData, ctx: RunContext, *, prepare: Prepare
    ) -> TrainHistory:
        """The private stage; every boundary sees the same batches."""
        config = TrainConfig(
            epochs=self.config.epochs,
            lr=self.config.lr,
            batch_size=self.config.batch_size,
            weight_decay=self.config.weight_decay,
            optimizer=self.config.optimizer,
            augment=self.config.augment,
            patience=self.config.patience,
        )
        return fit_classifier(
            module,
            data.fit,
            data.validation,
            config,
            ctx,
            stage="repair",
            prepare=prepare,
            set_mode=lambda m: freezing.set_mode(m, plan),
            flip=data.flip,
        )
