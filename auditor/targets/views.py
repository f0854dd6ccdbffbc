"""Narrowed, query-counted views: an attack is handed one of these and cannot reach more than its level."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from auditor.contracts.access import Access
from auditor.errors import AccessDenied, QueryBudgetExceeded
from auditor.targets.base import Target, offers
from auditor.targets.split import SplitTarget, split_at


@dataclass
class QueryCounter:
    """Images sent through the target so far, and the limit."""

    limit: int | None = None
    forward: int = 0
    backward: int = 0

    def charge(self, n_images: int, *, differentiable: bool = False) -> None:
        """Book `n_images`; raises QueryBudgetExceeded before anything is sent when the limit would be passed."""
        if self.limit is not None and self.forward + n_images > self.limit:
            raise QueryBudgetExceeded(f"{self.forward} of {self.limit} queries used, {n_images} more wanted")
        self.forward += n_images
        if differentiable:
            self.backward += n_images


class _View:
    """What every level knows: shape, class count, counter. The target itself is reachable only by the methods given."""

    access: Access

    def __init__(self, target: Target | SplitTarget, counter: QueryCounter) -> None:
        self.n_classes = target.n_classes
        self.image_shape = target.image_shape
        self.counter = counter

    def state_dict(self) -> dict[str, Any]:
        """The account of queries, so that a training that goes on after a stop books all of them."""
        return {"forward": self.counter.forward, "backward": self.counter.backward}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from such an account."""
        self.counter.forward, self.counter.backward = state_dict["forward"], state_dict["backward"]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AccessDenied(f"a view at access level '{self.access}' has no '{name}'")


class LabelView(_View):
    """Label access: the winning class only."""

    access = Access.LABEL

    def __init__(self, target: Target, counter: QueryCounter) -> None:
        super().__init__(target, counter)

        @torch.no_grad()
        def labels(images: Tensor) -> Tensor:
            counter.charge(len(images))
            return target.logits(images).argmax(dim=1)

        self.labels = labels
        """(B, C, H, W) in [0, 1] to (B,) int64."""


class ScoreView(LabelView):
    """Score access: log-probabilities, detached."""

    access = Access.SCORE

    def __init__(self, target: Target, counter: QueryCounter) -> None:
        super().__init__(target, counter)

        @torch.no_grad()
        def log_probs(images: Tensor) -> Tensor:
            counter.charge(len(images))
            return log_softmax(target.logits(images).float(), dim=1)

        self.log_probs = log_probs
        """(B, C, H, W) in [0, 1] to (B, K) float32, no gradient."""


class WhiteBoxView(ScoreView):
    """White-box access: differentiable logits, and the layers behind them."""

    access = Access.WHITE_BOX

    def __init__(self, target: Target, counter: QueryCounter) -> None:
        super().__init__(target, counter)

        def logits(images: Tensor) -> Tensor:
            counter.charge(len(images), differentiable=torch.is_grad_enabled() and images.requires_grad)
            return target.logits(images)

        self.logits = logits
        """(B, C, H, W) in [0, 1] to (B, K), differentiable with respect to the images."""
        self.layers = () if target.module is None else tuple(target.module.modules())
        """Every module of the network, for hooks on its inner activations; not to be changed."""
        point = target.card.public_front
        if point is not None:
            split = split_at(target, point.layer)

            def behind_front(features: Tensor) -> Tensor:
                counter.charge(len(features))  # not booked as gradients of pictures, which is what a search is made of
                return split.tail(features)

            self.front_shape = split.point.shape
            self.front = split.encode
            """(B, C, H, W) in [0, 1] to (B, *front_shape): what the public model does too, so that it costs nothing."""
            self.behind_front = behind_front
            """(B, *front_shape) to (B, K), differentiable with respect to the features."""


class Knowledge(StrEnum):
    """What an attacker on a split model has beside what it saw pass."""

    ENCODER = "encoder"
    """The device's part: its outputs and their derivatives."""
    QUERIES = "queries"
    """What the device's part makes of images of the attacker's choice."""
    TAIL = "tail"
    """The server's part, and no answer of the device's."""


class SplitView(_View):
    """Split access: one part of a cut model, as far as `knowledge` goes.

    The counter counts images that the device's part was given; what goes through the server's part stays with the
    attacker, who owns it.

    Args:
        target: the cut model.
        knowledge: which part, and whether it can be differentiated.
        counter: of images sent to the device's part.

    Attributes:
        feature_shape: of what passes for one image.
    """

    access = Access.SPLIT

    def __init__(self, target: SplitTarget, knowledge: Knowledge, counter: QueryCounter) -> None:
        super().__init__(target, counter)
        self.knowledge = knowledge
        self.feature_shape = target.point.shape

        def encode(images: Tensor) -> Tensor:
            follow = knowledge is Knowledge.ENCODER and torch.is_grad_enabled()
            counter.charge(len(images), differentiable=follow and images.requires_grad)
            with torch.set_grad_enabled(follow):
                return target.encode(images)

        if knowledge is Knowledge.TAIL:
            self.tail = target.tail
            """(B, *feature_shape) to (B, K), differentiable with respect to the features."""
        else:
            self.encode = encode
            """(B, C, H, W) in [0, 1] to (B, *feature_shape); differentiable only with knowledge of the encoder."""


_VIEWS: dict[Access, type[LabelView]] = {
    Access.LABEL: LabelView,
    Access.SCORE: ScoreView,
    Access.WHITE_BOX: WhiteBoxView,
}


def narrow(target: Target, access: Access, *, max_queries: int | None = None) -> LabelView:
    """The view of `target` at `access`, with a fresh query counter.

    Raises:
        AccessDenied: the target does not offer this level.
    """
    if access not in _VIEWS or not offers(target, access):
        offered = ", ".join(target.card.access)
        raise AccessDenied(f"target '{target.card.name}' offers {offered}; '{access}' is not among them")
    return _VIEWS[access](target, QueryCounter(limit=max_queries))
