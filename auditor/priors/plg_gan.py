"""PLG-MI's prior: a conditional GAN of public images that the target sorted into its own classes."""

from __future__ import annotations

import copy

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu

from auditor.contracts.access import Access
from auditor.data.checkpoint import Stateful, resumable
from auditor.priors.base import Oracle, Trait
from auditor.priors.conditional_networks import (
    ConditionalGanConfig,
    ConditionalGenerator,
    ConditionalPrior,
    ProjectionDiscriminator,
    draw_conditions,
    update,
)
from auditor.priors.network import update_average
from auditor.priors.quality import hold_out, hold_out_sizes, quality_figures
from auditor.priors.transforms import JITTER, N_DRAWS, transform
from auditor.tensors import ImageBatch, RunContext


class PlgGanConfig(ConditionalGanConfig):
    """Parameters of PLG-MI's conditional GAN."""

    steps: int = Field(default=300, ge=1)
    """Generator steps (the paper trains 30,000 at 64x64)."""
    per_class: int | None = Field(default=None, ge=1)
    """Public images that stand for a class (the paper: 30 for 1,000 classes); None: public images per class, but no
    fewer than 30 and no more than 300. Never more than there are."""
    margin_weight: float = Field(default=0.2, ge=0)
    """Weight of the max-margin loss through the target beside the discriminator's score."""


