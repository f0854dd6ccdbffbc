"""What the cards of PLG-MI and LOKT ask for."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from auditor.attacks.augment import Augmenter
from auditor.attacks.base import KeyedContext, Rows
from auditor.attacks.lokt import Lokt, LoktConfig, _SurrogateMargin
from auditor.attacks.objectives import max_margin
from auditor.attacks.plg_mi import PlgMi, PlgMiConfig, row_augmenter
from auditor.attacks.rows import RowStreams
from auditor.contracts.access import Access
from auditor.priors.transforms import IDENTITY, JITTER
from auditor.targets.views import narrow
from auditor.testing import ToyPrior, ToyTarget, toy_templates

K = 6
TEMPLATES = toy_templates(K)
ROWS = Rows(torch.tensor([0, 0, 3, 3]), torch.tensor([0, 1, 0, 1]))
CTX = KeyedContext(attack_key="t")
PRIOR = ToyPrior(TEMPLATES, conditional=True, has_surrogate=True)
STILL = {"crop_area": 1.0, "rotate_deg": 0.0, "light": 0.0, "flip": False}


def target():
    return ToyTarget(TEMPLATES, sharpness=2.0)


class Untouchable:
    """A view that nobody may ask anything, though it has a counter with an empty budget."""

    n_classes, image_shape = K, (1, 8, 8)

    def __init__(self):
        self.counter = narrow(target(), Access.LABEL, max_queries=0).counter


def test_the_default_changes_are_the_papers():
    assert PlgMiConfig().ranges == LoktConfig().ranges == JITTER
    assert PlgMiConfig(**STILL).ranges == IDENTITY


def test_changed_copies_differ_and_carry_a_gradient_to_the_latents():
    augmenter = row_augmenter(PlgMiConfig(), ROWS, CTX)
    latents = torch.zeros(4, PRIOR.latent_dim, requires_grad=True)
    images = PRIOR.decode(latents, ROWS.labels)
    first = augmenter(images, torch.arange(4), 0).unflatten(0, (2, 4))
    second = augmenter(images, torch.arange(4), 1).unflatten(0, (2, 4))
    for one, other in ((first[0], first[1]), (first[0], second[0])):
        assert bool(((one - other).abs().flatten(1).amax(dim=1) > 1e-3).all())
    (gradient,) = torch.autograd.grad(first.square().sum(), latents)
    assert bool((gradient.abs().sum(dim=1) > 0).all())


def test_plg_mi_starts_from_pictures_of_its_class_and_ends_in_its_middle():
    rows = Rows(torch.arange(K).repeat_interleave(20), torch.arange(20).repeat(K))
    view = narrow(target(), Access.WHITE_BOX)
    result = PlgMi(PlgMiConfig(steps=60)).invert(view, PRIOR, rows, CTX, ())
    with torch.no_grad():
        start, end = (view.logits(images) for images in (result.start, result.images))
    assert float((start.argmax(dim=1) == rows.labels).float().mean()) > 1.5 / K
    assert float(cross_entropy(end, rows.labels)) < 0.2 * float(cross_entropy(start, rows.labels))


@pytest.mark.parametrize("copies", [1, 3])
def test_plg_mi_query_count_is_exact(copies):
    view = narrow(target(), Access.WHITE_BOX)
    PlgMi(PlgMiConfig(steps=7, copies=copies)).invert(view, PRIOR, ROWS, CTX, ())
    assert view.counter.forward == view.counter.backward == 4 * 7 * copies


def test_the_margin_pulls_where_a_cross_entropy_has_faded():
    logits = torch.tensor([[60.0, 0.0, -5.0]], requires_grad=True)
    labels = torch.tensor([0])
    (faded,) = torch.autograd.grad(cross_entropy(logits, labels), logits)
    (margin,) = torch.autograd.grad(max_margin(logits, labels).sum(), logits)
    assert float(faded.abs().max()) < 1e-20
    assert margin.tolist() == [[-1, 1, 0]]


def test_lokt_asks_the_target_nothing_and_still_finds_its_classes():
    rows = Rows(torch.arange(K), torch.zeros(K, dtype=torch.int64))
    view = Untouchable()
    result = Lokt(LoktConfig(steps=60, **STILL)).invert(view, PRIOR, rows, CTX, (0.0, 1.0))
    assert view.counter.forward == 0
    assert result.complete
    assert result.notes == []
    assert target().logits(result.images).argmax(dim=1).tolist() == list(range(K))
    assert torch.equal(result.snapshots[0].images, result.start)
    assert torch.equal(result.snapshots[1].images, result.images)


def test_lokt_loss_is_the_mean_margin_over_surrogates_and_copies():
    def augmenter():
        return Augmenter(RowStreams(CTX, ROWS, "augment"), JITTER, 2)

    objective = _SurrogateMargin(PRIOR, ROWS.labels, augmenter(), CTX)
    latents = torch.randn(4, PRIOR.latent_dim, generator=torch.Generator().manual_seed(0))
    losses = objective(latents, torch.arange(4), 0)
    copies = augmenter()(PRIOR.decode(latents, ROWS.labels), torch.arange(4), 0)
    logits = PRIOR.surrogate(copies)
    for row in range(4):
        alone = [max_margin(model[[row + 4 * copy]], ROWS.labels[[row]]) for model in logits for copy in (0, 1)]
        torch.testing.assert_close(losses[row], torch.cat(alone).mean())


def test_lokt_without_a_surrogate_says_so():
    bare = ToyPrior(TEMPLATES, conditional=True)
    with pytest.raises(ValueError, match="no surrogate"):
        Lokt(LoktConfig(steps=1)).invert(Untouchable(), bare, ROWS, CTX, ())
