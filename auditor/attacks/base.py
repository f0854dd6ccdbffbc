"""The attack base class: it owns access, order, shapes and range; a subclass owns the paper, and only the paper."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Generic, TypeVar, final

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from auditor.contracts.access import Access
from auditor.contracts.cost import Cost
from auditor.errors import AccessDenied
from auditor.priors.base import Prior, Trait
from auditor.targets.base import Target
from auditor.targets.views import LabelView, QueryCounter, ScoreView, WhiteBoxView
from auditor.tensors import Reconstructions, RunContext, Snapshot


class AttackConfig(BaseModel):
    """Base of every attack's parameters: frozen, unknown keys refused, ranges checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


Decay = Annotated[float, Field(ge=0, lt=1)]
"""One of Adam's betas."""
C = TypeVar("C", bound=AttackConfig)


@dataclass(frozen=True)
class Rows:
    """The flat batch: one row per (class, sample).

    Attributes:
        labels: (N,) int64.
        sample: (N,) int64, index within the class.
    """

    labels: Tensor
    sample: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class Inversion:
    """What `invert` gives back; rows aligned with the `Rows` it was given.

    Attributes:
        start: (N, C, H, W) images before optimisation.
        images: (N, C, H, W) images after it, in [0, 1].
        snapshots: images at the fractions asked for.
        notes: remarks for the report.
        complete: False when the query budget ran out before the planned end; the images are then the best so far.
    """

    start: Tensor
    images: Tensor
    snapshots: tuple[Snapshot, ...] = ()
    notes: list[str] = field(default_factory=list)
    complete: bool = True


