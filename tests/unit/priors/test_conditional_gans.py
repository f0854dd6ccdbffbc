"""What the cards of PLG-MI's and LOKT's priors ask for."""

import math

import pytest
import torch

from auditor.contracts.access import Access
from auditor.errors import Cancelled
from auditor.priors.base import Trait
from auditor.priors.catalog import PRIORS
from auditor.priors.conditional_networks import (
    ClassifyingDiscriminator,
    ConditionalBatchNorm,
    ConditionalGenerator,
    ProjectionDiscriminator,
    SurrogateClassifier,
)
from auditor.priors.plg_gan import class_batch, pseudo_labels
from auditor.priors.storage import load_prior, save_prior
from auditor.targets.views import narrow
from auditor.tensors import ImageBatch, RunContext
from auditor.testing import ToyTarget, toy_images, toy_templates

SHAPE, K = (1, 8, 8), 4
TEMPLATES = toy_templates(K, SHAPE)
PUBLIC = toy_images(TEMPLATES, 60, noise=0.05)
CTX = RunContext(batch_size=64)
PARAMS = {
    "plg-gan": {"latent_dim": 8, "width": 8, "steps": 120, "batch_size": 32},
    "tac-gan": {"latent_dim": 8, "width": 8, "warm_up": 30, "steps": 240, "batch_size": 32}
    | {"per_class": 60, "surrogate_epochs": 6, "surrogate_width": 8},
}
_TINY = {"steps": 3, "batch_size": 8, "latent_dim": 4, "width": 4}
QUICK = {"plg-gan": _TINY, "tac-gan": _TINY | {"warm_up": 1, "per_class": 5, "surrogate_epochs": 1}}
both = pytest.mark.parametrize("name", list(PARAMS))


def target():
    return ToyTarget(TEMPLATES, sharpness=2.0)


def train(name, params, *, public=PUBLIC, context=CTX, victim=None):
    view = narrow(victim or target(), PRIORS.get(name).access)
    return PRIORS.build(name, params).train(public, context, view), view


@pytest.fixture(scope="module")
def trained():
    return {name: train(name, params) for name, params in PARAMS.items()}


@torch.no_grad()
def drawn(prior, n=50):
    """(K * n) pictures of all classes, with these."""
    labels = torch.arange(prior.n_classes).repeat_interleave(n)
    return prior.decode(
        torch.randn(len(labels), prior.latent_dim, generator=torch.Generator().manual_seed(3)), labels
    ), labels


@both
def test_pictures_of_a_class_are_the_targets_class_far_more_often_than_chance(trained, name):
    images, labels = drawn(trained[name][0])
    hits = (target().logits(images).argmax(dim=1) == labels).float()
    assert float(hits.mean()) >= 1.6 / K


@both
def test_another_class_changes_the_picture_and_tables_have_a_row_per_class(trained, name):
    prior, _ = trained[name]
    latents = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    first, second = (prior.decode(latents, torch.full((3,), label)) for label in (0, 1))
    assert float((first - second).abs().mean()) > 0.02
    norms = [module for module in prior.generator.modules() if isinstance(module, ConditionalBatchNorm)]
    assert len(norms) == 2
    assert all(len(norm.gain.weight) == len(norm.shift.weight) == K == prior.n_classes for norm in norms)


@both
def test_a_class_must_be_named(trained, name):
    prior, _ = trained[name]
    for ask in (lambda: prior.decode(torch.zeros(1, 8)), lambda: prior.project(PUBLIC.images[:1], CTX)):
        with pytest.raises(ValueError, match="not told which"):
            ask()


@both
def test_the_guess_is_the_nearest_sample_of_the_same_class(trained, name):
    prior, _ = trained[name]
    images, labels = PUBLIC.images[:6], torch.tensor([0, 1, 2, 3, 1, 0])
    guess = prior.guess(images, CTX, labels)
    pool = torch.randn(prior.n_guesses, 8, generator=CTX.rng("prior", "projection"))
    for row, label in enumerate(labels.tolist()):
        samples = prior.decode(pool, torch.full((len(pool),), label))
        errors = (samples - images[row]).square().flatten(1).sum(dim=1)
        assert torch.equal(guess[row], pool[errors.argmin()])
    found = prior.decode(prior.project(images, CTX, labels), labels)
    assert float((found - images).square().mean()) <= float((prior.decode(guess, labels) - images).square().mean())


@both
def test_figures_are_finite_and_the_stored_prior_draws_the_same(trained, name, tmp_path):
    prior, _ = trained[name]
    assert all(math.isfinite(value) for value in prior.quality.values())
    assert prior.quality["answered_classes_frac"] == 1
    save_prior(prior, tmp_path / "prior")
    loaded = load_prior(tmp_path / "prior", torch.device("cpu"))
    assert (loaded.digest, loaded.n_classes, loaded.traits) == (prior.digest, K, prior.traits)
    images, _ = drawn(prior, 3)
    assert torch.equal(drawn(loaded, 3)[0], images)
    if Trait.SURROGATE in prior.traits:
        assert torch.equal(loaded.surrogate(images), prior.surrogate(images))


@both
def test_same_seed_same_digest_and_labels_of_public_images_do_not_matter(name):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, _ = train(name, QUICK[name])
    assert torch.equal(torch.get_rng_state(), state)
    second, _ = train(name, QUICK[name], public=ImageBatch(PUBLIC.images), context=RunContext(batch_size=50))
    other, _ = train(name, QUICK[name], context=RunContext(seed=1, batch_size=64))
    assert first.digest == second.digest != other.digest


