import math

import pytest
import torch

from auditor.attacks.base import KeyedContext, Rows
from auditor.attacks.evolution import breed, crossover, evolve, mutate
from auditor.attacks.rows import RowStreams
from auditor.contracts.access import Access
from auditor.targets.views import narrow
from auditor.testing import ToyTarget, toy_templates

R, P, D = 3, 6, 4
GOALS = torch.tensor([[0.5] * D, [-0.5] * D, [1.0, -1.0, 1.0, -1.0]])


def go(*, generations=15, budget=None, stop=math.inf, rows=range(R), fracs=()):
    rows = list(rows)
    view = narrow(ToyTarget(toy_templates(3)), Access.SCORE, max_queries=budget)
    ctx = KeyedContext(attack_key="t")
    chosen = Rows(torch.tensor(rows), torch.zeros(len(rows), dtype=torch.int64))
    population = torch.randn(R, P, D, generator=torch.Generator().manual_seed(0))[rows]
    grads = []

    def fitness(latents, row):
        grads.append(torch.is_grad_enabled())
        view.counter.charge(len(latents))
        return -(latents - GOALS[torch.tensor(rows)][row]).square().sum(dim=1)

    start = torch.stack([-(population[i] - GOALS[r]).square().sum(dim=1) for i, r in enumerate(rows)])
    end = evolve(
        population,
        start,
        fitness,
        RowStreams(ctx, chosen, "evolution"),
        generations=generations,
        mutation_rate=0.3,
        mutation_size=0.5,
        box=1.0,
        stop_score=stop,
        view=view,
        ctx=ctx,
        stage="t",
        fracs=fracs,
    )
    return end, view, start, grads


def test_crossover_favours_the_better_parent():
    first, second = torch.ones(10_000), torch.zeros(10_000)
    draws = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    better = crossover(first, second, torch.tensor(math.log(0.8)), torch.tensor(math.log(0.2)), draws)
    worse = crossover(first, second, torch.tensor(math.log(0.2)), torch.tensor(math.log(0.8)), draws)
    assert float(better.mean()) == pytest.approx(0.8, abs=0.02)
    assert float(worse.mean()) == pytest.approx(0.2, abs=0.02)


def test_mutation_changes_the_share_asked_for_within_its_size():
    draws = torch.rand(20_000, 2, generator=torch.Generator().manual_seed(0))
    change = mutate(torch.zeros(20_000, 1), draws, rate=0.1, size=0.5)
    assert float((change != 0).float().mean()) == pytest.approx(0.1, abs=0.01)
    assert float(change.abs().max()) <= 0.5


def test_parents_are_drawn_by_their_probability():
    population = torch.arange(3.0)[None, :, None]
    scores = torch.tensor([[math.log(0.7), math.log(0.3), -torch.inf]])
    draws = torch.rand(1, 20_000, 5, generator=torch.Generator().manual_seed(0))
    children = breed(population, scores.clamp_min(-1e4), draws, mutation_rate=0.0, mutation_size=0.0, box=9.0)
    shares = [float((children == value).float().mean()) for value in range(3)]
    # both parents alike with 0.49 and 0.09; mixed pairs go to the better one with probability 0.7
    assert shares == pytest.approx([0.49 + 0.42 * 0.7, 0.09 + 0.42 * 0.3, 0.0], abs=0.02)


def test_elite_never_falls_and_reaches_its_goal():
    end, _, start, _ = go(generations=60, fracs=(0.0, 0.25, 0.5, 0.75, 1.0))
    along = torch.stack([-(z - GOALS).square().sum(dim=1) for _, z in end.path])
    torch.testing.assert_close(along[0], start.amax(dim=1))
    assert bool((along[1:] >= along[:-1]).all())
    torch.testing.assert_close(along[-1], end.scores)
    assert bool((end.scores > 0.3 * start.amax(dim=1)).all())


def test_queries_are_counted_exactly():
    _, view, _, _ = go(generations=15)
    assert view.counter.forward == R * (P - 1) * 15


def test_no_gradient_graph_is_made():
    *_, grads = go()
    assert grads
    assert not any(grads)


def test_budget_ends_between_generations():
    end, view, _, _ = go(budget=40)
    assert view.counter.forward == 2 * R * (P - 1)
    assert not end.complete
    assert "after 2 of 15" in end.notes[0]


def test_a_row_that_is_done_costs_nothing_more():
    end, view, _, _ = go(generations=200, stop=-0.5)
    assert view.counter.forward < R * (P - 1) * 200
    assert end.complete
    assert bool((end.scores >= -0.5).all())


def test_rows_do_not_depend_on_each_other():
    together, *_ = go(stop=-0.5)
    alone, *_ = go(stop=-0.5, rows=[2])
    assert torch.equal(together.latents[2], alone.latents[0])


def test_children_stay_in_the_box():
    end, *_ = go(generations=30)
    assert float(end.latents.abs().max()) <= 1.0
