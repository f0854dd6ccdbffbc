"""The adaptive options: each does what it says to pictures, and sees through the defense it is made for."""

import math

import pytest
import torch
from torch.nn.functional import conv2d, pad

from auditor.attacks.adaptive import Erase, Noise, Scrub, blurred, erased
from auditor.attacks.augment import IDENTITY, Augmenter
from auditor.attacks.base import KeyedContext, Rows
from auditor.attacks.catalog import ATTACKS
from auditor.attacks.objectives import Objective, Scene, cross_entropy, identity, towards
from auditor.attacks.ppa import Ppa, PpaConfig
from auditor.attacks.rows import RowStreams
from auditor.contracts.access import Access
from auditor.errors import InvalidInput
from auditor.targets.views import narrow
from auditor.tensors import RunContext
from auditor.testing import ToyPrior, ToyTarget, toy_templates

TEMPLATES = toy_templates(6)
ROWS = Rows(torch.tensor([0, 0, 3, 3]), torch.tensor([0, 1, 0, 1]))
CTX = KeyedContext(attack_key="t")
PICTURES = torch.rand(4, 3, 12, 10, generator=torch.Generator().manual_seed(0))
CHECKERS = ((torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2 - 1).float()[None]  # (1, 8, 8) of -1 and 1
OPTIONS = {
    "averaged": {"averaged": 3},
    "confidence": {"confidence": (0.6, 0.9)},
    "erase": {"erase": 0.3, "averaged": 2},
    "noise": {"noise": 0.1, "averaged": 2},
    "scrub": {"scrub": 1.0},
    "all": {"averaged": 2, "confidence": (0.7, 1.0), "erase": 0.2, "noise": 0.05, "scrub": 0.8},
}
CHANGES = {
    "erase": lambda streams: Erase(streams, 2, 0.5),
    "noise": lambda streams: Noise(streams, 2, 0.1),
    "scrub": lambda streams: Scrub(streams, 2, 1.0),
}
every_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


def uniform(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def ppa(target=None, prior=None, *, rows=ROWS, ctx=CTX, **params):
    view = narrow(target or ToyTarget(TEMPLATES, sharpness=2.0), Access.WHITE_BOX)
    config = PpaConfig(**{"pool": 100, "steps": 40, "candidates": 1, "transforms": 4} | params)
    return Ppa(config).invert(view, prior or ToyPrior(TEMPLATES), rows, ctx, ()), view


def test_one_square_is_hidden_and_the_rest_is_untouched():
    picture = PICTURES[:1].expand(200, -1, -1, -1)
    changed = erased(picture, uniform(200, 3), 0.4)
    hole = (changed != picture).any(dim=1)
    mean = picture[0].mean(dim=(1, 2))
    for mask, image in zip(hole, changed, strict=True):
        rows, columns = mask.any(dim=1), mask.any(dim=0)
        assert torch.equal(mask, rows[:, None] & columns)
        for line in (rows, columns):
            first, last = int(line.nonzero()[0]), int(line.nonzero()[-1])
            assert bool(line[first : last + 1].all())
        assert abs(int(rows.sum()) - int(columns.sum())) <= 1
        torch.testing.assert_close(image[:, mask], mean[:, None].expand(-1, int(mask.sum())))
    area = hole.float().mean(dim=(1, 2))
    assert 0.05 < float(area.min()) < 0.15
    assert 0.35 < float(area.max()) < 0.5
    assert bool(hole.any(dim=0)[1:-1, 1:-1].all())
    assert not bool(hole.all(dim=0).any())


def test_what_is_hidden_has_no_gradient():
    images = PICTURES.clone().requires_grad_(True)
    changed = erased(images, uniform(4, 3), 0.4)
    (gradient,) = torch.autograd.grad(changed.sum(), images)
    assert torch.equal(gradient, (changed == images).float())
    assert bool((gradient == 0).any())


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.3])
def test_blur_against_a_plain_convolution(sigma):
    reach = math.ceil(3 * sigma)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = (weights[:, None] * weights / weights.sum() ** 2)[None, None]
    wide = pad(PICTURES.flatten(0, 1)[:, None], (reach,) * 4, mode="replicate")
    whole = blurred(PICTURES, sigma)
    torch.testing.assert_close(whole.flatten(0, 1)[:, None], conv2d(wide, kernel))
    scaled = blurred(PICTURES, sigma, torch.tensor([0.9, 1.0, 0.5, 0.7]))
    torch.testing.assert_close(scaled[1], whole[1])
    torch.testing.assert_close(scaled[2], blurred(PICTURES[2:3], sigma / 2)[0], atol=0.01, rtol=0)
    assert not torch.allclose(scaled[2], whole[2], atol=0.01)


