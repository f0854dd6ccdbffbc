import pytest
import torch

from auditor.attacks.augment import OPTIMISE, Augmenter
from auditor.attacks.base import KeyedContext, Rows
from auditor.attacks.objectives import (
    IDENTITY_LOSSES,
    Objective,
    Scene,
    cross_entropy,
    identity,
    latent_energy,
    latent_shell,
    max_margin,
    poincare,
    unreal,
)
from auditor.attacks.rows import RowStreams
from auditor.contracts.access import Access
from auditor.targets.views import narrow
from auditor.testing import ToyPrior, ToyTarget, toy_templates

TEMPLATES = toy_templates(5)
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-3.0, 4.0, 1.0]])
LABELS = torch.tensor([0, 2, 1])


def scene(latents=None, logits=None, labels=None, prior=None):
    latents = torch.zeros(3, 4) if latents is None else latents
    logits = LOGITS[None] if logits is None else logits
    return Scene(latents, torch.zeros(len(latents), 1, 8, 8), logits, LABELS if labels is None else labels, prior)


def test_cross_entropy_is_torchs_per_sample():
    expected = torch.nn.functional.cross_entropy(LOGITS, LABELS, reduction="none")
    torch.testing.assert_close(cross_entropy(LOGITS, LABELS), expected)


def test_max_margin_by_hand():
    assert max_margin(LOGITS, LABELS).tolist() == [-1.5, 0.0, -3.0]


def test_max_margin_does_not_fade_where_cross_entropy_does():
    logits = torch.tensor([[60.0, 0.0, 0.0]], requires_grad=True)
    (faded,) = torch.autograd.grad(cross_entropy(logits, torch.tensor([0])).sum(), logits)
    (kept,) = torch.autograd.grad(max_margin(logits, torch.tensor([0])).sum(), logits)
    assert float(faded.abs().sum()) < 1e-6
    assert float(kept.abs().sum()) == 2.0


def test_poincare_by_its_formula():
    centred = LOGITS[0] - LOGITS[0].mean()
    u = centred / centred.abs().sum()
    v = torch.tensor([1 - 1e-4, 0.0, 0.0])
    ratio = 1 + 2 * ((u - v) ** 2).sum() / ((1 - (u**2).sum()) * (1 - (v**2).sum()))
    torch.testing.assert_close(poincare(LOGITS[:1], LABELS[:1])[0], torch.acosh(ratio))


@pytest.mark.parametrize("loss", IDENTITY_LOSSES.values(), ids=IDENTITY_LOSSES)
def test_log_probabilities_give_the_same_loss_as_logits(loss):
    torch.testing.assert_close(loss(LOGITS.log_softmax(dim=1), LABELS), loss(LOGITS, LABELS))


def test_poincare_prefers_the_wanted_class():
    assert float(poincare(torch.tensor([[9.0, 1.0, 1.0]]), torch.tensor([0]))) < float(
        poincare(torch.tensor([[1.0, 9.0, 1.0]]), torch.tensor([0]))
    )


@pytest.mark.parametrize("loss", IDENTITY_LOSSES.values(), ids=IDENTITY_LOSSES)
@pytest.mark.parametrize("row", [[0.0, 0.0, 0.0], [1e4, 0.0, 0.0], [1.0, 0.0, 0.0], [-1e4, 1e4, 0.0]])
def test_losses_and_gradients_stay_finite_at_the_edges(loss, row):
    logits = torch.tensor([row], requires_grad=True)
    value = loss(logits, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert bool(torch.isfinite(value).all())
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("loss", IDENTITY_LOSSES.values(), ids=IDENTITY_LOSSES)
def test_losses_are_per_sample(loss):
    whole = loss(LOGITS, LABELS)
    single = torch.cat([loss(LOGITS[i : i + 1], LABELS[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(whole, single)


def test_identity_averages_over_copies():
    logits = torch.stack([LOGITS, LOGITS.roll(1, dims=1)])
    expected = (max_margin(logits[0], LABELS) + max_margin(logits[1], LABELS)) / 2
    torch.testing.assert_close(identity(max_margin)(scene(logits=logits)), expected)


def test_latent_terms():
    inside = torch.full((1, 4), 0.5)
    outside = torch.full((1, 4), 3.0)
    assert float(latent_energy(scene(inside))) == pytest.approx(0.125)
    assert float(latent_shell(scene(inside))) == 0.0
    assert float(latent_shell(scene(outside))) == pytest.approx(4.0)
    zero = torch.zeros(1, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(latent_shell(scene(zero)).sum(), zero)
    assert bool(torch.isfinite(gradient).all())


def test_unreal_is_minus_the_critic_and_refuses_a_prior_without_one():
    with_critic = ToyPrior(TEMPLATES, has_critic=True)
    shown = scene(torch.zeros(2, 4), prior=with_critic)
    torch.testing.assert_close(unreal(shown), -with_critic.critic(shown.images))
    with pytest.raises(ValueError, match="critic"):
        unreal(scene(torch.zeros(2, 4), prior=ToyPrior(TEMPLATES)))


def test_objective_counts_copies_and_keeps_rows_apart():
    rows = Rows(torch.tensor([0, 1, 2]), torch.zeros(3, dtype=torch.int64))
    ctx = KeyedContext(attack_key="t")
    view, prior = narrow(ToyTarget(TEMPLATES), Access.WHITE_BOX), ToyPrior(TEMPLATES)
    latents = torch.randn(3, prior.latent_dim, generator=torch.Generator().manual_seed(0))

    def value(index):
        augmenter = Augmenter(RowStreams(ctx, rows, "augment"), OPTIMISE, 2)
        objective = Objective(
            view, prior, rows.labels, ((1.0, identity(cross_entropy)), (0.5, latent_energy)), ctx, augmenter=augmenter
        )
        assert objective.queries_per_row == 2
        return objective(latents[index], index, 0)

    whole = value(torch.arange(3))
    assert view.counter.forward == 6
    torch.testing.assert_close(value(torch.tensor([2])), whole[2:])


@pytest.mark.parametrize("loss", ["poincare", "cross-entropy"])
def test_losses_are_taken_in_float32_under_autocast(loss):
    """1 - ||u||^2 cancels: in bfloat16 the Poincaré distance of a confident answer is lost."""
    seen = []

    def watched(logits, labels):
        seen.append((logits.dtype, torch.is_autocast_enabled("cpu")))
        return IDENTITY_LOSSES[loss](logits, labels)

    class Half(ToyTarget):
        def logits(self, images):
            assert torch.is_autocast_enabled("cpu")
            return super().logits(images).bfloat16()

    ctx = KeyedContext(attack_key="t", autocast_bf16=True)
    view, prior = narrow(Half(TEMPLATES), Access.WHITE_BOX), ToyPrior(TEMPLATES)
    latents = torch.zeros(3, prior.latent_dim)
    labels = torch.tensor([0, 1, 2])
    losses = Objective(view, prior, labels, ((1.0, identity(watched)),), ctx)(latents, torch.arange(3), 0)
    assert seen == [(torch.float32, False)]
    assert losses.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = IDENTITY_LOSSES[loss](LOGITS, LABELS)
    assert torch.equal(inside, IDENTITY_LOSSES[loss](LOGITS, LABELS))
