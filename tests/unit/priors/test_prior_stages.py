"""The parts of a prior: together they are `decode`, bit for bit, and what lies between them matters."""

import pytest
import torch
from torch import nn

from auditor.priors.base import Trait
from auditor.priors.catalog import PRIORS
from auditor.priors.dcgan import DcganBuilder, DcganConfig
from auditor.priors.resized import ResizedPrior
from auditor.priors.vae import VaeBuilder, VaeConfig

SIZES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 30, 33)]
N_STAGES = {
    "dcgan": {(1, 8, 8): 2, (1, 28, 28): 3, (3, 32, 32): 4, (1, 30, 33): 3},
    "vae": {(1, 8, 8): 2, (1, 28, 28): 3, (3, 32, 32): 4, (1, 30, 33): 3},
    "linear vae": {(1, 8, 8): 2, (1, 28, 28): 2, (3, 32, 32): 2, (1, 30, 33): 2},
}
BUILDERS = {
    "dcgan": DcganBuilder(DcganConfig(latent_dim=6, width=4)),
    "vae": VaeBuilder(VaeConfig(latent_dim=6, width=4, steps=1)),
    "linear vae": VaeBuilder(VaeConfig(latent_dim=6, steps=0)),
}
every_prior = pytest.mark.parametrize("name", BUILDERS)
every_size = pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))


def prior_of(name, size):
    """A prior whose every weight and running statistic is random, so that no part is silent."""
    prior = BUILDERS[name].blank(size)
    generator = torch.Generator().manual_seed(0)
    for key, value in prior.generator.state_dict().items():
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator)
            value.copy_(noise + 0.5 if "running_var" in key else 0.3 * (noise - 0.5))
    return prior


def latents_of(prior, n=5):
    return torch.randn(n, prior.latent_dim, generator=torch.Generator().manual_seed(1))


def through(stages, x):
    for stage in stages:
        x = stage(x)
    return x


@every_prior
@every_size
def test_the_composition_is_decode_bit_for_bit(name, size):
    prior = prior_of(name, size)
    latents = latents_of(prior)
    assert Trait.STAGES in prior.traits
    assert len(prior.stages) == N_STAGES[name][size]
    assert torch.equal(through(prior.stages, latents), prior.decode(latents))


@every_prior
def test_gradients_through_the_parts_are_those_of_decode(name):
    prior = prior_of(name, (1, 28, 28))
    latents = latents_of(prior).requires_grad_(True)
    weights = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(2))
    gradients = [
        torch.autograd.grad((images * weights).sum(), latents)[0]
        for images in (through(prior.stages, latents), prior.decode(latents))
    ]
    assert torch.equal(*gradients)
    assert bool((gradients[0] != 0).any())


@every_prior
def test_whatever_lies_between_two_parts_changes_the_picture(name):
    prior = prior_of(name, (3, 32, 32))
    stages, latents = prior.stages, latents_of(prior)
    for cut in range(1, len(stages)):
        features = through(stages[:cut], latents).requires_grad_(True)
        images = through(stages[cut:], features)
        (gradient,) = torch.autograd.grad(images.sum(), features)
        moving = (gradient != 0).float().mean()
        assert float(moving) > 0.3, cut


@every_prior
def test_rows_do_not_mix(name):
    prior = prior_of(name, (1, 28, 28))
    latents = latents_of(prior)
    x, alone = latents, latents[3:4]
    for stage in prior.stages:
        x, alone = stage(x), stage(alone)
        torch.testing.assert_close(alone, x[3:4], atol=1e-5, rtol=1e-5)


@every_prior
def test_the_parts_hold_the_priors_own_weights(name):
    prior = prior_of(name, (1, 28, 28))
    own = {parameter.data_ptr() for parameter in prior.generator.parameters()}
    parts = nn.ModuleList(prior.stages)
    assert {parameter.data_ptr() for parameter in parts.parameters()} == own
    assert not any(parameter.requires_grad for parameter in parts.parameters())
    norms = [module for module in parts.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert not any(norm.training for norm in norms)


def test_no_part_of_the_vae_begins_at_pixels():
    size = (3, 32, 32)
    widths = [through(prior_of("vae", size).stages[:cut], torch.zeros(1, 6)).shape for cut in (1, 2, 3)]
    assert widths == [(1, 6 + 16 * 4 * 4), (1, 6 + 8 * 8 * 8), (1, 6 + 4 * 16 * 16)]
    assert through(prior_of("linear vae", size).stages[:1], torch.zeros(1, 6)).shape == (1, 6)


@every_prior
def test_a_resized_prior_has_as_many_parts_and_none_begins_at_pixels(name):
    inner = prior_of(name, (1, 28, 28))
    prior = ResizedPrior(inner, (1, 20, 24))
    latents = latents_of(prior)
    assert len(prior.stages) == len(inner.stages)
    assert torch.equal(through(prior.stages, latents), prior.decode(latents))


@pytest.mark.parametrize("name", PRIORS.names)
def test_the_trait_tells_the_truth(name):
    builder = PRIORS.build(name, {})
    prior = builder.blank((1, 8, 8), 3)
    assert (len(prior.stages) > 1) == (Trait.STAGES in prior.traits)
    assert prior.traits == builder.traits