@both
def test_the_target_is_left_as_it_was_and_gets_no_gradients(name):
    victim = target()
    before = victim.templates.clone()
    train(name, QUICK[name], victim=victim)
    assert torch.equal(victim.templates, before)
    assert all(parameter.grad is None for parameter in victim.module.parameters())


@both
def test_training_needs_a_target_and_can_be_cancelled(name):
    builder = PRIORS.build(name, QUICK[name])
    with pytest.raises(ValueError, match="made for one target"):
        builder.train(PUBLIC, CTX)
    with pytest.raises(Cancelled):
        train(name, QUICK[name], context=RunContext(is_cancelled=lambda: True))


def test_plg_gan_queries_are_one_per_public_image_and_one_per_picture_of_a_generator_step(trained):
    prior, view = trained["plg-gan"]
    assert view.counter.forward == len(PUBLIC) + 120 * 32
    assert view.counter.backward == 120 * 32
    assert prior.traits == {Trait.CONDITIONAL}
    assert 0 < prior.quality["least_pseudo_label_confidence"] <= prior.quality["pseudo_label_confidence"] <= 1


def test_every_class_gets_exactly_n_images_even_one_that_never_wins():
    scores = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.15, 0.05], [0.7, 0.1, 0.2], [0.1, 0.86, 0.04]]).log()
    members, sureness = pseudo_labels(scores, 2)
    assert members.tolist() == [[0, 1], [3, 1], [2, 1]]
    torch.testing.assert_close(sureness, torch.tensor([[0.9, 0.8], [0.86, 0.15], [0.2, 0.05]]))


@pytest.mark.parametrize(
    ("wanted", "n_images", "n_classes", "given"),
    [
        (None, 5000, 5, 300),
        (None, 5000, 100, 50),
        (None, 5000, 1000, 30),
        (None, 20, 5, 20),
        (7, 5000, 5, 7),
        (70, 50, 5, 50),
    ],
)
def test_how_many_images_stand_for_a_class(wanted, n_images, n_classes, given):
    assert PRIORS.build("plg-gan", {"per_class": wanted})._per_class(n_images, n_classes) == given


def test_a_batch_shows_every_class_by_its_own_members():
    images = torch.arange(6.0)[:, None, None, None].expand(6, 1, 1, 2)
    members = torch.tensor([[0, 1], [2, 3], [4, 5]])
    batch, classes = class_batch(images, members, 200, flip=True, generator=torch.Generator().manual_seed(0))
    assert torch.equal((batch[:, 0, 0, 0] // 2).long(), classes)
    assert classes.bincount().min() > 40


def test_the_margin_through_the_target_makes_classes_more_certain(trained):
    blind, _ = train("plg-gan", PARAMS["plg-gan"] | {"margin_weight": 0})
    sure = []
    for prior in (trained["plg-gan"][0], blind):
        images, labels = drawn(prior)
        probabilities = target().logits(images).detach().softmax(dim=1)
        sure.append(float(probabilities.gather(1, labels[:, None]).mean()))
    assert sure[0] > sure[1]


class OnlyLabels:
    """An oracle that has nothing but `labels`."""

    n_classes = K

    def __init__(self):
        self.asked = 0

    def labels(self, images):
        self.asked += len(images)
        return target().logits(images).argmax(dim=1)


def test_tac_gan_asks_for_labels_of_its_own_pictures_alone_and_as_often_as_it_says():
    oracle = OnlyLabels()
    params = {"warm_up": 2, "steps": 3, "critic_steps": 2, "batch_size": 8, "per_class": 5, "width": 4, "latent_dim": 4}
    seen = []
    ask, oracle.labels = oracle.labels, lambda images: seen.append(images) or ask(images)
    PRIORS.build("tac-gan", params).train(PUBLIC, CTX, oracle)
    assert oracle.asked == 3 * 2 * 8 + 5 * K
    assert float(torch.cdist(torch.cat(seen).flatten(1), PUBLIC.images.flatten(1)).min()) > 0.01


def test_surrogates_agree_with_the_target_on_drawn_pictures(trained):
    prior, view = trained["tac-gan"]
    assert view.access is Access.LABEL
    assert view.counter.forward == 240 * 2 * 32 + 60 * K
    images, _ = drawn(prior)
    logits = prior.surrogate(images)
    assert logits.shape == (2, len(images), K)
    agreement = (logits.argmax(dim=2) == target().logits(images).argmax(dim=1)).float().mean(dim=1)
    assert float(agreement.min()) > 0.6
    assert 0.6 < prior.quality["class_head_agreement"] <= 1
    assert 0.6 < prior.quality["surrogate_agreement"] <= 1


def test_surrogates_are_differentiable(trained):
    images = PUBLIC.images[:3].clone().requires_grad_(True)
    for logits in trained["tac-gan"][0].surrogate(images):
        (gradient,) = torch.autograd.grad(logits[:, 0].sum(), images, retain_graph=True)
        assert bool((gradient.flatten(1).abs().sum(dim=1) > 0).all())


@pytest.mark.parametrize("size", [(1, 8, 8), (3, 32, 32), (3, 48, 40), (1, 30, 33)])
def test_networks_take_any_size(size):
    labels = torch.tensor([0, 2])
    images = ConditionalGenerator(size, 5, 4, 3)(torch.randn(2, 5), labels)
    assert images.shape == (2, *size)
    assert bool(((images >= 0) & (images <= 1)).all())
    assert ProjectionDiscriminator(size, 4, 3)(images, labels).shape == (2,)
    real, classes = ClassifyingDiscriminator(size, 4, 3)(images)
    assert (real.shape, classes.shape) == ((2,), (2, 3))
    assert SurrogateClassifier(size, 4, 3)(images).shape == (2, 3)
