from itertools import pairwise

import pytest
import torch
from torchvision.transforms.functional import hflip

from auditor.attacks.augment import IDENTITY, N_DRAWS, OPTIMISE, SELECT, Augmenter, Ranges, transform
from auditor.attacks.base import KeyedContext, Rows
from auditor.attacks.initial import Pool, RandomInit, search_pool
from auditor.attacks.rows import Chunks, RowStreams
from auditor.attacks.selection import best_per_class, robust_confidence
from auditor.contracts.access import Access
from auditor.targets.views import narrow
from auditor.testing import ToyPrior, ToyTarget, toy_images, toy_templates

TEMPLATES = toy_templates(4)
ROWS = Rows(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 0, 0]))
CTX = KeyedContext(attack_key="t")
IMAGES = toy_images(TEMPLATES, 1).images


def draws(n, seed=0):
    return torch.rand(n, N_DRAWS, generator=torch.Generator().manual_seed(seed))


def test_identity_returns_the_images_themselves():
    assert transform(IMAGES, draws(4), IDENTITY) is IMAGES


def test_mirror_is_a_mirror():
    u = draws(4)
    u[:, 5] = torch.tensor([0.1, 0.9, 0.1, 0.9])
    out = transform(IMAGES, u, Ranges(flip=True))
    expected = torch.stack([hflip(image) if i % 2 == 0 else image for i, image in enumerate(IMAGES)])
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("ranges", [OPTIMISE, SELECT, Ranges(rotate_deg=5, brightness=0.1, contrast=0.2)])
def test_transforms_are_per_sample_in_range_and_differentiable(ranges):
    u = draws(4)
    images = IMAGES.clone().requires_grad_(True)
    out = transform(images, u, ranges)
    assert bool(((out >= 0) & (out <= 1)).all())
    torch.testing.assert_close(transform(IMAGES[2:3], u[2:3], ranges), out[2:3])
    (gradient,) = torch.autograd.grad(out.sum(), images)
    assert bool((gradient != 0).any())


def test_crops_stay_inside_the_picture():
    ramp = torch.linspace(0, 1, 64).repeat(512, 1, 64, 1)
    out = transform(ramp, draws(512), Ranges(area=(0.5, 0.5)))
    width = (out[..., -1] - out[..., 0]).mean(dim=(1, 2))
    torch.testing.assert_close(width, torch.full_like(width, 0.5**0.5), atol=0.02, rtol=0)


def test_augmenter_repeats_itself_and_depends_on_row_and_step():
    def make():
        return Augmenter(RowStreams(CTX, ROWS, "augment"), OPTIMISE, 2)

    first, second = make(), make()
    index, seen = torch.arange(4), []
    for step in range(70):
        a, b = first(IMAGES, index, step), second(IMAGES[1:2], index[1:2], step)
        assert a.shape == (8, 1, 8, 8)
        torch.testing.assert_close(b, a[[1, 5]])
        seen.append(a)
    assert not any(torch.equal(a, b) for a, b in pairwise(seen))


def test_streams_do_not_depend_on_their_neighbours():
    whole = RowStreams(CTX, ROWS, "x").normal(3)
    one = RowStreams(CTX, Rows(ROWS.labels[2:3], ROWS.sample[2:3]), "x").normal(3)
    assert torch.equal(whole[2:3], one)
    assert len({tuple(row.tolist()) for row in whole}) == 4
    assert not torch.equal(whole, RowStreams(CTX, ROWS, "y").normal(3))
    assert torch.equal(RandomInit()(ToyPrior(TEMPLATES), ROWS, CTX), RowStreams(CTX, ROWS, "init").normal(3))


def pool_of(seed=0, size=300, budget=None):
    view = narrow(ToyTarget(TEMPLATES, sharpness=2.0), Access.SCORE, max_queries=budget)
    ctx = KeyedContext(attack_key="t", seed=seed, batch_size=64)
    return search_pool(view, ToyPrior(TEMPLATES), size, Chunks(ctx), ctx, stage="s"), view


def test_one_pass_scores_every_class_and_the_selected_beat_the_random():
    pool, view = pool_of()
    assert view.counter.forward == 300
    assert pool.scores.shape == (300, 4)
    chosen = pool.scores[pool.places(ROWS), ROWS.labels]
    assert float(-chosen.mean()) < 0.25 * float(-pool.scores.mean())


def test_a_class_never_gets_one_latent_twice():
    pool, _ = pool_of()
    rows = Rows(torch.zeros(300, dtype=torch.int64), torch.arange(300))
    assert len(set(pool.places(rows).tolist())) == 300


def test_ranking_is_stable_under_permutation():
    pool, _ = pool_of()
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    shuffled = Pool(pool.latents[order], None, pool.scores[order], True)
    prior = ToyPrior(TEMPLATES)
    assert torch.equal(pool(prior, ROWS, CTX), shuffled(prior, ROWS, CTX))


def test_pool_stops_at_the_budget_and_ranks_the_unscored_last():
    pool, view = pool_of(budget=100)
    assert view.counter.forward == 100
    assert not pool.complete
    assert set(pool.ranking(0)[:100].tolist()) == set(range(100))


def test_one_untouched_copy_gives_the_plain_confidence():
    view = narrow(ToyTarget(TEMPLATES, sharpness=2.0), Access.SCORE)
    rows = Rows(torch.arange(4), torch.zeros(4, dtype=torch.int64))
    scores = robust_confidence(
        view, IMAGES, rows, transforms=1, ranges=IDENTITY, chunks=Chunks(CTX), ctx=CTX, stage="s"
    )
    torch.testing.assert_close(scores, view.log_probs(IMAGES).exp().diagonal())


def test_robust_confidence_does_not_depend_on_batch_or_order():
    view = narrow(ToyTarget(TEMPLATES, sharpness=2.0), Access.SCORE)

    def score(index, batch):
        ctx = KeyedContext(attack_key="t", batch_size=batch)
        rows = Rows(torch.arange(4)[index], torch.zeros(len(index), dtype=torch.int64))
        return robust_confidence(
            view, IMAGES[index], rows, transforms=5, ranges=SELECT, chunks=Chunks(ctx), ctx=ctx, stage="s"
        )

    whole = score(torch.arange(4), 64)
    torch.testing.assert_close(score(torch.tensor([3, 1]), 1), whole[[3, 1]])


def test_best_per_class_keeps_the_best_in_order():
    candidates = Rows(torch.tensor([5, 5, 5, 7, 7]), torch.tensor([0, 1, 2, 0, 1]))
    scores = torch.tensor([0.1, 0.9, 0.5, 0.3, 0.3])
    wanted = Rows(torch.tensor([7, 5, 5]), torch.tensor([0, 0, 1]))
    chosen = best_per_class(scores, candidates, wanted)
    assert chosen.tolist() == [3, 1, 2]
    assert float(scores[[1, 2]].mean()) >= float(scores[:3].mean())


def test_a_class_gets_only_pictures_that_were_drawn_as_it():
    latents, labels = torch.arange(6.0)[:, None], torch.tensor([0, 1, 0, 2, 2, 2])
    scores = torch.full((6, 3), -torch.inf)
    scores[torch.arange(6), labels] = torch.tensor([-3.0, -1.0, -2.0, -6.0, -5.0, -4.0])
    rows = Rows(torch.tensor([0, 0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 2, 0, 1, 0, 1]))
    assert Pool(latents, labels, scores, True).places(rows).tolist() == [2, 0, 2, 1, 1, 5, 4]
