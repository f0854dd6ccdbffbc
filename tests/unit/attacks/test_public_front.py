"""PPA by an attacker who has the public weights: the private part alone, then a picture for what it likes."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from auditor.attacks.base import KeyedContext, Rows
from auditor.attacks.if_gmi import IfGmi, IfGmiConfig
from auditor.attacks.objectives import Scene
from auditor.attacks.ppa import Ppa, PpaConfig
from auditor.attacks.public_front import PublicFront, draws_features, wanted_features
from auditor.attacks.rows import Chunks
from auditor.contracts.access import Access
from auditor.contracts.submission import SplitPoint
from auditor.errors import AccessDenied, QueryBudgetExceeded
from auditor.targets.torch_target import TorchTarget
from auditor.targets.views import narrow
from auditor.testing import ToyPrior, ToyTarget, toy_images, toy_templates
from auditor.testing.onnx_models import randomised
from auditor.testing.toy import toy_card

SHAPE = (1, 8, 8)
TEMPLATES = toy_templates(6, SHAPE)
PUBLIC = toy_images(toy_templates(12, SHAPE, seed=9), 20, noise=0.1).images
CTX = KeyedContext(attack_key="t")
ROWS = Rows(torch.tensor([0, 0, 3, 3]), torch.tensor([0, 1, 0, 1]))
QUICK = {"pool": 40, "steps": 8, "transforms": 2}


def target_of():
    """A public convolution, then what was learned in private."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 6))
    with torch.no_grad():
        layers[3].weight.mul_(4)
    card = toy_card(n_classes=6, image_shape=SHAPE)
    front = SplitPoint(layer="1", shape=(4, 8, 8))
    return TorchTarget(randomised(layers).eval(), card.model_copy(update={"public_front": front}))


TARGET = target_of()


def view_of(**options):
    return narrow(TARGET, Access.WHITE_BOX, **options)


@pytest.fixture(scope="module")
def front():
    found = PublicFront()
    found.measure(view_of(), PUBLIC, CTX, stage="front")
    return found


def attack_of(cls=Ppa, config=PpaConfig, **params):
    return cls(config(**(QUICK | {"front_weight": 1.0} | params)))


def aids_for(attack, ctx=CTX):
    return attack.prepare(view_of(), ToyPrior(TEMPLATES), PUBLIC, ctx)


def test_the_front_is_free_and_what_is_behind_it_is_counted():
    view, images = view_of(max_queries=5), torch.rand(5, *SHAPE)
    features = view.front(images)
    assert view.counter.forward == 0
    torch.testing.assert_close(view.behind_front(features), TARGET.logits(images))
    assert (view.counter.forward, view.counter.backward) == (5, 0)
    with pytest.raises(QueryBudgetExceeded):
        view.behind_front(features)
    view = view_of()
    view.behind_front(features.detach().requires_grad_(True))
    assert (view.counter.forward, view.counter.backward) == (5, 0)


def test_no_other_view_has_a_front():
    for view in (narrow(TARGET, Access.SCORE), narrow(ToyTarget(TEMPLATES), Access.WHITE_BOX)):
        with pytest.raises(AccessDenied):
            view.front(torch.rand(1, *SHAPE))


def test_coordinates_are_those_of_public_pictures_and_undo_features(front):
    seen = front.coordinates(view_of().front(PUBLIC))
    torch.testing.assert_close(seen.mean(dim=0), torch.zeros(seen.shape[1]), atol=1e-3, rtol=0)
    strong = front.deviations > 1e-2 * front.deviations[0]
    torch.testing.assert_close(seen.std(dim=0)[strong], torch.ones(int(strong.sum())), atol=0.05, rtol=0)
    codes = torch.randn(3, seen.shape[1])
    torch.testing.assert_close(front.coordinates(front.features(codes)), codes, atol=1e-2, rtol=0)


