import math
from dataclasses import replace

import pytest
import torch

from auditor.errors import Cancelled, InvalidInput
from auditor.priors.base import sample_labels
from auditor.priors.catalog import PRIORS
from auditor.priors.dcgan import DcganCritic, DcganGenerator, gradient_penalty
from auditor.priors.network import crop, grid_of, pad_to, refine_projection
from auditor.priors.quality import hold_out, sample_images
from auditor.priors.storage import load_prior, save_prior
from auditor.priors.vae import VaeBuilder, VaeConfig, reconstruction_error
from auditor.priors.vae_networks import VaeDecoder, VaeEncoder
from auditor.targets.views import narrow
from auditor.tensors import ImageBatch, RunContext
from auditor.testing import ToyTarget, toy_images, toy_templates

SHAPE = (3, 16, 16)
TEMPLATES = toy_templates(6, SHAPE)
PUBLIC = toy_images(TEMPLATES, 40, noise=0.05)
CTX = RunContext(batch_size=64)
CPU = torch.device("cpu")
SMALL = {
    "vae": {"latent_dim": 12, "width": 8, "steps": 40},
    "vae-gan": {"gan_steps": 4, "critic_width": 8, "latent_dim": 12, "width": 8, "steps": 40},
    "dcgan": {"latent_dim": 8, "width": 8, "steps": 4, "critic_steps": 2, "batch_size": 16},
    "kedmi-gan": {"latent_dim": 8, "width": 8, "steps": 4, "critic_steps": 2, "batch_size": 16},
    "plg-gan": {"latent_dim": 8, "width": 4, "steps": 4, "batch_size": 16},
    "tac-gan": {"latent_dim": 8, "width": 4, "warm_up": 2, "steps": 4, "batch_size": 16, "per_class": 20}
    | {"surrogate_epochs": 1, "surrogate_width": 4},
    "pixel": {"grid": 4},
    "pixels": {},
    "dip": {"width": 6},
}
SIZES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 48, 40), (1, 30, 33), (3, 64, 64)]
every_prior = pytest.mark.parametrize("name", PRIORS.names)


def oracle_of(name):
    """The target a prior is made for, at its builder's level; None for a prior of public images alone."""
    access = PRIORS.get(name).access
    return None if access is None else narrow(ToyTarget(TEMPLATES), access)


