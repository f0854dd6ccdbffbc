"""What the cards of KEDMI and VMI ask for, and the Gaussians beneath them."""

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence
from torch.nn.functional import cross_entropy

from auditor.attacks.base import KeyedContext, Rows
from auditor.attacks.gaussian import Diagonal, Expected, FullCovariance
from auditor.attacks.kedmi import Kedmi, KedmiConfig
from auditor.attacks.objectives import Objective, latent_energy
from auditor.attacks.rows import RowStreams
from auditor.attacks.vmi import Vmi, VmiConfig
from auditor.contracts.access import Access
from auditor.targets.views import narrow
from auditor.tensors import RunContext
from auditor.testing import ToyPrior, ToyTarget, toy_templates

TEMPLATES = toy_templates(6)
CLASSES = (0, 2, 5)
FAMILIES = pytest.mark.parametrize("family", [Diagonal(), FullCovariance()], ids=["diagonal", "full"])


def toy_view(**options):
    return narrow(ToyTarget(TEMPLATES, sharpness=2.0), Access.WHITE_BOX, **options)


def attack(cls, samples=8, seed=0, prior=None, classes=CLASSES, **params):
    prior = prior or ToyPrior(TEMPLATES, has_critic=True)
    return cls(cls.Config(**params)).run(toy_view(), prior, classes, samples, RunContext(seed=seed))


def reached(result):
    with torch.no_grad():
        return float(cross_entropy(ToyTarget(TEMPLATES, sharpness=2.0).logits(result.images), result.labels))


def spread(result):
    """Standard deviation of a class's pictures, mean over classes and pixels."""
    return float(result.images.view(len(CLASSES), -1, 64).std(dim=1).mean())


def watched(monkeypatch, family):
    """Where the parameters that `family` drew with last will be found."""
    kept, draw = {}, family.draw

    def draw_and_keep(self, parameters, noise):
        kept["parameters"] = parameters.detach()
        return draw(self, parameters, noise)

    monkeypatch.setattr(family, "draw", draw_and_keep)
    return kept


@FAMILIES
def test_parameters_of_zero_are_the_prior_itself(family):
    zeros, noise = torch.zeros(2, family.n_parameters(4)), torch.randn(2, 3, 4)
    torch.testing.assert_close(family.draw(zeros, noise), noise)
    assert family.divergence(zeros).tolist() == [0, 0]


@FAMILIES
def test_divergence_is_that_of_the_normal_distributions_and_draws_have_its_moments(family):
    generator = torch.Generator().manual_seed(0)
    parameters = 0.5 * torch.randn(1, family.n_parameters(3), generator=generator)
    draws = family.draw(parameters, torch.randn(1, 200_000, 3, generator=generator))[0]
    base = family.draw(parameters, torch.zeros(1, 1, 3))[0, 0]
    factor = torch.stack([family.draw(parameters, axis[None, None])[0, 0] - base for axis in torch.eye(3)], dim=1)
    exact = MultivariateNormal(base, factor @ factor.T)
    torch.testing.assert_close(draws.mean(dim=0), exact.mean, atol=0.02, rtol=0)
    torch.testing.assert_close(draws.T.cov(), exact.covariance_matrix, atol=0.05, rtol=0)
    expected = kl_divergence(exact, MultivariateNormal(torch.zeros(3), torch.eye(3)))
    torch.testing.assert_close(family.divergence(parameters)[0], expected, atol=1e-5, rtol=1e-4)


@FAMILIES
def test_divergence_is_never_negative_and_pulls_everything_to_zero(family):
    parameters = torch.randn(64, family.n_parameters(5), generator=torch.Generator().manual_seed(1))
    assert float(family.divergence(parameters).min()) > 0
    leaf = (0.1 * parameters).requires_grad_(True)
    (gradient,) = torch.autograd.grad(family.divergence(leaf).sum(), leaf)
    assert bool((gradient * leaf > 0).all())


def test_a_full_covariance_can_lean_where_a_diagonal_cannot():
    family = FullCovariance()
    parameters = torch.zeros(1, family.n_parameters(2))
    parameters[0, -1] = 2.0
    draws = family.draw(parameters, torch.randn(1, 50_000, 2, generator=torch.Generator().manual_seed(0)))[0]
    assert float(draws.T.corrcoef()[0, 1]) == pytest.approx(2 / 5**0.5, abs=0.01)


