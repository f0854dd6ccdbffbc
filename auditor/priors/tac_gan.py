"""LOKT's prior: a conditional GAN taught by the target's labels of its own pictures, and two stand-ins for it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from auditor.contracts.access import Access
from auditor.data.checkpoint import Stateful, resumable
from auditor.priors.base import Oracle, Trait
from auditor.priors.conditional_networks import (
    ClassifyingDiscriminator,
    ConditionalGanConfig,
    ConditionalGenerator,
    ConditionalPrior,
    SurrogateClassifier,
    draw_conditions,
    update,
)
from auditor.priors.network import random_batch, update_average
from auditor.priors.quality import hold_out, quality_figures
from auditor.priors.transforms import JITTER, N_DRAWS, transform
from auditor.tensors import ImageBatch, RunContext


class TacGanConfig(ConditionalGanConfig):
    """Parameters of LOKT's target-assisted GAN and of the surrogate trained after it."""

    warm_up: int = Field(default=100, ge=0)
    """Generator steps before the target is asked (the paper: 1,000 to 6,000)."""
    steps: int = Field(default=300, ge=1)
    """Generator steps after that (the paper: 19,000)."""
    class_weight: float = Field(default=1.5, ge=0)
    """Weight of the classes' cross-entropy beside the adversarial loss, once the target is asked."""
    per_class: int = Field(default=100, ge=2)
    """Drawn pictures per class that the target labels for the surrogate (the paper: 500)."""
    surrogate_epochs: int = Field(default=10, ge=1)
    """Passes over these pictures (the paper: 200)."""
    surrogate_width: int = Field(default=32, ge=4, le=512)
    """Channels of the surrogate's first layer."""
    surrogate_lr: float = Field(default=2e-3, gt=0)
    """Peak step size of the surrogate's AdamW."""


class TacGanPrior(ConditionalPrior):
    """A trained T-ACGAN: draws a class at a time, and guesses the target's answer twice."""

    traits: frozenset[Trait] = frozenset({Trait.CONDITIONAL, Trait.SURROGATE})

    def surrogate(self, images: Tensor) -> Tensor:
        """(2, B, K) float32 logits: the discriminator's class head, then the surrogate. Differentiable."""
        _, classes = self.networks["discriminator"](images)
        return torch.stack([classes.float(), self.networks["surrogate"](images).float()])


@dataclass(frozen=True)
class _Labelled:
    """Drawn pictures, as latents and classes, and what the target calls them.

    Attributes:
        latents: (M, D).
        classes: (M,) int64, asked of the generator.
        answers: (M,) int64, the target's.
    """

    latents: Tensor
    classes: Tensor
    answers: Tensor

    def __len__(self) -> int:
        return len(self.answers)

    def part(self, index: Tensor | slice) -> _Labelled:
        """The pictures at `index`."""
        return _Labelled(self.latents[index], self.classes[index], self.answers[index])


