"""MIRROR-w: the box, the schedule, and the point each row gives back."""

from itertools import pairwise

import pytest
import torch

from auditor.attacks.base import KeyedContext, Rows
from auditor.attacks.mirror_w import MirrorW, MirrorWConfig, ramp
from auditor.attacks.objectives import cross_entropy
from auditor.contracts.access import Access
from auditor.targets.views import narrow
from auditor.testing import ToyPrior, ToyTarget, toy_templates

TEMPLATES = toy_templates(6)
ROWS = Rows(torch.tensor([0, 0, 3, 3]), torch.tensor([0, 1, 0, 1]))
CTX = KeyedContext(attack_key="t")


class Recorded(ToyPrior):
    """Remembers the latents it was asked to draw with a gradient."""

    def __init__(self):
        super().__init__(TEMPLATES)
        self.seen = []

    def decode(self, latents, labels=None):
        if latents.requires_grad:
            self.seen.append(latents.detach().clone())
        return super().decode(latents)


def go(**params):
    view, prior = narrow(ToyTarget(TEMPLATES, sharpness=2.0), Access.WHITE_BOX), Recorded()
    config = MirrorWConfig(**{"pool": 100, "steps": 40, "flip": False} | params)
    return MirrorW(config).invert(view, prior, ROWS, CTX, ()), view, torch.stack(prior.seen), prior


def test_every_coordinate_stays_in_the_box_on_both_sides():
    _, _, seen, _ = go(lr=0.5, box=0.4)
    assert float(seen.max()) == pytest.approx(0.4)
    assert float(seen.min()) == pytest.approx(-0.4)
    assert seen.shape == (40, 4, 5)


def test_each_row_gives_back_its_own_lowest_point():
    """Steps far too long, so that rows are lowest at different times and none at the end."""
    result, view, seen, prior = go(lr=2.0)
    with torch.no_grad():
        losses = torch.stack([cross_entropy(view.logits(prior.decode(z)), ROWS.labels) for z in seen])
        reached = cross_entropy(view.logits(result.images), ROWS.labels)
    best = losses.argmin(dim=0)
    assert len(best.unique()) > 1
    torch.testing.assert_close(reached, losses.amin(dim=0))
    torch.testing.assert_close(result.images, prior.decode(seen[best, torch.arange(4)]))


def test_the_start_is_the_classes_best_of_the_pool():
    result, view, _, prior = go()
    generator = CTX.rng("pool")
    pool = prior.decode(torch.randn(100, 5, generator=generator).clamp(-1, 1))
    order = view.log_probs(pool).argsort(dim=0, descending=True)
    expected = pool[torch.stack([order[sample, label] for label, sample in zip(ROWS.labels, ROWS.sample, strict=True)])]
    torch.testing.assert_close(result.start, expected)


def test_query_count_is_exact():
    _, view, _, _ = go()
    assert view.counter.forward == 100 + 4 * 40
    assert view.counter.backward == 4 * 40


def test_mirroring_changes_what_the_target_sees_row_by_row():
    plain, mirrored = go(steps=5)[0], go(steps=5, flip=True)[0]
    assert torch.equal(plain.start, mirrored.start)
    assert not torch.equal(plain.images, mirrored.images)


def test_averaging_looks_at_several_crops_at_every_step():
    assert MirrorW(MirrorWConfig(averaged=3)).adaptive
    assert not MirrorW(MirrorWConfig()).adaptive
    plain, averaged = go(steps=5), go(steps=5, averaged=3)
    assert torch.equal(plain[0].start, averaged[0].start)
    assert not torch.equal(plain[0].images, averaged[0].images)
    assert averaged[1].counter.forward == 100 + 3 * 4 * 5 == attack_cost(averaged=3).forward
    assert averaged[1].counter.backward == 3 * 4 * 5 == attack_cost(averaged=3).backward


def attack_cost(**params):
    return MirrorW(MirrorWConfig(pool=100, steps=5, **params)).cost(2, 2, 6)


def test_the_schedule_rises_stays_and_hits_zero():
    factors = [ramp(step, 100, up=0.05, down=0.25) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[4:75] == pytest.approx([1.0] * 71)
    assert all(later < earlier for earlier, later in pairwise(factors[74:]))
    assert factors[-1] == 0.0
    assert [ramp(step, 4, up=0.0, down=0.0) for step in range(4)] == [1.0] * 4