class PlgGanBuilder:
    """Conditional GAN whose classes are the target's: each is stood for by the public images it is surest of.

    The discriminator compares drawn pictures of a class with these images; the target's own margin, on drawn pictures
    changed at random, pulls the generator towards what the target takes for the class.

    Departures: the generator kept is a moving average; fewer and narrower layers, fewer steps with a larger step size,
    two discriminator steps per generator step, to fit a CPU; a sigmoid in place of a hyperbolic tangent, so that
    pictures are in the target's range; no dequantisation noise, since resized images are not on a grid. The target does
    not see the pictures of discriminator steps.
    """

    name = "plg-gan"
    paper = (
        "Yuan, Chen, Zhang, Lei, Yu and Wang, AAAI 2023 (PLG-MI), arXiv 2302.09814; "
        "networks: Miyato and Koyama, ICLR 2018, arXiv 1802.05637"
    )
    Config = PlgGanConfig
    traits: frozenset[Trait] = ConditionalPrior.traits
    access: Access | None = Access.WHITE_BOX

    def __init__(self, config: PlgGanConfig) -> None:
        self.config = config

    def blank(self, image_shape: tuple[int, int, int], n_classes: int = 0) -> ConditionalPrior:
        """Untrained networks for pictures of `image_shape` and `n_classes` classes."""
        config = self.config
        generator = ConditionalGenerator(image_shape, config.latent_dim, config.width, n_classes)
        return self._wrap(generator.to(memory_format=torch.channels_last), image_shape, n_classes)  # type: ignore[call-overload]

    def queries(self, n_public: int, n_classes: int) -> int:
        """Every public image once, and a batch of pictures a step."""
        return sum(hold_out_sizes(n_public)) + self.config.steps * self.config.batch_size

    def train(self, public: ImageBatch, ctx: RunContext, oracle: Oracle | None = None) -> ConditionalPrior:
        """Train on public images and the target's logits; the images' own labels are not used.

        Queries: one per public image, one per held-out image, then one per picture of each generator step.
        """
        if oracle is None:
            raise ValueError(f"prior '{self.name}' is made for one target and was given none")
        shape = (int(public.images.shape[1]), int(public.images.shape[2]), int(public.images.shape[3]))
        kept, heldout = hold_out(public.images, ctx)
        scores = _log_probs(oracle, kept, ctx)
        members, sureness = pseudo_labels(scores, self._per_class(len(kept), oracle.n_classes))
        average = self._optimise(kept.to(ctx.device), members, oracle, ctx)
        prior = self._wrap(average, shape, oracle.n_classes)
        nearest = _log_probs(oracle, heldout, ctx).argmax(dim=1)
        prior.quality = quality_figures(prior, heldout, ctx, nearest) | {
            "answered_classes_frac": len(scores.argmax(dim=1).unique()) / oracle.n_classes,
            "pseudo_label_confidence": float(sureness.mean()),
            "least_pseudo_label_confidence": float(sureness.mean(dim=1).min()),
        }
        return prior

    def _per_class(self, n_images: int, n_classes: int) -> int:
        wanted = self.config.per_class or min(300, max(30, n_images // n_classes))
        return min(n_images, wanted)

    def _wrap(self, generator: nn.Module, shape: tuple[int, int, int], n_classes: int) -> ConditionalPrior:
        return ConditionalPrior(
            name=self.name,
            config=self.config,
            image_shape=shape,
            latent_dim=self.config.latent_dim,
            networks=nn.ModuleDict({"generator": generator}),
            n_classes=n_classes,
        )

    def _networks(self, images: Tensor, n_classes: int, ctx: RunContext) -> tuple[nn.Module, nn.Module]:
        """Generator and discriminator with seeded weights, in training mode."""
        config = self.config
        shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ctx.rng("prior", self.name, "weights").initial_seed())
            generator: nn.Module = ConditionalGenerator(shape, config.latent_dim, config.width, n_classes)
            critic: nn.Module = ProjectionDiscriminator(shape, config.width, n_classes)
        layout = torch.channels_last
        generator, critic = (network.to(ctx.device, memory_format=layout) for network in (generator, critic))  # type: ignore[call-overload]
        return generator.train(), critic.train()

    def _optimise(self, images: Tensor, members: Tensor, oracle: Oracle, ctx: RunContext) -> nn.Module:
        """The averaged generator after training on `images`, of which `members` (K, n) stand for the classes."""
        config, draws = self.config, ctx.rng("prior", self.name, "batches")
        generator, critic = self._networks(images, oracle.n_classes, ctx)
        average = copy.deepcopy(generator)
        g_adam = torch.optim.Adam(generator.parameters(), lr=config.lr, betas=(0.0, 0.9))
        d_adam = torch.optim.Adam(critic.parameters(), lr=config.lr, betas=(0.0, 0.9))
        sizes = (config.batch_size, config.latent_dim, oracle.n_classes)
        parts: dict[str, Stateful] = {"generator": generator, "critic": critic, "average": average, "oracle": oracle}
        parts |= {"generator's Adam": g_adam, "critic's Adam": d_adam}
        for step in resumable(ctx, "train plg-gan", config.steps, parts, draws):
            for _ in range(config.critic_steps):
                real, named = class_batch(images, members, config.batch_size, flip=config.flip, generator=draws)
                latents, classes = draw_conditions(*sizes, draws, ctx.device)
                with ctx.autocast():
                    with torch.no_grad():
                        fake = generator(latents, classes)
                    scores = critic(torch.cat([fake, real]), torch.cat([classes, named])).float()
                below, above = scores.split(config.batch_size)
                update(d_adam, relu(1 + below).mean() + relu(1 - above).mean())
            latents, classes = draw_conditions(*sizes, draws, ctx.device)
            changes = torch.rand(config.batch_size, N_DRAWS, generator=draws)
            with ctx.autocast():
                fake = generator(latents, classes)
                realism = critic(fake, classes).float().mean()
                logits = oracle.logits(transform(fake, changes, JITTER)).float()
            update(g_adam, -realism + config.margin_weight * _margin_lost(logits, classes).mean())
            update_average(average, generator, step, config.ema)
        return average


def pseudo_labels(scores: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Which images stand for which class; an image may stand for several, and every class gets `n`.

    Args:
        scores: (N, K) log-probabilities.
        n: images per class, at most N.

    Returns:
        (K, n) int64 indices, surest first, and (K, n) the probabilities, which differ widely between classes.
    """
    best = scores.topk(n, dim=0)
    return best.indices.T.contiguous(), best.values.T.exp()


def class_batch(
    images: Tensor, members: Tensor, size: int, *, flip: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(size, C, H, W) images and the (size,) classes they stand for: a uniform class, then one of its members.

    Args:
        images: (N, C, H, W).
        members: (K, n) int64 indices into `images`.
        size: images drawn, with replacement.
        flip: mirror half of them.
        generator: on the CPU.
    """
    classes = torch.randint(len(members), (size,), generator=generator)
    places = torch.randint(members.shape[1], (size,), generator=generator)
    batch = images[members[classes, places].to(images.device)]
    if flip:
        mirrored = (torch.rand(size, generator=generator) < 0.5).to(images.device)
        batch = torch.where(mirrored[:, None, None, None], batch.flip(3), batch)
    return batch, classes.to(images.device)


def _margin_lost(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) the best other logit minus the class's own."""
    wanted = logits.gather(1, labels[:, None]).squeeze(1)
    return logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1) - wanted


def _log_probs(oracle: Oracle, images: Tensor, ctx: RunContext) -> Tensor:
    """(N, K) log-probabilities, on the CPU."""
    return torch.cat([oracle.log_probs(chunk.to(ctx.device)).cpu() for chunk in images.split(ctx.batch_size)])
