"""The base of attacks on a split model: it owns access, shapes and range; a subclass owns the paper, no more.

Other attacks rebuild a class; these rebuild the one image behind an observed activation, so each has a true answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import Any, Generic, TypeVar, final

import torch
from torch import Tensor, nn

from auditor.attacks.base import AttackConfig, Inversion, KeyedContext, Rows
from auditor.contracts.access import Access
from auditor.errors import AccessDenied
from auditor.targets.views import Knowledge, SplitView
from auditor.tensors import RunContext

C = TypeVar("C", bound=AttackConfig)
Shape = tuple[int, ...]


class SplitAttack(ABC, Generic[C]):
    """One attack on split inference. Subclasses set the class attributes and implement `rebuild`."""

    name: str
    """Catalog name; equals the file name with dashes for underscores."""
    access = Access.SPLIT
    knowledge: Knowledge
    """What the attacker has beside the activations it saw."""
    paper: str
    """Authors, venue, arXiv id."""
    Config: type[Any] = AttackConfig

    def __init__(self, config: C) -> None:
        self.config = config

    @property
    def adaptive(self) -> bool:
        """Whether this configuration is built to see through a defense."""
        return False

    def aids(self, image_shape: Shape, feature_shape: Shape) -> nn.ModuleDict | None:
        """Blank helper networks (a decoder, a shadow), trained once per target and cut; None: needs none."""
        return None

    @property
    def recipe(self) -> dict[str, Any]:
        """All of the configuration that decides the helper networks; attacks with equal recipes share them."""
        return {}

    def train_aids(self, aids: nn.ModuleDict, view: SplitView, public: Tensor, ctx: RunContext) -> None:
        """Train `aids` in place, from public images and what `view` offers.

        Args:
            aids: what `aids` gave, on `ctx.device`.
            view: the cut target; these queries have an account of their own.
            public: (N, C, H, W) public images in [0, 1], on the CPU.
            ctx: device, seed, progress.
        """
        raise NotImplementedError(f"'{self.name}' has no aids")

    @final
    def prepare(self, view: SplitView, public: Tensor, ctx: RunContext) -> nn.ModuleDict | None:
        """The trained helper networks, frozen and in eval mode; None when the attack needs none.

        Raises:
            AccessDenied: `view` offers another knowledge than the attack declares.
        """
        self._check(view)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ctx.rng("split", "aids").initial_seed())
            aids = self.aids(view.image_shape, view.feature_shape)
        if aids is None:
            return None
        self.train_aids(aids.to(ctx.device), view, public, ctx)
        return aids.eval().requires_grad_(False)

    @final
    def run(
        self,
        view: SplitView,
        activations: Tensor,
        rows: Rows,
        ctx: RunContext,
        *,
        key: str | None = None,
        aids: nn.ModuleDict | None = None,
    ) -> Inversion:
        """Rebuild the image behind each activation.

        Args:
            view: the cut target, with this attack's knowledge.
            activations: (N, *feature_shape) float32, what was seen passing.
            rows: which private image each belongs to; only names a row's random draws.
            ctx: device, seed, batch size, progress.
            key: what seeds the draws; default: the attack's name.
            aids: what `prepare` gave, for an attack that has helper networks.

        Returns:
            Images on the CPU in [0, 1], before and after. When the view's query budget runs out, the result is what was
            reached by then, and says so.

        Raises:
            AccessDenied: `view` offers another knowledge than the attack declares.
            ValueError: shapes or ranges are wrong.
        """
        self._check(view)
        if tuple(activations.shape) != (len(rows), *view.feature_shape):
            raise ValueError(f"expected activations {(len(rows), *view.feature_shape)}, got {tuple(activations.shape)}")
        given = {field.name: getattr(ctx, field.name) for field in fields(RunContext)}
        keyed = KeyedContext(**given, attack_key=key or self.name, aids=aids)
        result = self.rebuild(view, activations, rows, keyed)
        expected = (len(rows), *view.image_shape)
        for images in (result.start, result.images):
            if tuple(images.shape) != expected or not bool(torch.isfinite(images).all()):
                raise ValueError(f"'{self.name}' returned images that are not finite or not of shape {expected}")
        return Inversion(
            start=result.start.detach().float().clamp(0, 1).cpu(),
            images=result.images.detach().float().clamp(0, 1).cpu(),
            notes=list(dict.fromkeys(result.notes)),
            complete=result.complete,
        )

    @abstractmethod
    def rebuild(self, view: Any, activations: Tensor, rows: Rows, ctx: KeyedContext) -> Inversion:
        """The paper; `view` is a SplitView of this attack's knowledge. A row's result must not depend on the others."""

    def _check(self, view: SplitView) -> None:
        if view.access is not self.access or view.knowledge is not self.knowledge:
            has = f"{view.access}" + (f" ({view.knowledge})" if view.access is self.access else "")
            raise AccessDenied(f"'{self.name}' needs {self.access} ({self.knowledge}) but was handed a {has} view")
