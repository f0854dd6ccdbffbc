"""Where a model can be cut, that both parts make the whole, and what an attacker on a cut model reaches."""

import onnx
import pytest
import torch
from torch import nn

from auditor.contracts.access import Access
from auditor.errors import AccessDenied, QueryBudgetExceeded, UnknownName, UnsupportedModel
from auditor.targets.architectures import build_architecture
from auditor.targets.onnx_graph import interpret
from auditor.targets.split import cut_points, split_at, with_split
from auditor.targets.torch_target import TorchTarget
from auditor.targets.views import Knowledge, QueryCounter, SplitView, narrow
from auditor.testing import ToyTarget, toy_templates
from auditor.testing.onnx_models import exported, randomised
from auditor.testing.toy import toy_card

SHAPE = (3, 16, 16)


class Gated(nn.Module):
    """Skips, a reused layer, an in-place activation, a side branch: what makes most places no place to cut."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 6, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.joined = nn.BatchNorm2d(6)
        self.twice = nn.Conv2d(6, 6, 1)
        self.gate = nn.Linear(6, 6)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        a = self.act(self.stem(x))
        b = self.joined(a + self.inner(a))
        c = self.twice(self.twice(b))
        pooled = c.mean(dim=(2, 3))
        return self.head(pooled * self.gate(pooled).sigmoid())


def target_of(module, shape=SHAPE):
    torch.manual_seed(0)
    return TorchTarget(module, toy_card(n_classes=5, image_shape=shape))


def small(name="small-cnn"):
    torch.manual_seed(0)
    return randomised(build_architecture(name, n_classes=5, channels=3))


def images(n=3, shape=SHAPE):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(3))


def onnx_target(*, dynamo=True):
    proto = onnx.load_from_string(exported(small("small-resnet"), SHAPE, opset=18, dynamo=dynamo))
    return target_of(interpret(proto, SHAPE))


def test_only_places_that_carry_everything_are_listed_in_execution_order():
    names = [point.name for point in cut_points(target_of(Gated()))]
    assert names == ["stem", "act", "joined"]
    names = [point.name for point in cut_points(target_of(small("small-resnet")))]
    assert names == ["stem.0", "stem.1", "stem", "blocks.0", "blocks.1", "blocks", "pool"]


@pytest.mark.parametrize("make", [lambda: target_of(Gated()), lambda: target_of(small()), onnx_target])
def test_at_every_cut_the_two_parts_make_the_whole(make):
    target, x = make(), images()
    whole = target.logits(x)
    points = cut_points(target)
    assert len(points) >= 3
    for point in points:
        split = split_at(target, point.name)
        features = split.encode(x)
        assert features.shape == (3, *point.shape)
        torch.testing.assert_close(split.tail(features), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [lambda: target_of(small()), onnx_target])
def test_the_scores_follow_the_features_and_nothing_else(make):
    """The tail's answer changes with the features given, row by row, and derivatives reach them."""
    target = make()
    split = split_at(target, cut_points(target)[2].name)
    features = split.encode(images()).detach().requires_grad_(True)
    scores = split.tail(features)
    torch.testing.assert_close(split.tail(features.flip(0)), scores.flip(0), atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(scores[0].sum(), features)
    assert float(gradient[0].abs().sum()) > 0
    assert float(gradient[1:].abs().sum()) == 0


def test_the_features_do_not_change_when_the_tail_works_in_place():
    split = split_at(target_of(Gated()), "stem")
    features = split.encode(images())
    before = features.clone()
    split.tail(features)
    assert torch.equal(features, before)


def test_aliases_mean_the_same_place():
    target = target_of(small("small-resnet"))
    assert split_at(target, "blocks.2").point.name == split_at(target, "blocks").point.name == "blocks"


def test_both_exporters_of_onnx_can_be_cut_at_the_same_shapes():
    native = {point.shape for point in cut_points(target_of(small("small-resnet")))}
    for dynamo in (False, True):
        shapes = {point.shape for point in cut_points(onnx_target(dynamo=dynamo))}
        assert native <= shapes


def test_an_unknown_layer_lists_the_possible_ones():
    with pytest.raises(UnknownName, match=r"Did you mean 'blocks.1'.*Possible: stem.0, stem.1, stem, blocks.0"):
        split_at(target_of(small("small-resnet")), "block.1")
    with pytest.raises(UnknownName, match="no layer"):
        split_at(ToyTarget(toy_templates(4)), "anything")


def test_a_score_level_target_cannot_be_cut():
    target = ToyTarget(toy_templates(4), access=(Access.SCORE, Access.LABEL))
    with pytest.raises(UnsupportedModel, match="only its scores"):
        cut_points(target)


def test_the_card_says_where_it_is_cut_and_offers_the_level():
    target = target_of(small("small-resnet"))
    card = with_split(target.card, split_at(target, "blocks.2"))
    assert card.split.layer == "blocks"
    assert card.access == (Access.WHITE_BOX, Access.SPLIT, Access.SCORE, Access.LABEL)
    assert target.card.split is None


REACH = {Knowledge.ENCODER: "encode", Knowledge.QUERIES: "encode", Knowledge.TAIL: "tail"}


@pytest.mark.parametrize("knowledge", list(Knowledge))
def test_a_view_reaches_one_part_and_no_scores(knowledge):
    view = SplitView(split_at(target_of(small("small-resnet")), "blocks.0"), knowledge, QueryCounter())
    assert view.access is Access.SPLIT
    assert (view.n_classes, view.image_shape, view.feature_shape) == (5, SHAPE, (32, 8, 8))
    for name in {"encode", "tail", "logits", "log_probs", "labels", "layers"} - {REACH[knowledge]}:
        with pytest.raises(AccessDenied):
            getattr(view, name)


def test_only_knowledge_of_the_encoder_gives_derivatives():
    split = split_at(target_of(small("small-resnet")), "blocks.0")
    for knowledge, follows in ((Knowledge.ENCODER, True), (Knowledge.QUERIES, False)):
        counter = QueryCounter()
        x = images().requires_grad_(True)
        features = SplitView(split, knowledge, counter).encode(x)
        assert features.requires_grad is follows
        assert (counter.forward, counter.backward) == (3, 3 if follows else 0)


def test_the_budget_bites_before_the_device_is_asked_and_the_tail_is_free():
    split = split_at(target_of(small("small-resnet")), "blocks.0")
    view = SplitView(split, Knowledge.QUERIES, QueryCounter(limit=4))
    features = view.encode(images())
    with pytest.raises(QueryBudgetExceeded):
        view.encode(images())
    assert view.counter.forward == 3
    tail = SplitView(split, Knowledge.TAIL, QueryCounter(limit=0))
    assert tail.tail(features).shape == (3, 5)
    assert tail.counter.forward == 0


def test_the_views_of_the_whole_model_know_no_split():
    with pytest.raises(AccessDenied):
        narrow(target_of(small()), Access.SPLIT)