class TacGanBuilder:
    """Conditional GAN whose classes come from the target's labels of drawn pictures; no public image is ever labelled.

    The discriminator has a second head that learns the target's labels; the generator is driven to pictures that this
    head recognises as the class asked for. The head, and a classifier trained afterwards on drawn pictures labelled by
    the target, stand in for the target, which an attack then needs no more. Queries: batch_size for each discriminator
    step after the warm-up, then per_class for each class.

    Departures: the generator kept is a moving average; fewer and narrower layers, fewer steps with a larger step size,
    two discriminator steps per generator step, to fit a CPU; pictures in [0, 1]; one small surrogate in place of three
    DenseNets, trained by AdamW for fewer passes. No private image is used to watch the training.
    """

    name = "tac-gan"
    paper = "Nguyen, Chandrasegaran, Abdollahzadeh and Cheung, NeurIPS 2023 (LOKT), arXiv 2310.19342"
    Config = TacGanConfig
    traits: frozenset[Trait] = TacGanPrior.traits
    access: Access | None = Access.LABEL

    def __init__(self, config: TacGanConfig) -> None:
        self.config = config

    def blank(self, image_shape: tuple[int, int, int], n_classes: int = 0) -> TacGanPrior:
        """Untrained networks for pictures of `image_shape` and `n_classes` classes."""
        return self._wrap(self._networks(image_shape, n_classes), image_shape, n_classes)

    def queries(self, n_public: int, n_classes: int) -> int:
        """A batch of pictures a critic step after the warm-up, then those that the surrogate learns from."""
        config = self.config
        return config.steps * config.critic_steps * config.batch_size + config.per_class * n_classes

    def train(self, public: ImageBatch, ctx: RunContext, oracle: Oracle | None = None) -> TacGanPrior:
        """Train on unlabelled public images and the target's labels of drawn pictures."""
        if oracle is None:
            raise ValueError(f"prior '{self.name}' is made for one target and was given none")
        shape = (int(public.images.shape[1]), int(public.images.shape[2]), int(public.images.shape[3]))
        kept, heldout = hold_out(public.images, ctx)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ctx.rng("prior", self.name, "weights").initial_seed())
            networks = self._networks(shape, oracle.n_classes).to(ctx.device)
        self._adversarial(networks, kept.to(ctx.device), oracle, ctx)
        drawn = self._labelled(networks["generator"].eval(), oracle, ctx)
        spared = max(1, len(drawn) // 10)
        self._teach(networks, drawn.part(slice(spared, None)), ctx)
        prior = self._wrap(networks, shape, oracle.n_classes)
        guessed = torch.cat([_ensemble(prior, chunk.to(ctx.device)).cpu() for chunk in heldout.split(ctx.batch_size)])
        prior.quality = quality_figures(prior, heldout, ctx, guessed) | _agreement(
            prior, drawn.part(slice(spared)), ctx
        )
        prior.quality["answered_classes_frac"] = len(drawn.answers.unique()) / oracle.n_classes
        return prior

    def _networks(self, shape: tuple[int, int, int], n_classes: int) -> nn.ModuleDict:
        config = self.config
        networks: nn.ModuleDict = nn.ModuleDict(
            {
                "generator": ConditionalGenerator(shape, config.latent_dim, config.width, n_classes),
                "discriminator": ClassifyingDiscriminator(shape, config.width, n_classes),
                "surrogate": SurrogateClassifier(shape, config.surrogate_width, n_classes),
            }
        )
        return networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def _wrap(self, networks: nn.ModuleDict, shape: tuple[int, int, int], n_classes: int) -> TacGanPrior:
        return TacGanPrior(
            name=self.name,
            config=self.config,
            image_shape=shape,
            latent_dim=self.config.latent_dim,
            networks=networks,
            n_classes=n_classes,
        )

    def _adversarial(self, networks: nn.ModuleDict, images: Tensor, oracle: Oracle, ctx: RunContext) -> None:
        """Train generator and discriminator; in the end `networks` holds the averaged generator."""
        config, draws = self.config, ctx.rng("prior", self.name, "batches")
        generator, critic = networks["generator"].train(), networks["discriminator"].train()
        average = copy.deepcopy(generator)
        g_adam = torch.optim.Adam(generator.parameters(), lr=config.lr, betas=(0.0, 0.9))
        d_adam = torch.optim.Adam(critic.parameters(), lr=config.lr, betas=(0.0, 0.9))
        size, total = config.batch_size, config.warm_up + config.steps
        parts: dict[str, Stateful] = {"generator": generator, "critic": critic, "average": average, "oracle": oracle}
        parts |= {"generator's Adam": g_adam, "critic's Adam": d_adam}
        for step in resumable(ctx, "train tac-gan", total, parts, draws):
            asking = step >= config.warm_up
            for _ in range(config.critic_steps):
                real = random_batch(images, size, flip=config.flip, generator=draws)
                latents, classes = draw_conditions(size, config.latent_dim, oracle.n_classes, draws, ctx.device)
                with ctx.autocast():
                    with torch.no_grad():
                        fake = generator(latents, classes).float()
                    realism, named = (out.float() for out in critic(torch.cat([fake, real])))
                loss = _adversary(realism[size:], 1.0) + _adversary(realism[:size], 0.0)
                if asking:
                    loss = loss + config.class_weight * cross_entropy(named[:size], oracle.labels(fake))
                update(d_adam, loss)
            latents, classes = draw_conditions(size, config.latent_dim, oracle.n_classes, draws, ctx.device)
            with ctx.autocast():
                realism, named = (out.float() for out in critic(generator(latents, classes)))
            loss = _adversary(realism, 1.0)
            if asking:
                loss = loss + config.class_weight * cross_entropy(named, classes)
            update(g_adam, loss)
            update_average(average, generator, step, config.ema)
        networks["generator"] = average

    @torch.no_grad()
    def _labelled(self, generator: nn.Module, oracle: Oracle, ctx: RunContext) -> _Labelled:
        """`per_class` pictures of every class with the target's labels, classes taking turns."""
        count = self.config.per_class * oracle.n_classes
        latents = torch.randn(count, self.config.latent_dim, generator=ctx.rng("prior", self.name, "labelled"))
        classes, answers = torch.arange(count) % oracle.n_classes, []
        for start in range(0, count, ctx.batch_size):
            rows = slice(start, start + ctx.batch_size)
            images = generator(latents[rows].to(ctx.device), classes[rows].to(ctx.device)).float()
            answers.append(oracle.labels(images).cpu())
            ctx.tick("label for the surrogate", min(start + ctx.batch_size, count), count)
        return _Labelled(latents, classes, torch.cat(answers))

    def _teach(self, networks: nn.ModuleDict, drawn: _Labelled, ctx: RunContext) -> None:
        """Train the surrogate on drawn pictures, half of the loss on changed copies of them."""
        config, draws = self.config, ctx.rng("prior", self.name, "surrogate")
        generator, student = networks["generator"].eval(), networks["surrogate"].train()
        size = min(config.batch_size, len(drawn))
        steps = config.surrogate_epochs * max(1, len(drawn) // size)
        optimizer = torch.optim.AdamW(student.parameters(), lr=config.surrogate_lr, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.surrogate_lr, total_steps=steps + 1)
        parts: dict[str, Stateful] = {"student": student, "optimizer": optimizer, "schedule": schedule}
        for _ in resumable(ctx, "train surrogate", steps, parts, draws):
            batch = drawn.part(torch.randint(len(drawn), (size,), generator=draws))
            changes = torch.rand(size, N_DRAWS, generator=draws)
            answers = batch.answers.to(ctx.device)
            with ctx.autocast():
                with torch.no_grad():
                    images = generator(batch.latents.to(ctx.device), batch.classes.to(ctx.device)).float()
                logits = student(torch.cat([images, transform(images, changes, JITTER)])).float()
            update(optimizer, cross_entropy(logits, answers.repeat(2)))
            schedule.step()


def _adversary(realism: Tensor, real: float) -> Tensor:
    """Mean cross-entropy of "is real" against `real`, 0 or 1."""
    return binary_cross_entropy_with_logits(realism, torch.full_like(realism, real))


@torch.no_grad()
def _ensemble(prior: TacGanPrior, images: Tensor) -> Tensor:
    """(B,) int64, the class that both stand-ins together take the images for."""
    return prior.surrogate(images).log_softmax(dim=2).mean(dim=0).argmax(dim=1)


@torch.no_grad()
def _agreement(prior: TacGanPrior, drawn: _Labelled, ctx: RunContext) -> dict[str, float]:
    """How often each stand-in says what the target said of drawn pictures that the surrogate did not learn from."""
    hits = torch.zeros(2)
    for start in range(0, len(drawn), ctx.batch_size):
        batch = drawn.part(slice(start, start + ctx.batch_size))
        images = prior.decode(batch.latents.to(ctx.device), batch.classes)
        hits += (prior.surrogate(images).argmax(dim=2).cpu() == batch.answers).float().sum(dim=1)
    head, student = (hits / len(drawn)).tolist()
    return {"class_head_agreement": head, "surrogate_agreement": student}
