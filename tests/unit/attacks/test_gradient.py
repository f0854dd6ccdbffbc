import pytest
import torch

from auditor.attacks.base import KeyedContext
from auditor.attacks.gradient import Adam, Nesterov, Settled, constant, cosine, descend
from auditor.attacks.rows import Chunks
from auditor.contracts.access import Access
from auditor.targets.views import narrow
from auditor.testing import ToyTarget, toy_templates

START = torch.randn(7, 5, generator=torch.Generator().manual_seed(3))
CENTRES = torch.randn(7, 5, generator=torch.Generator().manual_seed(4))


class Bowl:
    """Squared distance to each row's own centre; the target is charged but not asked."""

    def __init__(self, view, queries=1, fail_above=None, *, on_gpu=True):
        self.on_gpu = on_gpu
        self.view, self.queries_per_row, self.fail_above, self.sizes = view, queries, fail_above, []

    def __call__(self, latents, index, step):
        self.sizes.append(len(latents))
        if self.fail_above is not None and len(latents) > self.fail_above:
            if self.on_gpu:
                raise torch.OutOfMemoryError("out of memory")
            torch.empty(2**45)  # 128 TiB: what torch's CPU allocator says
        self.view.counter.charge(len(latents) * self.queries_per_row)
        return (latents - CENTRES[index]).square().sum(dim=1)


def go(stepper, *, steps=30, batch=512, budget=None, queries=1, fail_above=None, on_gpu=True, **options):
    view = narrow(ToyTarget(toy_templates(3)), Access.WHITE_BOX, max_queries=budget)
    ctx = KeyedContext(batch_size=batch)
    bowl, chunks = Bowl(view, queries, fail_above, on_gpu=on_gpu), Chunks(ctx)
    end = descend(START, bowl, stepper, steps=steps, view=view, chunks=chunks, ctx=ctx, stage="t", **options)
    return end, bowl, chunks, view


def test_adam_is_torchs_adam():
    end, *_ = go(Adam(0.05, (0.8, 0.95)), schedule=constant)
    z = START.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([z], lr=0.05, betas=(0.8, 0.95))
    for _ in range(30):
        optimizer.zero_grad()
        (z - CENTRES).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(end.latents, z.detach(), atol=1e-5, rtol=0)


def test_nesterov_is_the_papers_update():
    end, *_ = go(Nesterov(0.02, 0.9), steps=20)
    z, v = START.clone(), torch.zeros_like(START)
    for _ in range(20):
        gradient = 2 * (z - CENTRES)
        new = 0.9 * v - 0.02 * gradient
        z, v = z + (-0.9 * v) + 1.9 * new, new
    torch.testing.assert_close(end.latents, z)


@pytest.mark.parametrize("stepper", [lambda: Adam(0.1), lambda: Nesterov(0.02)], ids=["adam", "nesterov"])
@pytest.mark.parametrize("batch", [1, 3, 7])
def test_chunks_do_not_change_the_result(stepper, batch):
    whole, *_ = go(stepper())
    chunked, bowl, *_ = go(stepper(), batch=batch)
    assert max(bowl.sizes) <= batch
    assert torch.equal(whole.latents, chunked.latents)


def test_copies_count_into_the_chunk_size():
    _, bowl, _, view = go(Adam(0.1), steps=2, batch=6, queries=3)
    assert max(bowl.sizes) == 2
    assert view.counter.forward == 2 * 7 * 3


@pytest.mark.parametrize("on_gpu", [True, False])
def test_out_of_memory_halves_once_per_level_and_says_so(on_gpu):
    whole, *_ = go(Adam(0.1))
    end, _, chunks, _ = go(Adam(0.1), batch=8, fail_above=2, on_gpu=on_gpu)
    assert torch.equal(end.latents, whole.latents)
    assert chunks.size == 2
    assert chunks.notes == ["memory ran out: batch halved to 4 rows", "memory ran out: batch halved to 2 rows"]


def test_out_of_memory_on_a_single_row_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        go(Adam(0.1), fail_above=0)


def test_other_errors_are_not_swallowed():
    def broken(latents, index, step):
        raise RuntimeError("shape mismatch")

    broken.queries_per_row = 1
    view, ctx = narrow(ToyTarget(toy_templates(3)), Access.WHITE_BOX), KeyedContext()
    with pytest.raises(RuntimeError, match="shape mismatch"):
        descend(START, broken, Adam(0.1), steps=1, view=view, chunks=Chunks(ctx), ctx=ctx, stage="t")


def test_budget_ends_the_descent_between_steps():
    end, _, _, view = go(Adam(0.1), budget=20)
    assert view.counter.forward == 14
    assert not end.complete
    assert end.notes == ["the query budget ended the descent after 2 of 30 steps"]


def test_constraint_holds_after_every_step():
    seen = []

    def box(z):
        z = z.clamp(-0.25, 0.25)
        seen.append(float(z.abs().max()))
        return z

    end, *_ = go(Nesterov(0.1), constrain=box)
    assert len(seen) == 30
    assert float(end.latents.abs().max()) <= 0.25


def test_path_holds_the_latents_at_the_fractions():
    end, *_ = go(Adam(0.1), steps=10, fracs=(0.0, 0.5, 1.0))
    half, *_ = go(Adam(0.1), steps=5)
    assert [frac for frac, _ in end.path] == [0.0, 0.5, 1.0]
    assert torch.equal(end.path[0][1], START)
    assert torch.equal(end.path[1][1], half.latents)
    assert torch.equal(end.path[2][1], end.latents)