def classes_for(prior, n):
    """Classes for a prior that draws one at a time; None for any other."""
    return sample_labels(prior, n, torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def trained():
    return {name: PRIORS.build(name, SMALL[name]).train(PUBLIC, CTX, oracle_of(name)) for name in PRIORS.names}


@every_prior
def test_every_entry_is_documented(name):
    entry = PRIORS.get(name)
    assert entry.__doc__
    assert entry.paper
    row = next(row for row in PRIORS.describe() if row["name"] == name)
    assert set(row["parameters"]) == set(entry.Config.model_fields)
    with pytest.raises(InvalidInput, match="no_such"):
        PRIORS.build(name, {"no_such": 1})


@every_prior
def test_pictures_have_the_right_shape_and_range_and_follow_the_latent(trained, name):
    prior = trained[name]
    latents = torch.randn(5, prior.latent_dim, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    images = prior.decode(latents, classes_for(prior, 5))
    assert images.shape == (5, *SHAPE)
    assert images.dtype == torch.float32
    assert bool(((images >= 0) & (images <= 1)).all())
    assert not torch.equal(images[0], images[1])
    (gradient,) = torch.autograd.grad(images.sum(), latents)
    assert bool((gradient != 0).any())


@every_prior
def test_networks_are_frozen_and_in_eval_mode(trained, name):
    prior = trained[name]
    assert not any(parameter.requires_grad for parameter in prior.networks.parameters())
    assert not any(module.training for module in prior.networks.modules())
    assert prior.generator is prior.networks["generator"]


@every_prior
def test_storage_gives_the_same_bytes_back(trained, name, tmp_path):
    prior = trained[name]
    path = tmp_path / "prior.safetensors"
    assert save_prior(prior, path) == prior.digest
    loaded = load_prior(path, CPU)
    latents = torch.randn(3, prior.latent_dim, generator=torch.Generator().manual_seed(1))
    classes = classes_for(prior, 3)
    assert torch.equal(prior.decode(latents, classes), loaded.decode(latents, classes))
    assert (loaded.digest, loaded.quality, loaded.config) == (prior.digest, prior.quality, prior.config)
    assert (loaded.name, loaded.latent_dim, loaded.image_shape) == (prior.name, prior.latent_dim, prior.image_shape)
    again = tmp_path / "again.safetensors"
    save_prior(loaded, again)
    assert again.read_bytes() == path.read_bytes()
    assert not list(tmp_path.glob("*.part"))


def test_a_changed_file_is_refused(trained, tmp_path):
    path = tmp_path / "prior.safetensors"
    save_prior(trained["vae"], path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InvalidInput, match="altered"):
        load_prior(path, CPU)
    path.write_bytes(b"no prior file")
    with pytest.raises(InvalidInput, match="no prior file"):
        load_prior(path, CPU)
    with pytest.raises(InvalidInput, match="no prior file"):
        load_prior(tmp_path / "missing", CPU)


@pytest.mark.parametrize("name", ["vae", "vae-gan", "dcgan"])
def test_same_seed_same_digest_whatever_the_global_state(trained, name):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = PRIORS.build(name, SMALL[name]).train(PUBLIC, CTX)
    assert torch.equal(torch.get_rng_state(), state)
    assert again.digest == trained[name].digest
    other = PRIORS.build(name, SMALL[name]).train(PUBLIC, RunContext(seed=1, batch_size=64))
    assert other.digest != again.digest


@pytest.mark.parametrize("name", sorted(set(PRIORS.names) - {"pixel", "pixels", "dip"}))
@pytest.mark.parametrize("stop", [0.3, 0.8])
def test_a_stopped_training_goes_on_to_the_same_bytes(trained, name, stop, tmp_path):
    total, ticks = [], []

    def stage(text, done, n):
        ticks.append((text, done, n))

    PRIORS.build(name, SMALL[name]).train(PUBLIC, replace(CTX, on_tick=stage), oracle_of(name))
    total, ticks = [tick for tick in ticks if tick[0].startswith("train")], []
    kept = replace(CTX, unfinished=tmp_path)
    last = total[round(stop * (len(total) - 1))]
    stopped = replace(kept, on_tick=stage, is_cancelled=lambda: bool(ticks) and ticks[-1] == last)
    with pytest.raises(Cancelled):
        PRIORS.build(name, SMALL[name]).train(PUBLIC, stopped, oracle_of(name))
    ticks.clear()
    oracle, other = oracle_of(name), oracle_of(name)
    again = PRIORS.build(name, SMALL[name]).train(PUBLIC, replace(kept, on_tick=stage), oracle)
    assert again.digest == trained[name].digest
    assert [tick for tick in ticks if tick[0].startswith("train")] == total[total.index(last) + 1 :]
    if oracle is not None:
        PRIORS.build(name, SMALL[name]).train(PUBLIC, CTX, other)
        assert oracle.counter.forward == other.counter.forward


@pytest.mark.parametrize("name", ["vae", "vae-gan", "dcgan"])
def test_labels_do_not_matter(trained, name):
    unlabelled = ImageBatch(PUBLIC.images)
    assert PRIORS.build(name, SMALL[name]).train(unlabelled, CTX).digest == trained[name].digest


@pytest.mark.parametrize("name", ["vae", "vae-gan", "dcgan"])
def test_quality_figures_are_finite(trained, name):
    quality = trained[name].quality
    assert set(quality) == {"pixel_spread_ratio", "reconstruction_mse", "image_variance", "nearest_sample_mse"}
    assert all(math.isfinite(value) and value > 0 for value in quality.values())


@every_prior
def test_projection_comes_nearer_than_its_guess(trained, name):
    prior, images = trained[name], PUBLIC.images[::20]
    classes = classes_for(prior, len(images))
    guess = prior.decode(prior.guess(images, CTX, classes), classes)
    found = prior.decode(prior.project(images, CTX, classes), classes)
    errors = [(picture - images).square().flatten(1).mean(dim=1) for picture in (guess, found)]
    assert bool((errors[1] <= errors[0] + 1e-5).all())


def test_refinement_keeps_the_best_of_each_row(trained):
    prior = trained["vae"]
    images = PUBLIC.images[:4]
    start = prior.encode(images)
    wild = refine_projection(prior, images, start, steps=5, lr=50.0)
    assert torch.equal(wild, start)


def test_vae_redraws_and_samples_like_the_data(trained):
    prior = trained["vae"]
    assert prior.quality["reconstruction_mse"] < 0.25 * prior.quality["image_variance"]
    assert 0.5 < prior.quality["pixel_spread_ratio"] < 2
    assert prior.critic(PUBLIC.images[:1]) is None


def test_vae_latents_of_real_pictures_are_standard(trained):
    latents = trained["vae"].encode(PUBLIC.images)
    assert float(latents.mean(dim=0).abs().max()) < 0.2
    assert float(latents.std(dim=0).max()) < 1.15


@pytest.mark.parametrize("steps", [0, 1])
def test_vae_starts_at_the_principal_components(steps):
    config = VaeConfig(latent_dim=12, width=8, steps=steps, lr=1e-12, edge_weight=0)
    prior = VaeBuilder(config).train(PUBLIC, CTX)
    kept, _ = hold_out(PUBLIC.images, CTX)
    flat = kept.flatten(1)
    centred = flat - flat.mean(dim=0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    expected = (centred @ directions[:12].T @ directions[:12] + flat.mean(dim=0)).clamp(0, 1)
    best = float((expected - flat).square().mean())
    reached = float((prior.decode(prior.encode(kept)).flatten(1) - flat).square().mean())
    assert best <= reached <= 1.1 * best


def test_without_steps_the_vae_is_linear_and_round_trips(tmp_path):
    prior = VaeBuilder(VaeConfig(latent_dim=12, steps=0)).train(PUBLIC, CTX)
    path = tmp_path / "linear.safetensors"
    save_prior(prior, path)
    assert load_prior(path, CPU).digest == prior.digest
    decoder = prior.networks["generator"]
    zero, one, two = (decoder.paint(torch.full((1, 12), value)) for value in (0.0, 1.0, 2.0))
    torch.testing.assert_close(two - one, one - zero)
    assert prior.quality["reconstruction_mse"] < 0.25 * prior.quality["image_variance"]


def test_reconstruction_error_by_hand():
    painted, images = torch.zeros(1, 1, 2, 2), torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    assert float(reconstruction_error(painted, images, 0.0)) == 0.5
    assert float(reconstruction_error(painted, images, 2.0)) == 0.5 + 2 * 1.0


@pytest.mark.parametrize("size", SIZES)
def test_networks_take_any_size(size):
    images = torch.rand(2, *size)
    mean, log_var = VaeEncoder(size, 6, 4)(images)
    assert mean.shape == log_var.shape == (2, 6)
    assert VaeDecoder(size, 6, 4)(mean).shape == images.shape
    assert DcganGenerator(size, 6, 4).eval()(mean).shape == images.shape
    critic = DcganCritic(size, 4)
    assert critic(images).shape == (2,)
    assert bool(torch.isfinite(gradient_penalty(critic, images)))


def test_critic_leaves_the_norm_out_where_one_pixel_is_left():
    assert grid_of((1, 8, 8)) == (1, 4, 4)
    assert grid_of((1, 28, 28)) == (2, 7, 7)
    assert grid_of((3, 64, 64)) == (4, 4, 4)
    norms = [m for m in DcganCritic((3, 32, 32), 4).body if isinstance(m, torch.nn.InstanceNorm2d)]
    assert len(norms) == 2
    assert DcganCritic((1, 4, 4), 4)(torch.rand(2, 1, 4, 4)).shape == (2,)


def test_critic_scores_real_above_noise_after_training():
    prior = PRIORS.build("dcgan", SMALL["dcgan"] | {"steps": 15, "lr": 1e-3}).train(PUBLIC, CTX)
    noise = torch.rand(64, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert float(prior.critic(PUBLIC.images[:64]).mean()) > float(prior.critic(noise).mean())


def test_vae_gan_critic_tells_real_pictures_from_a_plain_vae(trained):
    prior = PRIORS.build("vae-gan", SMALL["vae-gan"] | {"gan_steps": 100, "gan_lr": 1e-3}).train(PUBLIC, CTX)
    drawn = sample_images(trained["vae"], 64, torch.Generator().manual_seed(0), CTX)
    assert float(prior.critic(PUBLIC.images[:64]).mean()) > float(prior.critic(drawn).mean())


def test_vae_gan_moves_the_decoder_alone_and_still_redraws(trained):
    vae, sharpened = PRIORS.build("vae", {**SMALL["vae"]}).train(PUBLIC, CTX), trained["vae-gan"]
    before, after = vae.networks.state_dict(), sharpened.networks.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items() if name.startswith("encoder."))
    assert any(not torch.equal(after[name], value) for name, value in before.items() if name.startswith("generator."))
    assert sharpened.quality["reconstruction_mse"] < 0.3 * sharpened.quality["image_variance"]


def test_padding_is_undone_by_cropping():
    images = torch.rand(1, 1, 5, 7)
    assert torch.equal(crop(pad_to(images, 8, 8), 5, 7), images)


def test_held_out_images_are_not_trained_on():
    kept, heldout = hold_out(torch.arange(100.0)[:, None, None, None], CTX)
    assert len(kept) == 95
    assert not set(kept.flatten().tolist()) & set(heldout.flatten().tolist())
    few = torch.rand(10, 1, 8, 8)
    assert hold_out(few, CTX) == (few, few)


def test_samples_come_from_the_generator_given(trained):
    prior = trained["dcgan"]
    first, second = (sample_images(prior, 5, torch.Generator().manual_seed(3), CTX) for _ in range(2))
    assert torch.equal(first, second)


def test_training_can_be_cancelled():
    from auditor.errors import Cancelled

    for name in ("vae", "dcgan"):
        with pytest.raises(Cancelled):
            PRIORS.build(name, SMALL[name]).train(PUBLIC, RunContext(is_cancelled=lambda: True))
