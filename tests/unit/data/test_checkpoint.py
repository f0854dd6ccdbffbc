"""A training that is stopped goes on to the same bytes."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from auditor.data import checkpoint
from auditor.data.checkpoint import resumable
from auditor.errors import Cancelled
from auditor.tensors import RunContext

STEPS = 12


def train(ctx, *, seen=None):
    """A tiny training that uses everything a real one does."""
    draws = ctx.rng("batches")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 0.05, total_steps=STEPS + 1)
    for step in resumable(ctx, "train toy", STEPS, {"model": model, "adam": adam, "schedule": schedule}, draws):
        if seen is not None:
            seen.append(step)
        loss = (model(torch.randn(8, 4, generator=draws)) - 1).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    return torch.cat([value.flatten().float() for value in model.state_dict().values()])


@pytest.mark.parametrize("stop", [1, 5, STEPS])
def test_a_cancelled_training_goes_on_to_the_same_weights(tmp_path, stop):
    expected, ticks = train(RunContext()), []
    kept = RunContext(unfinished=tmp_path)
    stopped = replace(
        kept, on_tick=lambda _stage, done, _total: ticks.append(done), is_cancelled=lambda: len(ticks) == stop
    )
    with pytest.raises(Cancelled):
        train(stopped)
    seen = []
    assert torch.equal(train(kept, seen=seen), expected)
    assert seen == list(range(stop, STEPS))


def test_a_killed_training_loses_no_more_than_the_time_between_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    expected = train(RunContext())
    kept = RunContext(unfinished=tmp_path)

    def die(_stage, done, _total):
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(replace(kept, on_tick=die))
    seen = []
    assert torch.equal(train(kept, seen=seen), expected)
    assert seen == list(range(6, STEPS))


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(RunContext())
    assert list(tmp_path.iterdir()) == []
