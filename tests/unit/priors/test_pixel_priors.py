"""Priors of an attacker who owns no images: the picture itself, and the weights of an untrained decoder."""

import pytest
import torch
from torch.nn.functional import conv2d, interpolate, leaky_relu

from auditor.contracts.plan import AttackSpec, AuditPlan, PriorSpec
from auditor.priors.base import Trait
from auditor.priors.catalog import PRIORS
from auditor.priors.dip import DipGenerator
from auditor.priors.quality import sample_images
from auditor.priors.storage import load_prior, save_prior
from auditor.risk.evidence import KNOWLEDGE_FREE
from auditor.service.stages.means import ready_priors
from auditor.service.workspace import Workspace
from auditor.tensors import ImageBatch, RunContext
from auditor.testing import ToyTarget, toy_images, toy_templates

CTX = RunContext(batch_size=64)
SHAPE = (3, 16, 16)
IMAGES = toy_images(toy_templates(4, SHAPE), 2, noise=0.02).images


def made(name, shape=SHAPE, ctx=CTX, **params):
    return PRIORS.build(name, params).train(ImageBatch(torch.zeros(1, *shape)), ctx)


def test_whoever_knows_no_image_is_known_to_know_none():
    assert {prior.name for prior in PRIORS if Trait.PIXELS in prior.traits} == KNOWLEDGE_FREE


@pytest.mark.parametrize("name", ["pixels", "dip"])
def test_the_public_images_do_not_matter(name):
    other = PRIORS.build(name, {}).train(ImageBatch(IMAGES), CTX)
    assert other.digest == made(name).digest
    assert other.target_queries == 0


def test_they_are_ready_without_public_images(tmp_path):
    plan = AuditPlan(
        name="p",
        attacks=(AttackSpec(name="pixel-tv"),),
        priors=(PriorSpec(name="vae"), PriorSpec(name="pixels"), PriorSpec(name="dip", params={"width": 4})),
    )
    workspace = Workspace(root=tmp_path / "unit", cache=tmp_path / "cache")
    target = ToyTarget(toy_templates(4, SHAPE))
    ready = ready_priors(workspace, plan, target, None, CTX)
    assert {"pixels", "dip"} <= set(ready)
    assert "vae" not in ready
    assert ready["dip"].training_data_digest == ""
    assert ready["dip"].prior.digest == made("dip", width=4).digest
    assert ready_priors(workspace, plan, target, None, CTX)["dip"].cached


# pixels


def test_the_latent_is_the_picture():
    prior = made("pixels")
    assert prior.latent_dim == 3 * 16 * 16
    latents = torch.linspace(-3, 3, prior.latent_dim)[None]
    expected = [min(1.0, max(0.0, 0.5 + value / 4)) for value in latents[0].tolist()]
    assert prior.decode(latents).flatten().tolist() == pytest.approx(expected, abs=1e-6)
    box = prior.decode(torch.tensor([[-2.0, 2.0]]).repeat(1, prior.latent_dim // 2)).flatten()
    assert box[::2].eq(0).all()
    assert box[1::2].eq(1).all()


def test_projection_is_exact():
    prior = made("pixels")
    latents = prior.project(IMAGES, CTX)
    torch.testing.assert_close(prior.decode(latents), IMAGES, atol=1e-6, rtol=0)
    assert float(latents.abs().max()) <= 2


def test_samples_are_noise_around_grey():
    samples = sample_images(made("pixels"), 50, torch.Generator().manual_seed(0), CTX)
    assert float(samples.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(samples.std()) == pytest.approx(0.25, abs=0.02)


def test_the_gradient_reaches_the_edge_of_the_range_and_not_beyond():
    prior = made("pixels", (1, 8, 8))
    latents = torch.tensor([-2.5, -2.0, 0.0, 2.0, 2.5]).repeat(13)[:64][None].requires_grad_()
    (gradient,) = torch.autograd.grad(prior.decode(latents).sum(), latents)
    assert gradient[0, :5].tolist() == [0.0, 0.25, 0.25, 0.25, 0.0]


# dip


def by_hand(generator, latent):
    """One decoder, layer by layer, its weights cut from the latent one number after another."""
    numbers, place = latent.tolist(), 0
    x, width = generator.fixed_input[None], generator.width
    for outputs in generator.layers:
        count = outputs * width * 9
        weights = torch.tensor(numbers[place : place + count]).view(outputs, width, 3, 3)
        shifts = torch.tensor(numbers[place + count : place + count + outputs])
        place += count + outputs
        x = conv2d(x, weights * (2 / (1.04 * width * 9)) ** 0.5, padding=1)
        if place < len(numbers):
            x = (x - x.mean(dim=(2, 3), keepdim=True)) / (x.var(dim=(2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
            x = leaky_relu(x + 0.1 * shifts[:, None, None], 0.2)
            x = interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        else:
            x = x + 0.1 * shifts[:, None, None]
    assert place == len(numbers)
    return torch.sigmoid(x)[..., : generator.height, : generator.columns]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (1, 30, 33)])
def test_rows_are_drawn_by_networks_of_their_own(shape):
    prior = made("dip", shape, width=5)
    latents = torch.randn(3, prior.latent_dim, generator=torch.Generator().manual_seed(0))
    together = prior.decode(latents)
    assert together.shape == (3, *shape)
    for row in range(3):
        torch.testing.assert_close(together[row : row + 1], by_hand(prior.generator, latents[row]), atol=1e-5, rtol=0)
        torch.testing.assert_close(together[row], prior.decode(latents[row : row + 1])[0], atol=1e-5, rtol=0)


def test_a_row_has_no_gradient_from_another():
    prior = made("dip", width=4)
    latents = torch.randn(3, prior.latent_dim, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(prior.decode(latents)[1].sum(), latents)
    assert bool((gradient[[0, 2]] == 0).all())
    assert float(gradient[1].abs().max()) > 0


def test_the_latent_of_the_default_is_small_enough_for_a_cpu():
    assert made("dip", (3, 64, 64)).latent_dim < 20_000
    assert DipGenerator((3, 64, 64), 16, 6).layers == [16] * 4 + [3]


def test_random_networks_draw_varied_pictures_that_are_smoother_than_noise():
    prior = made("dip")
    drawn = sample_images(prior, 32, torch.Generator().manual_seed(0), CTX)
    steps = (drawn[..., 1:] - drawn[..., :-1]).std()
    assert float(drawn.std(dim=0).mean()) > 0.1
    assert float(steps) < 0.7 * float(drawn.std()) * 2**0.5  # independent pixels: exactly sqrt 2 of the deviation


def test_projection_redraws_pictures():
    prior = made("dip")
    found = prior.decode(prior.project(IMAGES, CTX))
    assert float((found - IMAGES).square().mean()) < 0.1 * float((IMAGES - IMAGES.mean(dim=0)).square().mean())


def test_the_fixed_input_follows_the_seed_and_is_stored(tmp_path):
    prior = made("dip", width=4)
    assert prior.digest != made("dip", width=4, ctx=RunContext(seed=1)).digest
    assert 0 <= float(prior.generator.fixed_input.min()) < float(prior.generator.fixed_input.max()) <= 0.1
    path = tmp_path / "prior.safetensors"
    save_prior(prior, path)
    loaded = load_prior(path, torch.device("cpu"))
    assert torch.equal(loaded.generator.fixed_input, prior.generator.fixed_input)