def test_the_expected_loss_is_the_mean_over_the_draws_of_the_row():
    prior, context = ToyPrior(TEMPLATES), KeyedContext(attack_key="t")
    rows = Rows(torch.tensor([1, 4]), torch.zeros(2, dtype=torch.int64))
    inner = Objective(toy_view(), prior, rows.labels, ((1.0, latent_energy),), context)
    dim = prior.latent_dim
    expected = Expected(
        inner,
        Diagonal(),
        RowStreams(context, rows, "n"),
        dim=dim,
        samples=3,
        divergence_weight=0.0,
        clip=torch.inf,
    )
    assert expected.queries_per_row == 3
    noise = RowStreams(context, rows, "n").normal(3, dim)
    losses = expected(torch.zeros(2, 2 * dim), torch.arange(2), 0)
    torch.testing.assert_close(losses, 0.5 * noise.square().mean(dim=2).mean(dim=1))
    again = expected(torch.zeros(1, 2 * dim), torch.tensor([1]), 0)
    torch.testing.assert_close(again, losses[1:])
    assert not torch.equal(expected(torch.zeros(2, 2 * dim), torch.arange(2), 1), losses)


def test_kedmi_fresh_samples_are_recognised_and_differ():
    result = attack(Kedmi, steps=200, clip=3.0)
    assert reached(result) <= 0.1
    assert spread(result) > 0.005


def test_kedmi_latents_stay_within_the_clip():
    seen = []

    class Watched(ToyPrior):
        def decode(self, latents, labels=None):
            seen.append(float(latents.detach().abs().max()))
            return super().decode(latents)

    attack(Kedmi, steps=20, prior=Watched(TEMPLATES, has_critic=True), clip=0.7)
    assert max(seen) == pytest.approx(0.7)


def test_kedmi_deviation_is_neither_lost_nor_blown_up(monkeypatch):
    kept = watched(monkeypatch, Diagonal)
    attack(Kedmi, samples=1, steps=200)
    _, log_var = kept["parameters"].chunk(2, dim=1)
    assert 0.05 < float((0.5 * log_var).exp().mean()) < 2


def test_kedmi_makes_pictures_more_real_when_the_critic_counts():
    prior = ToyPrior(TEMPLATES, latent_dim=12, has_critic=True)
    free, held = (attack(Kedmi, prior=prior, steps=60, critic_weight=weight) for weight in (0.0, 50.0))
    prior.critic = lambda images: -(images - 0.5).square().flatten(1).mean(dim=1)
    grey = attack(Kedmi, prior=prior, steps=60, critic_weight=1e4)
    assert float(prior.critic(grey.images).mean()) > float(prior.critic(free.images).mean())
    assert reached(held) < 1


@pytest.mark.parametrize("cls", [Kedmi, Vmi])
def test_a_sample_does_not_depend_on_how_many_are_wanted_and_each_costs_nothing(cls):
    few, many = attack(cls, samples=2, steps=15), attack(cls, samples=5, steps=15)
    wanted = many.sample < 2
    torch.testing.assert_close(many.images[wanted], few.images, atol=1e-6, rtol=0)
    view = toy_view()
    cls(cls.Config(steps=15, samples=4)).run(view, ToyPrior(TEMPLATES, has_critic=True), CLASSES, 7, RunContext())
    assert view.counter.forward == view.counter.backward == 15 * 4 * len(CLASSES)


def test_the_start_is_the_same_draw_of_the_prior():
    prior, context = ToyPrior(TEMPLATES, has_critic=True), KeyedContext(attack_key="kedmi")
    rows = Rows(torch.tensor([2, 2]), torch.arange(2))
    result = Kedmi(KedmiConfig(steps=1, clip=9.0)).invert(toy_view(max_queries=0), prior, rows, context, ())
    noise = RowStreams(context, rows, "draw").normal(prior.latent_dim)
    torch.testing.assert_close(result.start, prior.decode(noise))
    assert torch.equal(result.images, result.start)


@FAMILIES
def test_vmi_with_a_heavy_divergence_stays_the_prior(family, monkeypatch):
    kept = watched(monkeypatch, type(family))
    settings = {"steps": 60, "lr": 0.1, "covariance": "full" if isinstance(family, FullCovariance) else "diagonal"}
    guided = attack(Vmi, divergence_weight=0.01, **settings)
    assert float(family.divergence(kept["parameters"]).min()) > 1
    held = attack(Vmi, divergence_weight=1e3, **settings)
    assert float(family.divergence(kept["parameters"]).max()) < 0.1
    assert reached(guided) < 0.2
    assert reached(held) > 1


def test_vmi_without_divergence_is_narrower():
    bare, held = (attack(Vmi, steps=100, lr=0.1, divergence_weight=weight) for weight in (0.0, 0.05))
    assert spread(bare) < 0.9 * spread(held)


def test_vmi_needs_no_critic_and_takes_a_conditional_prior():
    assert Vmi.needs == frozenset()
    prior = ToyPrior(TEMPLATES, conditional=True)
    assert reached(attack(Vmi, prior=prior, steps=60, lr=0.1)) < 0.3


def test_configurations_out_of_range_are_refused():
    for params in ({"samples": 0}, {"covariance": "flow"}, {"divergence_weight": -1.0}):
        with pytest.raises(ValueError, match=next(iter(params))):
            VmiConfig(**params)
