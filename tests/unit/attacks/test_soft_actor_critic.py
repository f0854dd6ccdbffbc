import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from auditor.attacks.base import KeyedContext, Rows
from auditor.attacks.rows import RowStreams
from auditor.attacks.soft_actor_critic import Replay, SoftActorCritic, StackedMlp

CPU = torch.device("cpu")
CTX = KeyedContext(attack_key="t")


def streams(rows=(0, 1, 2), purpose="p"):
    return RowStreams(CTX, Rows(torch.tensor(rows), torch.zeros(len(rows), dtype=torch.int64)), purpose)


def agents(rows=(0, 1, 2), n_states=3, n_actions=2, **options):
    settings = {"width": 16, "lr": 1e-2, "temperature": 0.05, "temperature_lr": 1e-2, "device": CPU} | options
    return SoftActorCritic(streams(rows, "agent"), n_states, n_actions, **settings)


def spread_to(agent, log_std):
    """Give every action of the actor this deviation."""
    last = agent._actor.biases[-1].data
    agent._actor.weights[-1].data.zero_()
    last.zero_()
    last[..., last.shape[-1] // 2 :] = log_std


def test_stacked_networks_are_separate_networks():
    stacked = StackedMlp(streams(), (4, 8, 8, 2))
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    for row in range(3):
        layers = []
        for weight, bias in zip(stacked.weights, stacked.biases, strict=True):
            linear = nn.Linear(weight.shape[1], weight.shape[2])
            linear.weight.data, linear.bias.data = weight.data[row].T, bias.data[row, 0]
            layers += [linear, nn.ReLU()]
        torch.testing.assert_close(stacked(x)[row], nn.Sequential(*layers[:-1])(x[row]))


def test_density_is_that_of_a_tanh_gaussian_summed_over_coordinates():
    agent = agents()
    states = torch.randn(3, 7, 3, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(3, 7, 2, generator=torch.Generator().manual_seed(1))
    actions, density = agent._sample(states, noise)
    mean, log_std = agent._actor(states).chunk(2, dim=2)
    gaussian = Independent(Normal(mean, log_std.exp()), 1)
    expected = TransformedDistribution(gaussian, [TanhTransform(cache_size=1)]).log_prob(actions)
    torch.testing.assert_close(density, expected, rtol=1e-3, atol=1e-3)


def test_every_coordinate_explores_on_its_own_and_the_last_episode_does_not():
    agent = agents(n_actions=4)
    spread_to(agent, 0.0)
    raw = agent.act(torch.zeros(3, 50, 3)).atanh()
    assert bool((raw[:, -1] == 0).all())
    explored = raw[:, :-1]
    assert bool((torch.linalg.matrix_rank(explored) == 4).all())
    assert float(torch.corrcoef(explored[0].T).fill_diagonal_(0).abs().max()) < 0.6


@pytest.mark.parametrize(("log_std", "rises"), [(-4.0, True), (-0.5, False)])
def test_temperature_steers_the_entropy_to_minus_the_number_of_coordinates(log_std, rises):
    agent = agents(n_actions=5)
    spread_to(agent, log_std)
    before = agent.temperature
    agent.learn(torch.zeros(3, 32, 3), torch.zeros(3, 32, 5), torch.zeros(3, 32))
    assert bool(((agent.temperature > before) == rises).all())


def play(rows, steps=150):
    """Agents whose reward is minus the squared distance to a goal of their own; mean actions and rewards."""
    goals = torch.tensor([[0.5, -0.5], [-0.6, 0.2], [0.0, 0.7]])[list(rows)][:, None]
    agent, memory, draws = agents(rows), Replay(len(rows), 1000, 3, 2, CPU), streams(rows, "episodes")
    earned = []
    for _ in range(steps):
        states = draws.normal(4, 3)
        actions = agent.act(states)
        rewards = -(actions - goals).square().sum(dim=2)
        memory.add(states, actions, rewards)
        earned.append(rewards)
        agent.learn(*memory.batch(draws.uniform(32)))
    return agent.act(torch.zeros(len(rows), 1, 3))[:, 0], goals[:, 0], torch.stack(earned)


def test_agents_learn_their_own_goals():
    actions, goals, earned = play((0, 1, 2), steps=300)
    assert float((actions - goals).abs().max()) < 0.25
    tenth = len(earned) // 10
    assert bool((earned[-tenth:].mean(dim=(0, 2)) > 0.5 * earned[:tenth].mean(dim=(0, 2))).all())


def test_agents_do_not_depend_on_each_other():
    together, _, _ = play((0, 1, 2), steps=40)
    alone, _, _ = play((2,), steps=40)
    torch.testing.assert_close(alone[0], together[2], atol=1e-5, rtol=0)


def test_learning_leaves_the_critics_no_gradient_of_the_actor():
    agent = agents()
    before = [parameter.clone() for parameter in agent._critics.parameters()]
    agent._critic_adam.param_groups[0]["lr"] = 0.0
    agent.learn(torch.zeros(3, 8, 3), torch.zeros(3, 8, 2), torch.ones(3, 8))
    assert all(torch.equal(a, b) for a, b in zip(before, agent._critics.parameters(), strict=True))


def test_replay_gives_what_was_put_in_and_forgets_the_oldest():
    memory = Replay(2, 5, 1, 1, CPU)
    for turn in range(4):
        value = torch.full((2, 2, 1), float(turn))
        memory.add(value, 10 * value, 100 * value[..., 0])
    states, actions, rewards = memory.batch(torch.linspace(0, 0.999, 50).expand(2, 50))
    assert memory.filled == 5
    assert sorted(set(states.flatten().tolist())) == [1.0, 2.0, 3.0]
    torch.testing.assert_close(actions, 10 * states)
    torch.testing.assert_close(rewards, 100 * states[..., 0])


def test_replay_never_gives_places_that_were_not_filled():
    memory = Replay(1, 100, 1, 1, CPU)
    memory._kept.fill_(math.nan)
    memory.add(torch.ones(1, 3, 1), torch.ones(1, 3, 1), torch.ones(1, 3))
    assert all(bool(part.isfinite().all()) for part in memory.batch(torch.rand(1, 200)))