class Attack(ABC, Generic[C]):
    """One model-inversion attack. Subclasses set the class attributes and implement `invert`."""

    name: str
    """Catalog name; equals the file name with dashes for underscores."""
    access: Access
    paper: str
    """Authors, venue, arXiv id."""
    Config: type[Any] = AttackConfig
    needs: frozenset[Trait] = frozenset()
    """Traits the prior must have."""
    default_prior: str | None = None
    """Catalog name of the prior the paper's method comes with; None: the plan's first prior with all it `needs`."""
    is_control: bool = False

    def __init__(self, config: C) -> None:
        self.config = config

    @property
    def adaptive(self) -> bool:
        """Whether this configuration is built to see through a defense."""
        return False

    def cost(self, attacked: int, samples_per_class: int, n_classes: int) -> Cost | None:
        """What `run` will send through the networks with no query budget and no snapshots; None: not known.

        Args:
            attacked: classes in one run.
            samples_per_class: rows per class.
            n_classes: classes the target tells apart.
        """
        return None

    def inapplicable(self, target: Target) -> str:
        """Why the method has nothing to work on in this model, whoever attacks it; empty when it has."""
        return ""

    def aids(self, image_shape: tuple[int, int, int], n_classes: int) -> nn.ModuleDict | None:
        """Blank helper networks (students, surrogates) that are trained once per target; None: needs none."""
        return None

    def train_aids(self, aids: nn.ModuleDict, view: Any, prior: Prior, public: Tensor, ctx: KeyedContext) -> None:
        """Train `aids` in place, from public images and queries to the target alone.

        Args:
            aids: what `aids` gave, on `ctx.device`.
            view: the target at this attack's level; these queries have an account of their own.
            prior: the prior the attack will use.
            public: (N, C, H, W) public images in [0, 1], on the CPU, of the target's shape.
            ctx: device, seed, progress; `ctx.rng` is keyed by the attack.
        """
        raise NotImplementedError(f"'{self.name}' has no aids")

    @final
    def prepare(
        self, view: LabelView, prior: Prior, public: Tensor, ctx: RunContext, *, key: str | None = None
    ) -> nn.ModuleDict | None:
        """The trained helper networks, frozen and in eval mode; None when the attack needs none.

        Args:
            view: the target, narrowed to this attack's level.
            prior: as for `run`.
            public: (N, C, H, W) public images in [0, 1].
            ctx: device, seed, progress.
            key: what seeds the draws; default: the attack's name.

        Raises:
            AccessDenied: `view` offers another level than the attack declares.
        """
        self._check_level(view)
        keyed = _keyed(ctx, key or self.name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(keyed.rng("aids").initial_seed())
            aids = self.aids(view.image_shape, view.n_classes)
        if aids is None:
            return None
        self.train_aids(aids.to(ctx.device), view, prior, public, keyed)
        return aids.eval().requires_grad_(False)

    def _check_level(self, view: LabelView) -> None:
        if view.access is not self.access:
            raise AccessDenied(f"'{self.name}' is a {self.access} attack but was handed a {view.access} view")

    @final
    def run(
        self,
        view: LabelView,
        prior: Prior,
        classes: tuple[int, ...],
        samples_per_class: int,
        ctx: RunContext,
        *,
        key: str | None = None,
        snapshot_fracs: tuple[float, ...] = (),
        aids: nn.ModuleDict | None = None,
        witness: LabelView | None = None,
    ) -> Reconstructions:
        """Attack every class of `classes`, `samples_per_class` times each.

        Args:
            view: the target, narrowed to this attack's level.
            prior: the image prior; its pictures must have the target's shape.
            classes: distinct class indices.
            samples_per_class: rows per class, each with its own generators.
            ctx: device, seed, batch size, progress.
            key: what seeds the draws; default: the attack's name.
            snapshot_fracs: points in [0, 1] at which to keep images (empty: none).
            aids: what `prepare` gave, for an attack that has helper networks.
            witness: the auditor's own view, which measures the confidences; default: `view`, which at label level can
                only say 0 or 1.

        The confidences before and after are the auditor's own measurement: they are not booked as the attack's queries.
        When the view's query budget runs out, the result is what was reached by then, and says so.

        Raises:
            AccessDenied: `view` offers another level than the attack declares.
            ValueError: shapes, ranges or class indices are wrong, or the prior lacks what the attack needs.
        """
        self._check_level(view)
        if tuple(prior.image_shape) != tuple(view.image_shape):
            raise ValueError(f"prior draws {prior.image_shape}, target takes {view.image_shape}")
        if len(set(classes)) != len(classes) or not all(0 <= c < view.n_classes for c in classes):
            raise ValueError("classes must be distinct indices of the target")
        for trait in sorted(self.needs - prior.traits):
            raise ValueError(f"'{self.name}' needs a prior with the trait '{trait}'; '{prior.name}' has it not")
        rows = Rows(
            labels=torch.tensor(classes, dtype=torch.int64).repeat_interleave(samples_per_class),
            sample=torch.arange(samples_per_class).repeat(len(classes)),
        )
        result = self.invert(view, prior, rows, _keyed(ctx, key or self.name, aids), snapshot_fracs)
        expected = (len(rows), *view.image_shape)
        for images in (result.start, result.images):
            if tuple(images.shape) != expected:
                raise ValueError(f"'{self.name}' returned images of shape {tuple(images.shape)}, expected {expected}")
        if not bool(torch.isfinite(result.images).all()):
            raise ValueError(f"'{self.name}' returned images that are not finite")
        images = result.images.detach().float().clamp(0, 1).cpu()
        witness = witness or view
        with _unbilled(witness.counter):
            before = _confidence(witness, result.start.detach(), rows.labels, ctx)
            after = _confidence(witness, images, rows.labels, ctx)
        return Reconstructions(
            images=images,
            labels=rows.labels,
            sample=rows.sample,
            start_confidence=before,
            end_confidence=after,
            snapshots=result.snapshots,
            notes=tuple(dict.fromkeys(result.notes)),
            complete=result.complete,
        )

    @abstractmethod
    def invert(
        self, view: Any, prior: Prior, rows: Rows, ctx: KeyedContext, snapshot_fracs: tuple[float, ...]
    ) -> Inversion:
        """The paper.

        `view` is the view class of `self.access`; randomness comes only from `ctx.rng(label, sample, purpose)`, so that
        a row's result does not depend on which other rows are attacked.
        """


@dataclass(frozen=True)
class KeyedContext(RunContext):
    """A RunContext whose generators are further keyed by the attack, and its trained helper networks."""

    attack_key: str = ""
    aids: nn.ModuleDict | None = None

    def rng(self, *key: str | int) -> torch.Generator:
        """A generator for (attack, *key)."""
        return super().rng(self.attack_key, *key)


def _keyed(ctx: RunContext, key: str, aids: nn.ModuleDict | None = None) -> KeyedContext:
    surroundings = {known.name: getattr(ctx, known.name) for known in fields(RunContext)}
    return KeyedContext(**surroundings, attack_key=key, aids=aids)


@contextmanager
def _unbilled(counter: QueryCounter) -> Iterator[None]:
    """Leave the counter and its limit as they were before the block."""
    kept = (counter.limit, counter.forward, counter.backward)
    counter.limit = None
    try:
        yield
    finally:
        counter.limit, counter.forward, counter.backward = kept


@torch.no_grad()
def _confidence(view: LabelView, images: Tensor, labels: Tensor, ctx: RunContext) -> Tensor:
    """(N,) target probability of each row's class; 0 or 1 at label level."""
    parts = []
    for start in range(0, len(images), ctx.batch_size):
        chunk = images[start : start + ctx.batch_size].to(ctx.device)
        wanted = labels[start : start + ctx.batch_size].to(ctx.device)
        if isinstance(view, WhiteBoxView):
            log_probs = log_softmax(view.logits(chunk).float(), dim=1)
        elif isinstance(view, ScoreView):
            log_probs = view.log_probs(chunk)
        else:
            parts.append((view.labels(chunk) == wanted).float().cpu())
            continue
        parts.append(log_probs.gather(1, wanted[:, None]).squeeze(1).exp().cpu())
    return torch.cat(parts)
