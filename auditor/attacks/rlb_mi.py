"""RLB-MI: an agent per picture learns by reinforcement which latents the target scores high."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from auditor.attacks.base import Attack, AttackConfig, Inversion, KeyedContext, Rows
from auditor.attacks.initial import RandomInit
from auditor.attacks.rows import Chunks, RowStreams, affordable, paint
from auditor.attacks.soft_actor_critic import Replay, SoftActorCritic
from auditor.contracts.access import Access
from auditor.contracts.cost import Cost
from auditor.priors.base import Prior
from auditor.targets.views import ScoreView
from auditor.tensors import Snapshot

FLOOR = 1e-7
"""The least margin whose logarithm is taken."""


class RlbMiConfig(AttackConfig):
    """Parameters of RLB-MI."""

    steps: int = Field(default=250, ge=1)
    """Rounds of acting and learning (paper: 40,000)."""
    parallel: int = Field(default=4, ge=2)
    """Episodes per round and row, one query each; the last follows the actor without noise."""
    width: int = Field(default=128, ge=1)
    """Of the hidden layers of actor and critics (paper: 256)."""
    lr: float = Field(default=1e-3, gt=0)
    """Step size of actor and critics (paper: 5e-4)."""
    batch_size: int = Field(default=64, ge=1)
    """Transitions per update (paper: 256)."""
    replay: int = Field(default=10_000, ge=1)
    """Transitions kept per row (paper: a million)."""
    temperature: float = Field(default=0.05, gt=0)
    """Weight of the entropy at the start."""
    temperature_lr: float = Field(default=1e-2, gt=0)
    """Step size of the temperature's logarithm."""
    reach: float = Field(default=2.0, gt=0)
    """Latents are actions times this: they stay within [-reach, reach] (paper: 1)."""


def reward(log_probs: Tensor, labels: Tensor) -> Tensor:
    """`4 log p_y + 8 log max(1e-7, p_y - max_{j != y} p_j)`, divided by 12: a mean of logarithms.

    Args:
        log_probs: (B, K) of the pictures of the actions.
        labels: (B,) int64, y.

    Returns:
        (B,) finite.
    """
    wanted = log_probs.gather(1, labels[:, None]).squeeze(1)
    others = log_probs.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    margin = (wanted.exp() - others.exp()).clamp_min(FLOOR)
    return (4 * wanted + 8 * margin.log()) / 12