def test_what_the_private_part_likes_is_found_and_stays_ordinary(front):
    pictures = PUBLIC[:4]
    view = view_of()
    wanted, notes = wanted_features(
        view, front, pictures, ROWS, steps=40, lr=0.1, chunks=Chunks(CTX), ctx=CTX, stage="front"
    )
    assert view.counter.forward == 40 * 4
    assert notes == []

    def loss(coordinates):
        logits = view_of().behind_front(front.features(coordinates).unflatten(1, (4, 8, 8)))
        return cross_entropy(logits, ROWS.labels, reduction="none")

    with torch.no_grad():
        before = loss(front.coordinates(view_of().front(pictures)))
        assert bool((loss(wanted) < 0.7 * before).all())
    assert bool((wanted.square().mean(dim=1) < 2).all())
    scene = Scene(torch.zeros(4, 1), pictures, torch.zeros(1, 4, 6), ROWS.labels, ToyPrior(TEMPLATES), torch.arange(4))
    exact = front.coordinates(view_of().front(pictures))
    torch.testing.assert_close(draws_features(view, front, exact)(scene), torch.zeros(4))
    assert bool((draws_features(view, front, wanted)(scene) > 0).all())


def test_the_attack_draws_pictures_nearer_to_the_wanted_features(front):
    prior = ToyPrior(TEMPLATES)
    config = {"loss": "cross-entropy", "steps": 60, "candidates": 1}
    attacks = [attack_of(front_weight=weight, **config) for weight in (0.0, 10.0)]
    blind, knowing = (
        attack.run(view_of(), prior, (0, 3), 2, CTX, key="t", aids=aids_for(attack)).images for attack in attacks
    )
    start = attacks[0].run(view_of(), prior, (0, 3), 2, CTX, key="t").images
    torch.testing.assert_close(start, blind)
    assert not torch.equal(blind, knowing)


@pytest.mark.parametrize(("cls", "config"), [(Ppa, PpaConfig), (IfGmi, IfGmiConfig)])
def test_the_announced_cost_is_the_true_one_and_the_option_alone_makes_nothing_adaptive(cls, config):
    attack = attack_of(cls, config, averaged=2, candidates=2)
    view = view_of()
    attack.run(view, ToyPrior(TEMPLATES), (0, 3), 2, CTX, aids=aids_for(attack))
    cost = attack.cost(2, 2, 6)
    if cls is Ppa:
        assert (view.counter.forward, view.counter.backward) == (cost.forward, cost.backward)
    else:
        assert view.counter.forward <= cost.forward
    assert cost.helper_passes == 8 * 8
    assert not attack_of(front_weight=10.0).adaptive


def test_a_model_without_a_public_layer_is_told_apart():
    assert attack_of().inapplicable(TARGET) == ""
    assert "model.public_model" in attack_of().inapplicable(ToyTarget(TEMPLATES))
    assert attack_of(front_weight=0.0).inapplicable(ToyTarget(TEMPLATES)) == ""


def test_chunks_do_not_change_a_row_and_a_stored_front_is_the_same():
    prior, attack = ToyPrior(TEMPLATES), attack_of()
    aids = aids_for(attack)
    whole = attack.run(view_of(), prior, (0, 3), 2, CTX, aids=aids)
    small = KeyedContext(attack_key="t", batch_size=3)
    torch.testing.assert_close(attack.run(view_of(), prior, (0, 3), 2, small, aids=aids).images, whole.images)
    stored = attack.aids(SHAPE, 6)
    stored.load_state_dict(aids.state_dict())
    again = attack.run(view_of(), prior, (0, 3), 2, CTX, aids=stored)
    assert torch.equal(again.images, whole.images)


def test_a_budget_that_ends_it_is_said():
    attack = attack_of(candidates=1)
    result = attack.run(view_of(max_queries=44), ToyPrior(TEMPLATES), (0, 3), 2, CTX, aids=aids_for(attack))
    assert not result.complete
