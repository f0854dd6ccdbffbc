"""What BREP-MI's card asks for, the boundary engine and the search for first points."""

import math

import pytest
import torch

from auditor.attacks.base import KeyedContext, Rows
from auditor.attacks.boundary import Sphere, repel
from auditor.attacks.brep_mi import BrepMi, BrepMiConfig
from auditor.attacks.initial import draw_pool
from auditor.attacks.label_search import search_labels
from auditor.attacks.rows import Chunks, RowStreams
from auditor.contracts.access import Access
from auditor.errors import AccessDenied
from auditor.targets.views import narrow
from auditor.testing import ToyPrior, ToyTarget, toy_templates

K = 6
TEMPLATES = toy_templates(K)
PRIOR = ToyPrior(TEMPLATES)
ROWS = Rows(torch.tensor([0, 0, 3, 3]), torch.tensor([0, 1, 0, 1]))
CTX = KeyedContext(attack_key="t")
SPHERE = Sphere(directions=32, first=0.2, last=4.0, growth=1.3, held=0.875, longest_step=3.0, box=5.0)


def label_view(**options):
    return narrow(ToyTarget(TEMPLATES, sharpness=2.0), Access.LABEL, **options)


def stubborn(answer):
    """A target that always gives the same label."""
    target = ToyTarget(TEMPLATES)
    target.logits = lambda images: torch.eye(K)[answer].expand(len(images), K)
    return narrow(target, Access.LABEL)


def search(rows=ROWS, *, view=None, prior=PRIOR, size=2000, chunks=None):
    return search_labels(view or label_view(), prior, rows, chunks or Chunks(CTX), CTX, size=size, box=1.5, stage="s")


def pushed(inside, start, *, sphere=SPHERE, iterations=200, patience=40, view=None, fracs=()):
    rows = Rows(torch.zeros(len(start), dtype=torch.int64), torch.arange(len(start)))
    return repel(
        start,
        inside,
        RowStreams(CTX, rows, "b"),
        sphere,
        iterations=iterations,
        patience=patience,
        view=view or label_view(),
        ctx=CTX,
        stage="s",
        fracs=fracs,
    )


def ball(latents, row):
    """The class is the ball of radius 2 around (1, 1, 1)."""
    return (latents - 1).norm(dim=1) < 2


def test_points_near_an_edge_are_pushed_to_the_middle_of_their_class():
    start = 1 + 1.9 * torch.eye(3)
    end = pushed(ball, start)
    assert bool(((end.latents - 1).norm(dim=1) < 0.8).all())
    assert bool((end.radius > 1.2).all())
    assert bool(ball(end.latents, None).all())
    assert end.complete


def test_radius_never_shrinks_nor_passes_its_end_and_points_stay_in_the_box():
    asked = []

    def always(latents, row):
        asked.append(latents)
        return torch.ones(len(latents), dtype=torch.bool)

    end = pushed(always, torch.zeros(2, 3), sphere=Sphere(8, 0.5, 3.0, 1.3, 0.875, 3.0, 1.5))
    radii = [float(points.view(2, 8, 3).norm(dim=2).max()) for points in asked]
    assert end.radius.tolist() == [3.0, 3.0]
    assert len(asked) == math.ceil(math.log(6) / math.log(1.3))
    assert radii == sorted(radii)
    assert all(float(points.abs().max()) <= 1.5 for points in asked)


def test_a_row_that_never_holds_is_left_alone_after_its_patience_where_it_started():
    calls = []

    def never(latents, row):
        calls.append(len(latents))
        return torch.zeros(len(latents), dtype=torch.bool)

    start = torch.ones(2, 3)
    end = pushed(never, start, patience=7)
    assert torch.equal(end.latents, start)
    assert calls == [64, 2] * 7
    assert end.radius.tolist() == pytest.approx([0.2, 0.2])


def test_rows_do_not_depend_on_each_other():
    start = 1 + 1.9 * torch.eye(3)
    whole, alone = pushed(ball, start), pushed(ball, start[:1])
    torch.testing.assert_close(alone.latents, whole.latents[:1])


def test_the_engine_stops_before_a_step_that_the_budget_does_not_cover():
    view = label_view(max_queries=100)

    def counted(latents, row):
        view.counter.charge(len(latents))
        return ball(latents, row)

    end = pushed(counted, 1 + 1.9 * torch.eye(3)[:1], view=view)
    assert 33 <= view.counter.forward <= 100
    assert not end.complete
    assert "budget" in end.notes[0]


