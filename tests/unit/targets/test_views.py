"""Narrowed views: a level reaches its own and no more, and budgets bite before anything is sent."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from auditor.contracts.access import Access
from auditor.contracts.manifest import InputSpec
from auditor.contracts.submission import ModelFormat, Output, TargetCard
from auditor.errors import AccessDenied, QueryBudgetExceeded
from auditor.targets.torch_target import TorchTarget
from auditor.targets.views import LabelView, QueryCounter, ScoreView, WhiteBoxView, narrow

LEVELS = {
    Access.LABEL: {"labels"},
    Access.SCORE: {"labels", "log_probs"},
    Access.WHITE_BOX: {"labels", "log_probs", "logits"},
}


class Counted(nn.Module):
    """A linear classifier that remembers how many images it saw."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 3)
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.linear(images.flatten(1))


def target(access: tuple[Access, ...] = (Access.WHITE_BOX, Access.SCORE, Access.LABEL)) -> TorchTarget:
    card = TargetCard(
        name="t",
        format=ModelFormat.SAFETENSORS,
        digest="0",
        weights_digest="0",
        architecture="small-cnn",
        n_classes=3,
        input=InputSpec(channels=1, height=8, width=8),
        output=Output.LOGITS,
        n_parameters=1,
        access=access,
    )
    return TorchTarget(Counted(), card)


@pytest.mark.parametrize("level", list(LEVELS))
def test_a_view_offers_its_level_and_nothing_above(level: Access) -> None:
    view = narrow(target(), level)
    assert view.access is level
    assert (view.n_classes, view.image_shape) == (3, (1, 8, 8))
    images = torch.rand(2, 1, 8, 8)
    for name in LEVELS[level]:
        assert len(getattr(view, name)(images)) == 2
    for name in {"labels", "log_probs", "logits", "module", "card", "target", "_target", "parameters"} - LEVELS[level]:
        with pytest.raises(AccessDenied, match="has no"):
            getattr(view, name)
    assert not any(isinstance(value, nn.Module | TorchTarget) for value in vars(view).values())


def test_scores_and_labels_carry_no_gradient_and_logits_do() -> None:
    view = narrow(target(), Access.WHITE_BOX)
    assert isinstance(view, WhiteBoxView)
    images = torch.rand(2, 1, 8, 8, requires_grad=True)
    assert not view.log_probs(images).requires_grad
    assert not view.labels(images).requires_grad
    view.logits(images).sum().backward()
    assert images.grad is not None
    torch.testing.assert_close(view.log_probs(images).exp().sum(1), torch.ones(2))


def test_queries_are_counted_and_gradients_apart() -> None:
    view = narrow(target(), Access.WHITE_BOX)
    assert isinstance(view, WhiteBoxView)
    images = torch.rand(3, 1, 8, 8)
    view.labels(images)
    view.log_probs(images)
    view.logits(images)
    view.logits(images.requires_grad_())
    assert (view.counter.forward, view.counter.backward) == (12, 3)


@pytest.mark.parametrize("level", list(LEVELS))
def test_a_budget_is_enforced_before_anything_is_sent(level: Access) -> None:
    wrapped = target()
    view = narrow(wrapped, level, max_queries=5)
    for name in LEVELS[level]:
        view.counter.forward = 0
        call = getattr(view, name)
        call(torch.rand(5, 1, 8, 8))
        seen = wrapped.module.seen
        with pytest.raises(QueryBudgetExceeded, match="5 of 5"):
            call(torch.rand(1, 1, 8, 8))
        assert wrapped.module.seen == seen
        assert view.counter.forward == 5


def test_a_refused_call_leaves_the_counter_alone() -> None:
    counter = QueryCounter(limit=3)
    with pytest.raises(QueryBudgetExceeded):
        counter.charge(4)
    counter.charge(3)
    assert counter.forward == 3


def test_a_target_without_a_level_cannot_be_narrowed_to_it() -> None:
    scores_only = target((Access.SCORE, Access.LABEL))
    assert isinstance(narrow(scores_only, Access.SCORE), ScoreView)
    assert isinstance(narrow(scores_only, Access.LABEL), LabelView)
    with pytest.raises(AccessDenied, match="offers score, label"):
        narrow(scores_only, Access.WHITE_BOX)
    with pytest.raises(AccessDenied, match="split"):
        narrow(target(), Access.SPLIT)
