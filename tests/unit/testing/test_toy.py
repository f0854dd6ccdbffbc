"""The fakes must keep the answers they promise."""

import pytest
import torch

from auditor.contracts.access import Access
from auditor.errors import AccessDenied
from auditor.priors.base import Prior, sample_latents
from auditor.targets.base import Target, offers
from auditor.targets.views import narrow
from auditor.tensors import RunContext
from auditor.testing import ToyPrior, ToyTarget, toy_image_set, toy_images, toy_templates


@pytest.fixture
def templates():
    return toy_templates(5, (3, 8, 8))


def test_the_template_is_the_best_image_of_its_class(templates):
    target: Target = ToyTarget(templates)
    logits = target.logits(templates)
    assert torch.equal(logits.argmax(dim=1), torch.arange(5))
    assert torch.allclose(logits.diagonal(), torch.zeros(5))
    images = templates.clone().requires_grad_()
    target.logits(images).diagonal().sum().backward()
    assert torch.allclose(images.grad, torch.zeros_like(templates))


def test_logits_are_minus_squared_distances(templates):
    image = torch.full((1, 3, 8, 8), 0.5)
    by_hand = [-2.0 * float(((image[0] - template) ** 2).sum()) for template in templates]
    assert ToyTarget(templates, sharpness=2.0).logits(image)[0].tolist() == pytest.approx(by_hand, rel=1e-5)


def test_access_narrows_what_the_target_gives(templates):
    target = ToyTarget(templates, access=(Access.SCORE, Access.LABEL))
    assert target.module is None
    assert not offers(target, Access.WHITE_BOX)
    assert not target.logits(templates.clone().requires_grad_()).requires_grad
    with pytest.raises(AccessDenied):
        narrow(target, Access.WHITE_BOX)
    assert torch.equal(narrow(target, Access.LABEL).labels(templates), torch.arange(5))


def test_different_templates_have_different_digests(templates):
    assert ToyTarget(templates).card.weights_digest == ToyTarget(templates.clone()).card.weights_digest
    assert ToyTarget(templates).card.weights_digest != ToyTarget(templates.flip(0)).card.weights_digest


@pytest.mark.parametrize("latent_dim", [None, 9])
def test_every_template_lies_in_the_prior(templates, latent_dim):
    prior: Prior = ToyPrior(templates, latent_dim=latent_dim)
    latents = prior.project(templates, RunContext())
    assert latents.shape == (5, prior.latent_dim)
    assert torch.allclose(prior.decode(latents), templates, atol=1e-5)
    assert torch.allclose(latents[:, :4].square().mean(dim=0), torch.ones(4), atol=1e-4)


def test_projection_undoes_decoding_and_decoding_has_a_gradient(templates):
    prior = ToyPrior(templates, latent_dim=8)
    latents = 0.3 * sample_latents(prior, 6, torch.Generator().manual_seed(1))
    assert torch.allclose(prior.project(prior.decode(latents), RunContext()), latents, atol=1e-4)
    latents.requires_grad_()
    prior.decode(latents).sum().backward()
    assert latents.grad is not None
    assert float(latents.grad.abs().sum()) > 0
    assert not any(p.requires_grad for p in prior.generator.parameters())


def test_the_critic_prefers_what_the_prior_can_draw(templates):
    assert ToyPrior(templates).critic(templates) is None
    prior = ToyPrior(templates, has_critic=True)
    noise = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    assert (prior.critic(templates) > prior.critic(noise) + 1).all()


def test_too_small_a_latent_is_refused(templates):
    with pytest.raises(ValueError, match="latent_dim"):
        ToyPrior(templates, latent_dim=2)


def test_noisy_copies_are_nearest_to_their_template(templates):
    batch = toy_images(templates, 4)
    assert torch.equal(ToyTarget(templates).logits(batch.images).argmax(dim=1), batch.labels)
    image_set = toy_image_set(templates, 4)
    assert image_set.images.shape == (20, 8, 8, 3)
    assert image_set.class_names == tuple(f"class-{i}" for i in range(5))
    assert image_set.digest == toy_image_set(templates, 4).digest
    assert image_set.digest != toy_image_set(templates, 4, seed=1).digest


def test_plain_gradient_descent_finds_the_template(templates):
    """The whole point: an attack on the raw logit through the prior ends at the template."""
    target, prior = ToyTarget(templates), ToyPrior(templates)
    latents = torch.zeros(5, prior.latent_dim, requires_grad=True)
    optimizer = torch.optim.Adam([latents], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        (-target.logits(prior.decode(latents)).diagonal().sum()).backward()
        optimizer.step()
    assert torch.allclose(prior.decode(latents).detach(), templates, atol=0.02)