def test_schedules():
    assert [round(cosine(step, 4), 3) for step in range(5)] == [1.0, 0.854, 0.5, 0.146, 0.0]
    assert constant(3, 4) == 1.0


@pytest.mark.parametrize("budget", [None, 7 * 11])
def test_keep_best_gives_each_row_its_lowest_point(budget):
    """Steps far too long overshoot: where each row was lowest differs from row to row."""
    seen, losses = [], []

    class Recorded(Bowl):
        def __call__(self, latents, index, step):
            value = super().__call__(latents, index, step)
            seen.append(latents.detach().clone())
            losses.append(value.detach().clone())
            return value

    view = narrow(ToyTarget(toy_templates(3)), Access.WHITE_BOX, max_queries=budget)
    ctx = KeyedContext()
    end = descend(
        START,
        Recorded(view),
        Adam(0.7),
        steps=20,
        view=view,
        chunks=Chunks(ctx),
        ctx=ctx,
        stage="t",
        fracs=(0.0, 0.25, 1.0),
        keep_best=True,
    )
    table, places = torch.stack(losses), torch.stack(losses).argmin(dim=0)
    assert len(places.unique()) > 1
    assert torch.equal(end.loss, table.amin(dim=0))
    assert torch.equal(end.latents, torch.stack([seen[place][row] for row, place in enumerate(places)]))
    early = table[:5].argmin(dim=0)
    assert torch.equal(end.path[0][1], START)
    assert torch.equal(end.path[1][1], torch.stack([seen[place][row] for row, place in enumerate(early)]))
    assert torch.equal(end.path[2][1], end.latents)


def test_keep_best_with_no_step_afforded_is_the_start():
    end, *_ = go(Adam(0.1), budget=6, keep_best=True)
    assert torch.equal(end.latents, START)
    assert end.loss is None


STEPPERS = pytest.mark.parametrize("stepper", [lambda: Adam(0.1), lambda: Nesterov(0.02)], ids=["adam", "nesterov"])


@STEPPERS
@pytest.mark.parametrize("keep_best", [False, True])
def test_rows_that_stop_leave_the_others_as_they_were(stepper, keep_best):
    """Every row ends where it would have ended alone, and no row is sent on after it was done."""
    end, _, _, view = go(stepper(), steps=60, stop=Settled(0.5, checks=3), keep_best=keep_best)
    queries = 0
    for row in range(7):
        own = CENTRES[row]
        lone = narrow(ToyTarget(toy_templates(3)), Access.WHITE_BOX)

        def bowl(latents, index, step, own=own, lone=lone):
            lone.counter.charge(len(latents))
            return (latents - own).square().sum(dim=1)

        bowl.queries_per_row, ctx = 1, KeyedContext()
        alone = descend(
            START[row : row + 1],
            bowl,
            stepper(),
            steps=60,
            view=lone,
            chunks=Chunks(ctx),
            ctx=ctx,
            stage="t",
            stop=Settled(0.5, checks=3),
            keep_best=keep_best,
        )
        torch.testing.assert_close(alone.latents, end.latents[row : row + 1], atol=1e-6, rtol=0)
        torch.testing.assert_close(alone.loss, end.loss[row : row + 1], atol=1e-5, rtol=0)
        queries += lone.counter.forward
    assert view.counter.forward == queries < 7 * 60
    assert bool((end.loss <= 0.5).all())


def test_a_stopped_row_stays_at_the_point_that_was_judged():
    end, *_ = go(Adam(0.1), steps=60, stop=Settled(0.5, checks=1))
    torch.testing.assert_close((end.latents - CENTRES).square().sum(dim=1), end.loss)
    assert bool((end.loss <= 0.5).all())
    whole, *_ = go(Adam(0.1), steps=60)
    assert not torch.equal(whole.latents, end.latents)


def test_a_descent_ends_when_all_rows_have():
    ticks = []
    view = narrow(ToyTarget(toy_templates(3)), Access.WHITE_BOX)
    ctx = KeyedContext(on_tick=lambda stage, done, total: ticks.append(done))
    end = descend(
        START,
        Bowl(view),
        Adam(0.1),
        steps=9,
        view=view,
        chunks=Chunks(ctx),
        ctx=ctx,
        stage="t",
        stop=lambda losses, index, step: torch.full_like(losses, step == 2, dtype=torch.bool),
        fracs=(1.0,),
    )
    assert ticks == [1, 2, 3]
    assert view.counter.forward == 3 * 7
    assert end.complete
    assert torch.equal(end.path[0][1], end.latents)


def test_the_budget_counts_only_rows_that_still_move():
    def halve(losses, index, step):
        return index >= 4

    end, _, _, view = go(Adam(0.1), steps=10, budget=7 + 9 * 4, stop=halve)
    assert end.complete
    assert view.counter.forward == 7 + 9 * 4


def test_settled_wants_low_losses_in_a_row():
    rule, index = Settled(1.0, checks=2), torch.tensor([5, 8])
    answers = [rule(torch.tensor(losses), index, 0).tolist() for losses in ([0.5, 0.5], [2.0, 1.0], [0.5, 3.0])]
    assert answers == [[False, False], [False, True], [False, False]]
    assert rule(torch.tensor([0.9]), index[:1], 3).tolist() == [True]