class RlbMi(Attack[RlbMiConfig]):
    """Soft actor-critic over latents: the state is a random latent, the action the latent to be painted.

    The reward is the target's log-probability of the class and the logarithm of its margin over the next one. Each row
    has an agent of its own; all agents act, are scored and learn together. The picture kept is the one with the highest
    confidence of all that were scored. Queries: steps x parallel for each row.

    Departures: with the paper's setting (one step, all weight on the action) the next state is the action itself, so
    the reward's two log-probability terms (2 + 2) are one, asked for once instead of twice, and discount and target
    critics have no effect: they are left out. The paper's code shares one random number among all coordinates of the
    exploration noise and averages the log-density over coordinates while it aims at an entropy of minus their number;
    here every coordinate has its own noise and the density is summed. The reward is divided by the sum of its weights,
    and rounded to three decimals, lest the last bits of a forward pass, which depend on how rows are put into batches,
    steer the learning. Rollouts without noise are learned from too. One agent per picture instead of one per class,
    far fewer steps, smaller networks, a faster learned temperature by default.
    """

    name = "rlb-mi"
    access = Access.SCORE
    paper = "Han, Choi, Lee and Kim, CVPR 2023, arXiv 2304.04625"
    Config = RlbMiConfig

    def cost(self, attacked: int, samples_per_class: int, n_classes: int) -> Cost:
        """`parallel` images for each row and step."""
        rows = attacked * samples_per_class
        forward = rows * self.config.steps * self.config.parallel
        return Cost(forward=forward, decodes=forward + 2 * rows)

    def invert(
        self, view: ScoreView, prior: Prior, rows: Rows, ctx: KeyedContext, snapshot_fracs: tuple[float, ...]
    ) -> Inversion:
        """One agent per row."""
        config, chunks = self.config, Chunks(ctx)
        world = _World(view, prior, rows, config.parallel, config.reach, chunks, ctx)
        agents = self._agents(prior.latent_dim, rows, ctx)
        capacity = min(config.replay, config.steps * config.parallel)
        memory = Replay(len(rows), capacity, prior.latent_dim, prior.latent_dim, ctx.device)
        start = RandomInit()(prior, rows, ctx)
        best, kept = Best(start), {0: start}
        wanted = {round(frac * config.steps) for frac in snapshot_fracs}
        draws = RowStreams(ctx, rows, "episodes")
        complete, notes = True, list[str]()
        for step in range(config.steps):
            if not affordable(view, len(rows) * config.parallel):
                complete = False
                notes.append(f"the query budget ended the learning after {step} of {config.steps} steps")
                break
            states = draws.normal(config.parallel, prior.latent_dim).to(ctx.device)
            actions = agents.act(states)
            latents, scores, rewards = world.step(actions)
            best.offer(latents, scores)
            memory.add(states, actions, rewards.to(ctx.device))
            if memory.filled >= min(config.batch_size, capacity):
                agents.learn(*memory.batch(draws.uniform(config.batch_size)))
            if step + 1 in wanted:
                kept[step + 1] = best.latents
            ctx.tick(self.name, step + 1, config.steps)
        path = [(frac, kept.get(round(frac * config.steps), best.latents)) for frac in snapshot_fracs]
        return Inversion(
            start=paint(prior, start, rows.labels, chunks, ctx),
            images=paint(prior, best.latents, rows.labels, chunks, ctx),
            snapshots=tuple(Snapshot(frac, paint(prior, z, rows.labels, chunks, ctx)) for frac, z in path),
            notes=notes + chunks.notes,
            complete=complete,
        )

    def _agents(self, D: int, rows: Rows, ctx: KeyedContext) -> SoftActorCritic:
        config = self.config
        return SoftActorCritic(
            RowStreams(ctx, rows, "agent"),
            D,
            D,
            width=config.width,
            lr=config.lr,
            temperature=config.temperature,
            temperature_lr=config.temperature_lr,
            device=ctx.device,
        )


class Best:
    """The best latent of every row among those offered; no tensor is written to in place.

    Attributes:
        latents: (R, D).
        scores: (R,) log-probabilities; minus infinity before the first offer.
    """

    def __init__(self, start: Tensor) -> None:
        self.latents, self.scores = start, torch.full((len(start),), -torch.inf)

    def offer(self, latents: Tensor, scores: Tensor) -> None:
        """Take what is better of (R, E, D) latents with (R, E) scores."""
        top, place = scores.max(dim=1)
        better = top > self.scores
        self.latents = torch.where(better[:, None], latents[torch.arange(len(top)), place], self.latents)
        self.scores = torch.where(better, top, self.scores)


class _World:
    """What happens to an action: it becomes a latent, a picture, and the target's opinion of it."""

    def __init__(
        self,
        view: ScoreView,
        prior: Prior,
        rows: Rows,
        parallel: int,
        reach: float,
        chunks: Chunks,
        ctx: KeyedContext,
    ) -> None:
        self._view, self._prior, self._reach, self._chunks, self._ctx = view, prior, reach, chunks, ctx
        self._labels = rows.labels.repeat_interleave(parallel)

    @torch.no_grad()
    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(R, E, D) actions to latents, (R, E) log-probabilities and (R, E) rewards, on the CPU; one query each."""
        latents = self._reach * actions.cpu()
        flat = latents.flatten(0, 1)

        def rate(part: slice) -> tuple[Tensor, Tensor]:
            labels = self._labels[part]
            with self._ctx.autocast():
                images = self._prior.decode(flat[part].to(self._ctx.device), labels)
                log_probs = self._view.log_probs(images).float().cpu()
            return log_probs.gather(1, labels[:, None]).squeeze(1), reward(log_probs, labels)

        parts = self._chunks.map(len(flat), rate)
        scores, rewards = (torch.cat([part[i] for part in parts]).view(actions.shape[:2]) for i in (0, 1))
        return latents, scores, (rewards * 1e3).round() / 1e3
