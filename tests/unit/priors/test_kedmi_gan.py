"""What the card of the inversion-specific GAN asks for."""

import math

import pytest
import torch

from auditor.contracts.access import Access
from auditor.errors import AccessDenied
from auditor.priors.base import Trait
from auditor.priors.kedmi_gan import KedmiGanBuilder, KedmiGanConfig, KnowledgeCritic, discriminator_loss, entropy
from auditor.priors.quality import hold_out, sample_images
from auditor.priors.storage import load_prior, save_prior
from auditor.targets.views import narrow
from auditor.tensors import ImageBatch, RunContext
from auditor.testing import ToyTarget, toy_images, toy_templates

SHAPE, K = (3, 16, 16), 6
TEMPLATES = toy_templates(K, SHAPE)
TARGET = ToyTarget(TEMPLATES, sharpness=0.5)
PUBLIC = toy_images(TEMPLATES, 40, noise=0.05)
CTX = RunContext(batch_size=64)
SMALL = {"latent_dim": 8, "width": 8, "steps": 4, "critic_steps": 2, "batch_size": 16}


def train(*, ctx=CTX, target=TARGET, access=Access.SCORE, public=PUBLIC, **params):
    oracle = narrow(target, access)
    return KedmiGanBuilder(KedmiGanConfig(**SMALL | params)).train(public, ctx, oracle), oracle


@pytest.fixture(scope="module")
def learnt():
    """Long enough to have learnt the target's answers."""
    return train(steps=150, critic_steps=3, lr=1e-3)[0]


@pytest.mark.parametrize(("flip", "share"), [(True, 2), (False, 1)])
def test_the_target_is_asked_once_about_each_public_image(flip, share):
    kept, _ = hold_out(PUBLIC.images, CTX)
    _, oracle = train(flip=flip)
    assert (oracle.counter.forward, oracle.counter.backward) == (share * len(kept), 0)
    _, longer = train(flip=flip, steps=8)
    assert longer.counter.forward == oracle.counter.forward


def test_scores_are_enough_and_needed():
    assert KedmiGanBuilder.access is Access.SCORE
    with pytest.raises(AccessDenied):
        train(access=Access.LABEL)
    with pytest.raises(ValueError, match="one target"):
        KedmiGanBuilder(KedmiGanConfig(**SMALL)).train(PUBLIC, CTX)


def test_the_critic_scores_each_image_alone():
    prior, _ = train()
    assert Trait.CRITIC in prior.traits
    images = PUBLIC.images[::24]
    whole = prior.critic(images)
    alone = torch.cat([prior.critic(image[None]) for image in images])
    torch.testing.assert_close(alone, whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(prior.critic(images.flip(0)), whole.flip(0), atol=1e-5, rtol=1e-5)


def test_the_critic_is_the_log_probability_of_being_real():
    prior, _ = train()
    images = PUBLIC.images[:5]
    score = torch.logsumexp(prior.networks["critic"](images), dim=1)
    torch.testing.assert_close(prior.critic(images), torch.sigmoid(score).log(), atol=1e-5, rtol=1e-4)
    leaf = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(prior.critic(leaf).sum(), leaf)
    assert bool((gradient != 0).any())


def test_the_discriminator_loss_by_hand():
    scores = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, -1.0]])
    answers = torch.tensor([[0.75, 0.25]]).log()
    knowledge = -0.75 * math.log(math.e / (math.e + 1)) - 0.25 * math.log(1 / (math.e + 1))
    real, fake = math.log(2), math.log(2) - 1
    expected = knowledge + 0.5 * (math.log1p(math.exp(-real)) + math.log1p(math.exp(fake)))
    assert float(discriminator_loss(scores, answers)) == pytest.approx(expected)


def test_entropy_by_hand():
    assert entropy(torch.zeros(2, 4)).tolist() == pytest.approx([math.log(4)] * 2)
    assert float(entropy(torch.tensor([[50.0, 0.0]]))) == pytest.approx(0, abs=1e-6)


def test_the_discriminator_knows_the_targets_answers(learnt):
    _, heldout = hold_out(PUBLIC.images, CTX)
    with torch.no_grad():
        guessed = learnt.networks["critic"](heldout).argmax(dim=1)
        said = TARGET.logits(heldout).argmax(dim=1)
    assert float((guessed == said).float().mean()) > 0.9


def test_public_pictures_look_more_real_than_noise_and_samples_spread(learnt):
    noise = torch.rand(64, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert float(learnt.critic(PUBLIC.images[:64]).mean()) > float(learnt.critic(noise).mean()) + 0.5
    assert 0.5 < learnt.quality["pixel_spread_ratio"] < 2


def test_another_target_gives_another_prior_and_the_same_one_the_same():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second = (train()[0] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.digest == second.digest
    assert train(ctx=RunContext(seed=1, batch_size=64))[0].digest != first.digest
    assert train(target=ToyTarget(toy_templates(K, SHAPE, seed=9)))[0].digest != first.digest
    assert train(public=ImageBatch(PUBLIC.images))[0].digest == first.digest


def test_the_targets_answers_do_not_depend_on_the_batch_size():
    first, second = (train(ctx=RunContext(batch_size=size))[0].state() for size in (512, 50))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-4, rtol=1e-3)


def test_storage_keeps_the_number_of_classes(tmp_path):
    prior, _ = train()
    path = tmp_path / "prior.safetensors"
    save_prior(prior, path)
    loaded = load_prior(path, torch.device("cpu"))
    assert loaded.n_classes == K
    assert loaded.digest == prior.digest
    assert torch.equal(loaded.critic(PUBLIC.images[:4]), prior.critic(PUBLIC.images[:4]))
    latents = torch.randn(3, prior.latent_dim, generator=torch.Generator().manual_seed(1))
    assert torch.equal(loaded.decode(latents), prior.decode(latents))


def test_samples_are_drawn_without_naming_a_class():
    prior, _ = train()
    assert Trait.CONDITIONAL not in prior.traits
    assert sample_images(prior, 3, torch.Generator().manual_seed(0), CTX).shape == (3, *SHAPE)


@pytest.mark.parametrize("size", [(1, 8, 8), (1, 28, 28), (3, 48, 40)])
def test_the_discriminator_takes_any_size(size):
    critic = KnowledgeCritic(size, 4, 7)
    images = torch.rand(2, *size)
    assert critic(images).shape == (2, 7)
    assert critic.features(images).ndim == 2
