"""What a plan will cost on this machine: measured rates, and the estimate made of them."""

from __future__ import annotations

from pydantic import Field

from auditor.contracts.access import Access
from auditor.contracts.base import Contract
from auditor.contracts.cost import Cost
from auditor.contracts.plan import AuditPlan


class Rate(Contract):
    """How long one kind of pass takes: `call_s` + images times `image_s`, from passes of two batch sizes."""

    call_s: float = Field(ge=0)
    image_s: float = Field(ge=0)
    image_bytes: int = Field(ge=0)
    """Memory at the peak of a pass, per image, beside the weights."""

    def seconds(self, n_images: int, batch: int) -> float:
        """Time of `n_images` in batches of `batch`."""
        return n_images * (self.image_s + self.call_s / max(1, batch))


class Training(Contract):
    """A training of which the first steps were timed."""

    seconds: float = Field(ge=0)
    extrapolated: bool = False
    """It was stopped after some steps and its stage carried on at their pace; stages after that are unknown."""


class PriorRates(Contract):
    """One prior of the plan."""

    decode: Rate
    gradient: Rate
    """Drawing and the gradient with respect to the latent."""
    training: Training | None = None
    """None: nothing to train."""
    queries: int = Field(default=0, ge=0)
    """Images that its training sends to the target."""
    refine_steps: int = Field(default=0, ge=0)
    """Gradient steps of one projection."""


class Rates(Contract):
    """What a probe of this machine measured on the target and the plan's priors."""

    device: str
    """E.g. `cpu, 2 threads` or the GPU's name."""
    probe_s: float
    forward: Rate
    """The target alone."""
    gradient: Rate | None = None
    """The target and the gradient with respect to the image; None: it offers none."""
    priors: dict[str, PriorRates] = {}
    aids: dict[str, Training] = {}
    """Helper networks by attack key."""
    evaluator: Training | None = None
    judge: Training | None = None
    n_images: dict[str, int] = {}
    """Images by role: `private`, `heldout`, `public`."""
    weights_bytes: int = 0
    unit_s: float = 0.0
    """Start of one process, with the loading of the target."""


class AttackEstimate(Contract):
    """One attack of the plan, or one control, as it would run."""

    key: str
    attack: str
    access: Access
    prior: str | None = None
    """None: none of the plan fits."""
    adaptive: bool = False
    unvetted: tuple[str, ...] = ()
    """Parameters with which it was never seen to work, so that it cannot count towards a pass."""
    is_control: bool = False
    runnable: bool = True
    reason: str = ""
    """Why it cannot run on this submission."""
    cost: Cost | None = None
    """Of all its units together; None: its method does not say."""
    per_class: int | None = None
    """Images sent to the target for one class, without what all classes share."""
    shared: int = 0
    """Images sent once: pools, training of its prior and its helper networks."""
    effort: float | None = None
    """Queries per picture that search, at most, as `min_queries_per_sample` of a policy counts them; None: unknown."""
    seconds: float | None = None
    """Of its units and helper networks; its prior is a step of its own. None: not measured."""
    memory_bytes: int | None = None


class StepEstimate(Contract):
    """Something the audit does beside the attacks."""

    name: str
    seconds: float
    prior: str | None = None
    """Done for this prior only."""


class PlanEstimate(Contract):
    """A plan, what it costs, and what it cannot show."""

    plan: AuditPlan
    n_attacked: int | None = None
    """Classes attacked; None: all of a target of unknown size."""
    attacks: tuple[AttackEstimate, ...] = ()
    steps: tuple[StepEstimate, ...] = ()
    rates: Rates | None = None
    """None: no model was given, so nothing was measured."""
    budget_s: float | None = None
    obstacles: tuple[str, ...] = ()
    """Why this plan cannot end in a pass, whatever it finds; empty: it can."""

    @property
    def seconds(self) -> float | None:
        """Of everything that can run, without what is in the cache; None: not measured."""
        if self.rates is None:
            return None
        return sum(step.seconds for step in self.steps) + sum(row.seconds or 0.0 for row in self.attacks)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Keys of attacks that can run and whose time is not known: the total is without them."""
        return tuple(row.key for row in self.attacks if row.runnable and row.seconds is None)
