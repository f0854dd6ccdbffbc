"""Inversion-specific GAN: its discriminator learns the target's soft labels of public images beside real from fake."""

from __future__ import annotations

import copy
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import log_softmax, softplus

from auditor.contracts.access import Access
from auditor.data.checkpoint import Stateful, resumable
from auditor.priors.base import Oracle, Trait
from auditor.priors.dcgan import DcganCritic, DcganGenerator, DcganPrior
from auditor.priors.network import PriorConfig, pad_to, update_average
from auditor.priors.quality import hold_out, hold_out_sizes, quality_figures
from auditor.tensors import ImageBatch, RunContext


class KedmiGanConfig(PriorConfig):
    """Parameters of the inversion-specific GAN."""

    latent_dim: int = Field(default=100, ge=2)
    """Coordinates of the latent."""
    width: int = Field(default=32, ge=4, le=512)
    """Channels at the finest resolution (the paper's networks: 64); doubles per halving, up to eight times."""
    steps: int = Field(default=400, ge=1)
    """Generator steps (the paper trains 11,000 at 64x64)."""
    critic_steps: int = Field(default=3, ge=1)
    """Discriminator steps per generator step (paper: 5)."""
    batch_size: int = Field(default=64, ge=2)
    lr: float = Field(default=5e-4, gt=0)
    """Step size of both Adams (paper: 2e-4)."""
    entropy_weight: float = Field(default=6.4e-3, ge=0)
    """Weight of the mean entropy of the classes that the discriminator sees in a drawn picture (paper: 1e-4 times the
    sum over its batch of 64)."""
    ema: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the weight average of the generator that is kept."""
    flip: bool = True
    """Train on mirrored images too; the target is asked about them, at twice the queries."""


class KnowledgeCritic(DcganCritic):
    """The DCGAN's critic with K outputs: scores of the target's classes, whose logsumexp is the score of being real.

    It has no minibatch discrimination, which the paper puts before the outputs: that makes an image's score depend on
    its batch, and an attack scores each image alone.
    """

    def __init__(self, image_shape: tuple[int, int, int], width: int, n_classes: int) -> None:
        super().__init__(image_shape, width)
        last = cast(nn.Conv2d, self.body[-2])
        self.body = self.body[:-2]
        self.head = nn.Linear(last.weight[0].numel(), n_classes)

    def features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B, F)."""
        return self.body(pad_to(images, *self.canvas)).flatten(1)  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B, K) class scores."""
        scores: Tensor = self.head(self.features(images))
        return scores


class KedmiGanPrior(DcganPrior):
    """A trained inversion-specific GAN; `critic` is the log-probability of being real, each image judged alone."""

    def critic(self, images: Tensor) -> Tensor:
        """(B,) float32, `log sigmoid(logsumexp_k D_k)`: at most 0, larger is more real."""
        scores: Tensor = self.networks["critic"](images)
        return -softplus(-torch.logsumexp(scores.float(), dim=1))


class KedmiGanBuilder:
    """DCGAN made for one target: its discriminator tells the target's classes apart as well as real from drawn.

    The discriminator gives K scores; it learns the target's soft labels of public images, and that the logsumexp of the
    scores is high for public and low for drawn pictures. The generator matches the mean features of public images, and
    draws pictures of which the discriminator can name the class.

    Departures: no minibatch discrimination (it couples the images of a batch, and in the paper's losses it reaches the
    generator through the small entropy term alone); the target is asked once per public image, before training, and its
    answers are kept; the generator kept is a moving average; far fewer steps and a larger step size by default.
    """

    name = "kedmi-gan"
    paper = (
        "Chen, Kahla, Jia and Qi, ICCV 2021, arXiv 2010.04092; after Salimans et al., NeurIPS 2016, arXiv 1606.03498"
    )
    Config = KedmiGanConfig
    traits: frozenset[Trait] = KedmiGanPrior.traits
    access: Access | None = Access.SCORE

    def __init__(self, config: KedmiGanConfig) -> None:
        self.config = config

    def blank(self, image_shape: tuple[int, int, int], n_classes: int = 0) -> KedmiGanPrior:
        """Untrained networks for pictures of `image_shape` and a target of `n_classes`."""
        return self._wrap(*self._networks(image_shape, n_classes), image_shape, n_classes)

    def queries(self, n_public: int, n_classes: int) -> int:
        """Every image trained on once, and its mirror image."""
        return hold_out_sizes(n_public)[0] * (2 if self.config.flip else 1)

    def train(self, public: ImageBatch, ctx: RunContext, oracle: Oracle | None = None) -> KedmiGanPrior:
        """Train on public images and the target's answers to them; labels are not used.

        Raises:
            ValueError: no `oracle`.
        """
        if oracle is None:
            raise ValueError(f"prior '{self.name}' is made for one target and was given none")
        shape = (int(public.images.shape[1]), int(public.images.shape[2]), int(public.images.shape[3]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ctx.rng("prior", self.name, "weights").initial_seed())
            networks = self._networks(shape, oracle.n_classes)
        generator, critic = (network.to(ctx.device) for network in networks)
        kept, heldout = hold_out(public.images, ctx)
        known = _Known(kept, oracle, ctx, flip=self.config.flip)
        average = self._optimise(generator, cast(KnowledgeCritic, critic), known, ctx)
        prior = self._wrap(average, critic, shape, oracle.n_classes)
        prior.quality = quality_figures(prior, heldout, ctx)
        return prior

    def _networks(self, shape: tuple[int, int, int], n_classes: int) -> tuple[nn.Module, nn.Module]:
        generator: nn.Module = DcganGenerator(shape, self.config.latent_dim, self.config.width)
        critic: nn.Module = KnowledgeCritic(shape, self.config.width, n_classes)
        layout = torch.channels_last
        return generator.to(memory_format=layout), critic.to(memory_format=layout)  # type: ignore[call-overload]

    def _wrap(
        self, generator: nn.Module, critic: nn.Module, shape: tuple[int, int, int], n_classes: int
    ) -> KedmiGanPrior:
        return KedmiGanPrior(
            name=self.name,
            config=self.config,
            image_shape=shape,
            latent_dim=self.config.latent_dim,
            networks=nn.ModuleDict({"generator": generator, "critic": critic}),
            n_classes=n_classes,
        )

    def _optimise(self, generator: nn.Module, critic: KnowledgeCritic, known: _Known, ctx: RunContext) -> nn.Module:
        config, draws = self.config, ctx.rng("prior", self.name, "batches")
        average = copy.deepcopy(generator)
        g_adam = torch.optim.Adam(generator.parameters(), lr=config.lr, betas=(0.5, 0.999))
        d_adam = torch.optim.Adam(critic.parameters(), lr=config.lr, betas=(0.5, 0.999))
        size = max(2, min(config.batch_size, len(known)))
        generator.train()
        critic.train()

        def noise() -> Tensor:
            return torch.randn(size, config.latent_dim, generator=draws).to(ctx.device)

        parts: dict[str, Stateful] = {"generator": generator, "critic": critic, "average": average}
        parts |= {"generator's Adam": g_adam, "critic's Adam": d_adam}
        for step in resumable(ctx, "train kedmi-gan", config.steps, parts, draws):
            for _ in range(config.critic_steps):
                with torch.no_grad(), ctx.autocast():
                    fake = generator(noise()).float()
                (labelled, answers), (real, _) = known.batch(size, draws), known.batch(size, draws)
                with ctx.autocast():
                    scores = critic(torch.cat([labelled, real, fake])).float()
                _update(d_adam, discriminator_loss(scores, answers))
            critic.requires_grad_(False)
            real, _ = known.batch(size, draws)
            with ctx.autocast():
                drawn, seen = critic.features(generator(noise())), critic.features(real)
                scores = critic.head(drawn).float()
            gap = (drawn.float().mean(dim=0) - seen.float().mean(dim=0)).abs().mean()
            _update(g_adam, gap + config.entropy_weight * entropy(scores).mean())
            critic.requires_grad_(True)
            update_average(average, generator, step, config.ema)
        return average


class _Known:
    """Public images and the target's answers to them, asked once; with `flip`, their mirror images too."""

    def __init__(self, images: Tensor, oracle: Oracle, ctx: RunContext, *, flip: bool) -> None:
        self._images = images.to(ctx.device)
        chunks = self._images.split(ctx.batch_size)
        answers = [oracle.log_probs(chunk) for chunk in chunks]
        answers += [oracle.log_probs(chunk.flip(3)) for chunk in chunks if flip]
        self._answers = torch.cat(answers)

    def __len__(self) -> int:
        return len(self._answers)

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(size, C, H, W) images drawn with replacement by a CPU generator, and (size, K) log-probabilities."""
        index, n = torch.randint(len(self), (size,), generator=generator).to(self._answers.device), len(self._images)
        images = self._images[index % n]
        return torch.where((index >= n)[:, None, None, None], images.flip(3), images), self._answers[index]


def discriminator_loss(scores: Tensor, answers: Tensor) -> Tensor:
    """Cross-entropy with the target's answers, plus half the loss of telling public from drawn pictures.

    Args:
        scores: (3 B, K) of the public images that were answered, of other public images, and of drawn pictures.
        answers: (B, K) the target's log-probabilities.
    """
    labelled, real, fake = scores.chunk(3)
    knowledge = -(answers.exp() * log_softmax(labelled, dim=1)).sum(dim=1).mean()
    real_score, fake_score = torch.logsumexp(real, dim=1), torch.logsumexp(fake, dim=1)
    return knowledge + 0.5 * (softplus(-real_score).mean() + softplus(fake_score).mean())


def entropy(scores: Tensor) -> Tensor:
    """(B,) entropy, in nats, of the classes that (B, K) scores stand for."""
    log_probs = log_softmax(scores, dim=1)
    return -(log_probs.exp() * log_probs).sum(dim=1)


def _update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
