"""The audit plan: which attacks, how much, against how many classes, with which judges, from which seed."""

from __future__ import annotations

from pydantic import Field, JsonValue, model_validator

from auditor.contracts.base import Contract

KNOWING = "adaptive-"
"""How the keys of attacks begin that know the defense of a repair. The repair adds them; no plan may use it."""


class AttackSpec(Contract):
    """One attack of the plan, by catalog name."""

    name: str
    params: dict[str, JsonValue] = Field(default_factory=dict)
    """Overrides of the attack's Config."""
    prior: str | None = None
    """Name of the prior to use; default: the one the attack's method comes with if the plan lists it, else the plan's
    first prior that has all the traits the attack needs."""
    label: str | None = Field(default=None, pattern=r"^(control/)?[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Distinguishes two entries of one attack in the report, e.g. `ppa-averaged`; default: the name."""

    @property
    def key(self) -> str:
        """Unique within a plan; seeds the attack's random draws."""
        return self.label or self.name


class PriorSpec(Contract):
    """One image prior of the plan, by catalog name (`vae`, `dcgan`) or `onnx` for the team's generator."""

    name: str
    params: dict[str, JsonValue] = Field(default_factory=dict)


class EvaluatorSpec(Contract):
    """How the evaluator is trained."""

    architecture: str = "auto"
    """Allow-list name; `auto` takes one that differs from the target's."""
    epochs: int = Field(default=30, ge=1)


class JudgeTraining(Contract):
    """How the judge is trained on the public data."""

    epochs: int = Field(default=12, ge=1)
    embedding_dim: int = Field(default=128, ge=8)


class FisherSpec(Contract):
    """How the Fisher layer scores are estimated."""

    enabled: bool = True
    n_classes: int = Field(default=20, ge=2)
    """Classes (clusters) used; at least 20 for an interval worth reading."""
    images_per_class: int = Field(default=5, ge=1)
    exact_up_to: int = Field(default=20, ge=1)
    """Sum over classes exactly up to this many; beyond it sample labels from the model."""
    label_samples: int = Field(default=2, ge=1)
    trajectory: tuple[float, ...] = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0)
    """Fractions of the inversion at which images are taken."""


class Withheld(Contract):
    """Why no pass is given on the attacks of a plan, whatever they find."""

    reason: str
    need: str
    """What would settle it."""


class RepairOrigin(Contract):
    """A repair of which the audited model is the outcome."""

    reference: str
    """Id of the repair's report, or of its job where it left none."""
    defense: str
    is_met: bool = True
    """Whether attacks that know the defense came with it."""
    is_alike: bool = False
    """Known by its answers alone: its file and its weights are others."""


class AuditPlan(Contract):
    """Everything that decides an audit's numbers, apart from the model and the data."""

    name: str
    attacks: tuple[AttackSpec, ...] = Field(min_length=1)
    priors: tuple[PriorSpec, ...]
    """Empty only where the model is cut and every attack reads what passes there."""
    split: str | None = None
    """Layer at which the model is cut between a device and a server; None: it runs in one place."""
    seed: int = Field(default=0, ge=0)
    n_classes: int | None = Field(default=60, ge=1)
    """Classes attacked (the first ones in a seeded order); None: all."""
    samples_per_class: int = Field(default=5, ge=1)
    """Reconstructions per class and attack, each from its own seed."""
    classes_per_unit: int = Field(default=64, ge=1)
    """Classes in one unit of work."""
    n_control_samples: int = Field(default=2000, ge=1)
    """Prior samples behind the prior-only control."""
    max_queries: int | None = Field(default=None, ge=1)
    """Images an attack may send to the target; None: no limit."""
    evaluator: EvaluatorSpec = EvaluatorSpec()
    judge: JudgeTraining = JudgeTraining()
    fisher: FisherSpec = FisherSpec()
    batch_size: int = Field(default=512, ge=1)
    """Rows per forward pass; never changes a result."""
    autocast_bf16: bool = False
    compile: bool = False
    """Run the target under `torch.compile` while it is attacked: for long attacks on a GPU (see `CompiledTarget`)."""
    n_bootstrap: int = Field(default=2000, ge=200)
    """Resamples of the classes behind every interval."""
    left_out: tuple[str, ...] = ()
    """What a time budget took out of the plan: keys of attacks, and `fisher`."""
    withheld: Withheld | None = None
    """Set where a repaired model is audited whose defense is known to fail against attacks outside of every plan."""
    repairs: tuple[RepairOrigin, ...] = ()
    """Set where the submitted model is what the team's repairs made: their attacks that know the defense are among
    `attacks`, and what they withhold is in `withheld`."""

    @model_validator(mode="after")
    def _priors(self) -> AuditPlan:
        if not self.priors and self.split is None:
            raise ValueError("`priors` needs at least one entry, unless the model is cut (`split`, or --split)")
        return self