def test_blur_takes_fine_patterns_away_and_leaves_coarse_ones():
    fine = 0.5 + 0.02 * CHECKERS[None]
    assert float((blurred(fine, 1.0) - 0.5)[..., 3:5, 3:5].abs().max()) < 0.001
    coarse = TEMPLATES[:1]
    assert float((blurred(coarse, 0.7) - coarse).square().mean()) < 0.1 * float(coarse.var())


def test_blur_is_taken_in_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = blurred(PICTURES, 1.0)
    assert torch.equal(inside, blurred(PICTURES, 1.0))


@every_change
def test_changes_are_a_rows_own_and_the_same_when_asked_again(change):
    images = PICTURES.repeat(2, 1, 1, 1)  # two copies of four rows
    index = torch.arange(4)
    whole = change(RowStreams(CTX, ROWS, "x"))
    first, again = whole(images, index, 3), whole(images, index, 3)
    assert torch.equal(first, again)
    assert bool(((first >= 0) & (first <= 1)).all())
    part = change(RowStreams(CTX, ROWS, "x"))(PICTURES[[2, 3]].repeat(2, 1, 1, 1), index[[2, 3]], 3)
    assert torch.equal(part, first[[2, 3, 6, 7]])
    assert not torch.equal(first[:4], first[4:])
    assert not torch.equal(whole(images, index, 4), first)
    alone = Rows(ROWS.labels[2:3], ROWS.sample[2:3])
    torch.testing.assert_close(
        change(RowStreams(CTX, alone, "x"))(PICTURES[[2]].repeat(2, 1, 1, 1), index[:1], 3), first[[2, 6]]
    )


@every_change
def test_changes_are_differentiable(change):
    images = PICTURES.repeat(2, 1, 1, 1).requires_grad_(True)
    seen = change(RowStreams(CTX, ROWS, "x"))(images, torch.arange(4), 0)
    (gradient,) = torch.autograd.grad(seen.sum(), images)
    assert bool((gradient.flatten(1).abs().sum(dim=1) > 0).all())


def test_noise_has_the_deviation_asked_for():
    grey = torch.full((8, 3, 12, 10), 0.5)
    noise = Noise(RowStreams(CTX, ROWS, "x"), 2, 0.05)(grey, torch.arange(4), 0) - 0.5
    assert float(noise.std()) == pytest.approx(0.05, rel=0.05)
    assert abs(float(noise.mean())) < 0.005


def test_changes_come_after_the_crop_in_order():
    calls = []

    def note(name):
        return lambda images, index, step: calls.append((name, len(images), step)) or images + 1

    augmenter = Augmenter(RowStreams(CTX, ROWS, "x"), IDENTITY, 2, (note("first"), note("second")))
    seen = augmenter(PICTURES, torch.arange(4), 5)
    assert calls == [("first", 8, 5), ("second", 8, 5)]
    assert torch.equal(seen, PICTURES.repeat(2, 1, 1, 1) + 2)


def test_towards_by_hand():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    labels, goals = torch.tensor([0, 2]), torch.tensor([0.25, 0.5, 0.9])
    index = torch.tensor([2, 1])
    shown = Scene(torch.zeros(2, 1), torch.zeros(2, 1, 8, 8), logits[None].repeat(2, 1, 1), labels, None, index)
    log_p = logits.log_softmax(dim=1)[[0, 1], labels]
    torch.testing.assert_close(towards(goals)(shown), (log_p - torch.tensor([0.9, 0.5]).log()).abs())
    torch.testing.assert_close(towards(torch.ones(3))(shown), cross_entropy(logits, labels))


def test_towards_pushes_confidence_down_from_above():
    logits = torch.tensor([[3.0, 0.0], [0.1, 0.0]], requires_grad=True)
    shown = Scene(
        torch.zeros(2, 1), torch.zeros(2, 1, 8, 8), logits[None], torch.zeros(2).long(), None, torch.arange(2)
    )
    (gradient,) = torch.autograd.grad(towards(torch.tensor([0.8, 0.8]))(shown).sum(), logits)
    assert float(gradient[0, 0]) > 0 > float(gradient[1, 0])