def test_path_starts_at_the_first_points_and_ends_at_the_answer():
    start = 1 + 1.9 * torch.eye(3)
    end = pushed(ball, start, fracs=(0.0, 0.5, 1.0))
    assert torch.equal(end.path[0][1], start)
    assert torch.equal(end.path[2][1], end.latents)


def test_each_row_starts_from_its_classs_hit_of_its_number():
    found = search()
    latents, _ = draw_pool(PRIOR, 2000, CTX, box=1.5)
    answers = label_view().labels(PRIOR.decode(latents))
    for row, (label, sample) in enumerate(zip(ROWS.labels.tolist(), ROWS.sample.tolist(), strict=True)):
        assert torch.equal(found.latents[row], latents[torch.nonzero(answers == label)[sample, 0]])
    assert bool(found.found.all())
    assert float(found.latents.abs().max()) <= 1.5


def test_the_search_stops_once_every_row_has_a_point():
    view = label_view()
    assert search(view=view).asked == view.counter.forward == 256
    many = Rows(torch.zeros(300, dtype=torch.int64), torch.arange(300))
    assert search(many, view=label_view(), size=700).asked == 700


def test_too_few_hits_are_given_out_in_turn():
    many = Rows(torch.zeros(50, dtype=torch.int64), torch.arange(50))
    found = search(many, size=64)
    n_hits = len(found.latents.unique(dim=0))
    assert 0 < n_hits < 50
    assert bool(found.found.all())
    assert torch.equal(found.latents[n_hits], found.latents[0])


def test_a_conditional_priors_samples_count_for_the_class_drawn():
    prior = ToyPrior(TEMPLATES, conditional=True)
    found = search(prior=prior)
    answers = label_view().labels(prior.decode(found.latents, ROWS.labels))
    assert torch.equal(answers, ROWS.labels)


def test_pictures_end_in_their_class_and_only_labels_are_read():
    view = label_view()
    for name in ("log_probs", "logits", "layers"):
        with pytest.raises(AccessDenied):
            getattr(view, name)
    result = BrepMi(BrepMiConfig(iterations=80, patience=15)).invert(view, PRIOR, ROWS, CTX, ())
    assert torch.equal(view.labels(result.images), ROWS.labels)
    assert view.counter.backward == 0
    assert result.complete


def test_repulsion_makes_the_class_surer_than_the_first_points():
    view = narrow(ToyTarget(TEMPLATES, sharpness=2.0), Access.LABEL)
    result = BrepMi(BrepMiConfig(iterations=80, patience=15)).invert(view, PRIOR, ROWS, CTX, (0.0, 1.0))
    judge = narrow(ToyTarget(TEMPLATES, sharpness=2.0), Access.SCORE)
    first, last = (
        judge.log_probs(snapshot.images).gather(1, ROWS.labels[:, None]).mean() for snapshot in result.snapshots
    )
    assert float(last) > float(first)


def test_a_target_that_always_says_yes_ends_at_the_last_radius():
    rows = Rows(torch.tensor([2]), torch.tensor([0]))
    config = BrepMiConfig()
    view = stubborn(2)
    result = BrepMi(config).invert(view, PRIOR, rows, CTX, ())
    growths = math.ceil(math.log(config.last_radius / config.first_radius) / math.log(config.growth))
    assert view.counter.forward == 256 + growths * 32
    assert result.complete


def test_a_class_nobody_finds_is_named_and_keeps_a_sample_the_target_did_not_choose():
    view = stubborn(3)
    result = BrepMi(BrepMiConfig(search=600, iterations=20)).invert(view, PRIOR, ROWS, CTX, (0.5,))
    assert result.notes[0].startswith("no initial point among 600 prior samples")
    assert result.notes[0].endswith(": 0")
    assert torch.equal(result.images[:2], result.start[:2])
    assert torch.equal(result.snapshots[0].images[:2], result.start[:2])
    assert not torch.equal(result.images[2:], result.start[2:])
    assert result.complete


@pytest.mark.parametrize("budget", [0, 5, 300, 900])
def test_the_budget_holds_in_search_and_repulsion(budget):
    view = label_view(max_queries=budget)
    result = BrepMi(BrepMiConfig()).invert(view, PRIOR, ROWS, CTX, ())
    assert view.counter.forward <= budget
    assert not result.complete
    assert any("budget" in note for note in result.notes)
