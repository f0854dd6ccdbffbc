"""Soft actor-critic for episodes of one step: one agent per row, all agents in stacked weight tensors.

Haarnoja et al., ICML 2018, arXiv 1801.01290; learned temperature: arXiv 1812.05905. Every state is the last of its
episode here, so the value of an action is its reward: there is no discount and no target critic.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from auditor.attacks.rows import RowStreams

_LOG_STD = (-20.0, 2.0)


class StackedMlp(nn.Module):
    """R independent perceptrons of one shape with ReLU between layers, run as batched matrix products.

    Args:
        streams: one generator per row; each draws its own network's weights from U(-1, 1) / sqrt(inputs).
        sizes: inputs, hidden widths, outputs.
    """

    def __init__(self, streams: RowStreams, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for before, after in pairwise(sizes):
            drawn = (2 * streams.uniform(before + 1, after) - 1) / math.sqrt(before)
            self.weights.append(nn.Parameter(drawn[:, :-1].contiguous()))  # (R, in, out)
            self.biases.append(nn.Parameter(drawn[:, -1:].contiguous()))  # (R, 1, out)

    def forward(self, x: Tensor) -> Tensor:
        """(R, B, in) to (R, B, out)."""
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if index < last:
                x = x.relu()
        return x


class Replay:
    """What R agents did and earned; the oldest makes room.

    Args:
        n_rows: R.
        capacity: transitions kept per row.
        n_states: S, coordinates of a state.
        n_actions: A, coordinates of an action.
        device: where it lives.
    """

    def __init__(self, n_rows: int, capacity: int, n_states: int, n_actions: int, device: torch.device) -> None:
        self._kept = torch.empty(n_rows, capacity, n_states + n_actions + 1, device=device)
        self._split = (n_states, n_actions, 1)
        self._next = 0
        self.filled = 0

    def add(self, states: Tensor, actions: Tensor, rewards: Tensor) -> None:
        """Keep (R, B, S) states, (R, B, A) actions, (R, B) rewards."""
        B, capacity = states.shape[1], self._kept.shape[1]
        places = (self._next + torch.arange(B, device=self._kept.device)) % capacity
        self._kept[:, places] = torch.cat([states, actions, rewards[..., None]], dim=2)
        self._next = (self._next + B) % capacity
        self.filled = min(capacity, self.filled + B)

    def batch(self, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States, actions and rewards at (R, B) `draws`, uniform in [0, 1)."""
        places = (draws.to(self._kept.device) * self.filled).long().clamp(max=self.filled - 1)
        chosen = self._kept.gather(1, places[..., None].expand(-1, -1, self._kept.shape[2]))
        states, actions, rewards = chosen.split(self._split, dim=2)
        return states, actions, rewards.squeeze(2)


class SoftActorCritic:
    """R agents: a tanh-Gaussian actor, two critics of which the lower counts, and a temperature each.

    The log-probability is summed over the action's coordinates and the temperature steers the entropy to -A; every
    coordinate explores with noise of its own. (RLB-MI's code averages the one and shares a single number for the
    other, so that the temperature falls to zero and actions move along one line.)

    Args:
        streams: one generator per row, for weights and noise.
        n_states: S, coordinates of a state.
        n_actions: A, coordinates of an action, each in (-1, 1).
        width: of both hidden layers.
        lr: step size of actor and critics (Adam).
        temperature: weight of the entropy at the start.
        temperature_lr: step size of its logarithm.
        device: where the networks live.
    """

    def __init__(
        self,
        streams: RowStreams,
        n_states: int,
        n_actions: int,
        *,
        width: int,
        lr: float,
        temperature: float,
        temperature_lr: float,
        device: torch.device,
    ) -> None:
        self._streams, self._device, self._n_actions = streams, device, n_actions
        self._actor = StackedMlp(streams, (n_states, width, width, 2 * n_actions)).to(device)
        both = (StackedMlp(streams, (n_states + n_actions, width, width, 1)) for _ in range(2))
        self._critics = nn.ModuleList(both).to(device)
        self._log_temperature = nn.Parameter(torch.full((len(streams), 1), math.log(temperature), device=device))
        self._actor_adam = torch.optim.Adam(self._actor.parameters(), lr=lr)
        self._critic_adam = torch.optim.Adam(self._critics.parameters(), lr=lr)
        self._temperature_adam = torch.optim.Adam([self._log_temperature], lr=temperature_lr)

    @property
    def temperature(self) -> Tensor:
        """(R,) weight of the entropy."""
        return self._log_temperature.detach().exp().squeeze(1)

    @torch.no_grad()
    def act(self, states: Tensor) -> Tensor:
        """(R, B, S) to (R, B, A) in (-1, 1); noisy, but for the last of each row, which is the actor's median."""
        noise = self._noise(states.shape[1])
        noise[:, -1] = 0
        return self._sample(states, noise)[0]

    def learn(self, states: Tensor, actions: Tensor, rewards: Tensor) -> None:
        """One update of critics, actor and temperature from (R, B, S), (R, B, A) and (R, B)."""
        with torch.enable_grad():
            errors = [critic(torch.cat([states, actions], dim=2)).squeeze(2) - rewards for critic in self._critics]
            _step(self._critic_adam, torch.stack(errors).square().mean(dim=2).sum())
            chosen, log_prob = self._sample(states, self._noise(states.shape[1]))
            worth = self._value(states, chosen)
            _step(self._actor_adam, (self.temperature[:, None] * log_prob - worth).mean(dim=1).sum())
            surplus = (log_prob.detach() - self._n_actions).mean(dim=1, keepdim=True)  # target entropy -A
            _step(self._temperature_adam, -(self._log_temperature * surplus).sum())

    def _value(self, states: Tensor, actions: Tensor) -> Tensor:
        """(R, B): the lower of the critics' opinions."""
        both = torch.cat([states, actions], dim=2)
        first, second = (critic(both).squeeze(2) for critic in self._critics)
        return torch.minimum(first, second)

    def _sample(self, states: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(R, B, A) actions and (R, B) log-densities, summed over coordinates."""
        mean, log_std = self._actor(states).chunk(2, dim=2)
        log_std = log_std.clamp(*_LOG_STD)
        raw = mean + log_std.exp() * noise
        density = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        bend = 2 * (math.log(2) - raw - softplus(-2 * raw))  # log of the derivative of tanh
        return raw.tanh(), (density - bend).sum(dim=2)

    def _noise(self, n: int) -> Tensor:
        """(R, n, A) draws from N(0, I)."""
        return self._streams.normal(n, self._n_actions).to(self._device)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of the optimizer's own parameters; no other gradient is left behind."""
    parameters = optimizer.param_groups[0]["params"]
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    optimizer.step()