def test_without_options_ppa_is_not_adaptive_and_with_any_it_is():
    assert not Ppa(PpaConfig()).adaptive
    for name, params in OPTIONS.items():
        alone = {key: value for key, value in params.items() if name in (key, "all")}
        assert Ppa(PpaConfig(**alone)).adaptive, name


@pytest.mark.parametrize("params", OPTIONS.values(), ids=OPTIONS)
def test_options_keep_ppas_rules(params):
    """A row's result is its own, one seed gives one result, and the queries are those announced."""
    whole, view = ppa(candidates=2, **params)
    copies = params.get("averaged", 1)
    assert view.counter.forward == 100 + 8 * 40 * copies + 8 * 4
    assert Ppa(PpaConfig(pool=100, steps=40, transforms=4, **params)).cost(2, 2, 6).forward == view.counter.forward
    again, _ = ppa(candidates=2, **params)
    assert torch.equal(whole.images, again.images)
    chunked, _ = ppa(candidates=2, ctx=KeyedContext(attack_key="t", batch_size=3), **params)
    torch.testing.assert_close(chunked.images, whole.images, atol=1e-4, rtol=0)
    alone, _ = ppa(candidates=2, rows=Rows(ROWS.labels[2:], ROWS.sample[2:]), **params)
    torch.testing.assert_close(alone.images, whole.images[2:], atol=1e-4, rtol=0)
    plain, _ = ppa(candidates=2)
    assert not torch.equal(plain.images, whole.images)


def test_confidences_are_dealt_out_to_the_candidates_of_a_class_and_reached():
    goals = (0.55, 0.9)
    rows = Rows(torch.tensor([1, 1, 1, 4, 4]), torch.tensor([0, 1, 2, 0, 1]))
    result, view = ppa(rows=rows, confidence=goals, averaged=4, latent_weight=0.0, shell_weight=0.0, steps=100)
    with torch.no_grad():
        reached = view.log_probs(result.images).gather(1, rows.labels[:, None])[:, 0].exp()
    wanted = torch.tensor([0.55, 0.9, 0.55, 0.55, 0.9])
    torch.testing.assert_close(reached, wanted, atol=0.12, rtol=0)


class Capped(ToyTarget):
    """Confidence at a template is 0.88; a shortcut away from all templates leads to 1."""

    def logits(self, images):
        fit = torch.softmax(super().logits(images), dim=1) * 0.88 + 0.02
        shortcut = 40 * (images * CHECKERS).mean(dim=(1, 2, 3)).square()
        return fit.log() * (1 + shortcut[:, None])


