import math

import pytest
import torch

from auditor.attacks.base import KeyedContext, Rows
from auditor.attacks.evolution import evolve
from auditor.attacks.rows import RowStreams
from auditor.attacks.strategies import DiagonalCma, Differential, Genetic, breed, crossover, mutate
from auditor.contracts.access import Access
from auditor.targets.views import narrow
from auditor.testing import ToyTarget, toy_templates

R, P, D = 3, 6, 4
GOALS = torch.tensor([[0.5] * D, [-0.5] * D, [1.0, -1.0, 1.0, -1.0]])
CTX = KeyedContext(attack_key="t")
ALL_ROWS = Rows(torch.arange(R), torch.zeros(R, dtype=torch.int64))


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
        Genetic(population, start, mutation_rate=0.3, mutation_size=0.5, box=1.0),
        fitness,
        RowStreams(ctx, chosen, "evolution"),
        generations=generations,
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


def climb(strategy, *, generations=60, rows=range(R), budget=None):
    """A strategy on the same landscape; the scores of every generation's fittest beside the end."""
    rows = list(rows)
    view = narrow(ToyTarget(toy_templates(3)), Access.SCORE, max_queries=budget)
    chosen = Rows(torch.tensor(rows), torch.zeros(len(rows), dtype=torch.int64))
    along = []

    def fitness(latents, row):
        along.append(strategy.fittest()[1])
        view.counter.charge(len(latents))
        return -(latents - GOALS[torch.tensor(rows)][row]).square().sum(dim=1)

    ctx = KeyedContext(attack_key="t")
    end = evolve(
        strategy,
        fitness,
        RowStreams(ctx, chosen, "evolution"),
        generations=generations,
        stop_score=math.inf,
        view=view,
        ctx=ctx,
        stage="t",
    )
    return end, view, torch.stack([*along, end.scores])


def beginning(rows=range(R)):
    rows = list(rows)
    population = torch.randn(R, P, D, generator=torch.Generator().manual_seed(0))[rows]
    return population, -(population - GOALS[rows][:, None]).square().sum(dim=2)


def differential(rows=range(R), **options):
    settings = {"pull": 0.02, "spread": 0.5, "keep": 0.5, "box": 2.0} | options
    return Differential(*beginning(rows), **settings)


def diagonal_cma(rows=range(R), **options):
    population, scores = beginning(rows)
    settings = {"n_children": 12, "deviation": 0.3, "box": 2.0} | options
    return DiagonalCma(population[:, 0], scores[:, 0], **settings)


@pytest.mark.parametrize(("make", "cost"), [(differential, P), (diagonal_cma, 12)])
def test_a_strategy_climbs_and_its_fittest_never_falls(make, cost):
    end, view, along = climb(make())
    assert bool((along[1:] >= along[:-1]).all())
    assert view.counter.forward == R * cost * 60
    torch.testing.assert_close(-(end.latents - GOALS).square().sum(dim=1), end.scores)
    assert bool((end.scores > 0.1 * along[0]).all())


def test_the_evolution_strategy_finds_the_optimum():
    end, *_ = climb(diagonal_cma(), generations=120)
    assert float(end.scores.min()) > -1e-6


@pytest.mark.parametrize("make", [differential, diagonal_cma])
def test_rows_of_a_strategy_do_not_depend_on_each_other(make):
    together, *_ = climb(make())
    alone, *_ = climb(make([2]), rows=[2])
    assert torch.equal(together.latents[2], alone.latents[0])


@pytest.mark.parametrize("make", [differential, diagonal_cma])
def test_children_of_a_strategy_stay_in_the_box_and_within_the_budget(make):
    end, view, along = climb(make(box=0.7), budget=100)
    improved = end.scores > along[0]
    assert bool(improved.any())
    assert float(end.latents[improved].abs().max()) <= 0.7
    assert view.counter.forward <= 100
    assert not end.complete


def test_differential_evolution_replaces_a_member_only_by_a_better_one():
    strategy = differential()
    rows, streams = torch.arange(R), RowStreams(CTX, ALL_ROWS, "e")
    children, before = strategy.ask(rows, streams, 0.0), strategy.scores.clone()
    scores = before + torch.tensor([1.0, -1.0, 0.0, 1.0, -1.0, 0.0])
    strategy.tell(rows, children, scores)
    torch.testing.assert_close(strategy.scores, torch.maximum(before, scores))


def test_differential_evolution_keeps_half_of_the_coordinates_and_mixes_two_others():
    population = torch.arange(5.0).pow(3).view(1, 5, 1).expand(1, 5, 4000).clone()
    strategy = Differential(population, torch.zeros(1, 5), pull=0.0, spread=1.0, keep=0.5, box=1e9)
    one = Rows(torch.tensor([0]), torch.tensor([0]))
    children = strategy.ask(torch.tensor([0]), RowStreams(CTX, one, "e"), 0.0)
    moved = (children - population)[0]
    assert float((moved == 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    values = torch.arange(5.0).pow(3)
    for member in range(5):
        others = values[torch.arange(5) != member]
        allowed = (others[:, None] - others[None]).flatten()
        assert bool(torch.isin(moved[member].unique(), allowed).all())


def test_too_small_a_population_for_differential_evolution_is_refused():
    with pytest.raises(ValueError, match="three"):
        Differential(torch.zeros(1, 2, 3), torch.zeros(1, 2), pull=0.1, spread=0.5, keep=0.5, box=1.0)


def test_the_evolution_strategy_learns_a_deviation_for_each_coordinate():
    """On an ellipse, the flat direction ends with the larger deviation."""
    steep = torch.tensor([100.0, 1.0])
    strategy = DiagonalCma(torch.full((1, 2), 1.0), torch.tensor([-101.0]), n_children=10, deviation=0.3, box=9.0)
    one, rows = Rows(torch.tensor([0]), torch.tensor([0])), torch.tensor([0])
    streams = RowStreams(CTX, one, "e")
    for _ in range(30):
        children = strategy.ask(rows, streams, 0.0)
        strategy.tell(rows, children, -(steep * children.square()).sum(dim=2))
    drawn = torch.cat([strategy.ask(rows, streams, 0.0) for _ in range(200)], dim=1)[0].std(dim=0)
    assert float(drawn[1]) > 2 * float(drawn[0])