class Trapped(ToyTarget):
    """Every class has a trigger: faint stripes that shift its logit far more than its template does."""

    stripes = torch.stack([CHECKERS * (1 - 2 * (torch.arange(8) // 2**bit % 2)) for bit in range(3)])  # (3, 1, 8, 8)

    def logits(self, images):
        faint = torch.einsum("bchw,kchw->bk", images, self.stripes)
        codes = torch.tensor([[1 - 2 * (k >> bit & 1) for bit in range(3)] for k in range(6)]).float()
        return super().logits(images) + faint @ codes.T


class Fine(ToyPrior):
    """The templates' directions, and the shortcuts' fine patterns as free coordinates."""

    def __init__(self):
        super().__init__(TEMPLATES)
        self.coarse, self.patterns = self.latent_dim, torch.cat([Trapped.stripes, CHECKERS[None]])
        self.latent_dim += len(self.patterns)

    def decode(self, latents, labels=None):
        coarse = super().decode(latents[:, : self.coarse])
        extra = torch.einsum("bd,dchw->bchw", latents[:, self.coarse :], self.patterns)
        return (coarse + 0.03 * extra).clamp(0, 1)

    def fine_share(self, images):
        """Mean amplitude of the fine patterns in pictures."""
        return float(torch.einsum("bchw,dchw->bd", images, self.patterns).abs().mean() / 64)


def distance(result):
    return float((result.images - TEMPLATES[ROWS.labels]).square().flatten(1).mean(dim=1).mean())


FREE = {"latent_weight": 0.02, "shell_weight": 0.0, "steps": 80}


def test_scrubbing_keeps_planted_triggers_out_of_the_picture():
    prior = Fine()
    plain, _ = ppa(Trapped(TEMPLATES, sharpness=2.0), prior, averaged=2, **FREE)
    scrubbed, _ = ppa(Trapped(TEMPLATES, sharpness=2.0), prior, averaged=2, scrub=1.5, **FREE)
    assert prior.fine_share(scrubbed.images) < 0.7 * prior.fine_share(plain.images)
    assert distance(scrubbed) < distance(plain)


def test_aiming_for_the_cap_stays_off_the_shortcut_beyond_it():
    prior = Fine()
    target = Capped(TEMPLATES, sharpness=2.0)
    plain, _ = ppa(target, prior, loss="cross-entropy", **FREE)
    aimed, _ = ppa(target, prior, confidence=(0.85,), **FREE)
    assert prior.fine_share(aimed.images) < 0.7 * prior.fine_share(plain.images)
    assert distance(aimed) < distance(plain)


class Shaky(ToyTarget):
    """Answers about a picture it has disturbed."""

    def __init__(self):
        super().__init__(TEMPLATES, sharpness=2.0)
        self.generator = torch.Generator().manual_seed(0)

    def logits(self, images):
        return super().logits(images + 0.5 * torch.randn(images.shape, generator=self.generator))


def test_averaging_copies_steadies_the_gradient_of_a_target_that_answers_at_random():
    latents = torch.zeros(4, 5)

    def spread(copies):
        augmenter = Augmenter(RowStreams(CTX, ROWS, "x"), IDENTITY, copies)
        view, prior = narrow(Shaky(), Access.WHITE_BOX), ToyPrior(TEMPLATES)
        objective = Objective(view, prior, ROWS.labels, ((1.0, identity(cross_entropy)),), CTX, augmenter=augmenter)
        gradients = []
        for step in range(40):
            leaf = latents.clone().requires_grad_(True)
            gradients.append(torch.autograd.grad(objective(leaf, torch.arange(4), step).sum(), leaf)[0])
        return float(torch.stack(gradients).var(dim=0).mean())

    assert spread(8) < 0.25 * spread(1)


def test_erasing_makes_pictures_that_convince_in_parts():
    """Against a target to which one spot says nearly everything, the whole picture is still rebuilt."""

    class Spot(ToyTarget):
        def logits(self, images):
            weight = torch.ones(8, 8)
            weight[2:4, 2:4] = 30.0
            return -(weight * (images[:, None] - self.templates).square()).flatten(2).sum(dim=2)

    target = Spot(TEMPLATES)
    plain, _ = ppa(target, averaged=8, loss="cross-entropy", **FREE)
    parts, _ = ppa(target, averaged=8, loss="cross-entropy", erase=0.5, **FREE)
    confidence = []
    for result in (plain, parts):
        with torch.no_grad():
            hidden = erased(result.images.repeat(300, 1, 1, 1), uniform(1200, 3, seed=7), 0.5)
            log_probs = target.logits(hidden).log_softmax(dim=1)
        confidence.append(float(log_probs.gather(1, ROWS.labels.repeat(300)[:, None]).mean()))
    assert confidence[1] > confidence[0]


def test_a_run_with_every_option_is_complete_and_finite():
    attack = Ppa(PpaConfig(pool=50, steps=10, transforms=3, **OPTIONS["all"]))
    view = narrow(ToyTarget(TEMPLATES), Access.WHITE_BOX)
    result = attack.run(view, ToyPrior(TEMPLATES), (0, 5), 2, RunContext())
    assert result.complete
    assert bool(torch.isfinite(result.images).all())


@pytest.mark.parametrize(
    "options",
    [
        {"noise": 1e-12},
        {"confidence": [1.0]},
        {"confidence": [0.999]},
        {"confidence": [1.0, 0.5], "candidates": 1},
        {"erase": 1e-9},
        {"scrub": 1e-9},
        {"averaged": 1},
    ],
)
@pytest.mark.parametrize("name", ["ppa", "if-gmi"])
def test_options_that_change_nothing_do_not_make_an_attack_adaptive(name, options):
    assert not ATTACKS.build(name, options).adaptive


@pytest.mark.parametrize("name", ["ppa", "if-gmi", "mirror-w", "deep-inversion"])
@pytest.mark.parametrize("betas", [[0.9, 1.0], [5, 7], [-0.1, 0.9]])
def test_decays_that_break_adam_are_refused_beforehand(name, betas):
    with pytest.raises(InvalidInput, match="betas"):
        ATTACKS.build(name, {"betas": betas})
