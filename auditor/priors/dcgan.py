"""DCGAN trained as a Wasserstein GAN with gradient penalty: the prior with a critic that GMI needs."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from auditor.contracts.access import Access
from auditor.data.checkpoint import Stateful, resumable
from auditor.priors.base import Oracle, Trait
from auditor.priors.network import NetworkPrior, PriorConfig, crop, grid_of, pad_to, random_batch, update_average
from auditor.priors.quality import hold_out, quality_figures
from auditor.tensors import ImageBatch, RunContext


class DcganConfig(PriorConfig):
    """Parameters of the DCGAN prior."""

    latent_dim: int = Field(default=100, ge=2)
    """Coordinates of the latent."""
    width: int = Field(default=32, ge=4, le=512)
    """Channels at the finest resolution (the paper's networks: 64); doubles per halving, up to eight times."""
    steps: int = Field(default=800, ge=1)
    """Generator steps (the paper trains 11,000 at 64x64)."""
    critic_steps: int = Field(default=5, ge=1)
    """Critic steps per generator step."""
    batch_size: int = Field(default=64, ge=2)
    lr: float = Field(default=2e-4, gt=0)
    """Step size of both Adams; raise it for short trainings."""
    gradient_penalty: float = Field(default=10.0, ge=0)
    """Weight of the squared deviation of the critic's gradient norm from 1."""
    ema: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the weight average of the generator that is kept."""
    flip: bool = True
    """Mirror half of the training images."""


def _widths(width: int, stages: int) -> list[int]:
    """Channels from the finest halving to the coarsest."""
    return [width * min(8, 2**index) for index in range(stages)]


class DcganGenerator(nn.Module):
    """Linear to the coarse grid, transposed 5x5 convolutions with stride 2, BatchNorm and ReLU between, sigmoid."""

    def __init__(self, image_shape: tuple[int, int, int], latent_dim: int, width: int) -> None:
        super().__init__()
        channels, self.height, self.columns = image_shape
        stages, rows, columns = grid_of(image_shape)
        widths = _widths(width, stages)[::-1]
        flat = widths[0] * rows * columns
        layers: list[nn.Module] = [nn.Linear(latent_dim, flat, bias=False), nn.BatchNorm1d(flat), nn.ReLU()]
        layers.append(nn.Unflatten(1, (widths[0], rows, columns)))
        for before, after in pairwise(widths):
            layers += [_up(before, after), nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*layers, _up(widths[-1], channels, bias=True), nn.Sigmoid())

    def forward(self, latents: Tensor) -> Tensor:
        """(B, D) to (B, C, H, W) in [0, 1]."""
        return crop(self.body(latents), self.height, self.columns)

    def stages(self) -> tuple[nn.Module, ...]:
        """The linear block, then one up-sampling block each, the last with the crop; the weights are this network's."""
        layers = list(self.body)
        cuts = [place for place, layer in enumerate(layers) if isinstance(layer, nn.ConvTranspose2d)]
        blocks = [nn.Sequential(*layers[begin:end]) for begin, end in pairwise([0, *cuts, len(layers)])]
        blocks[-1].append(_Crop(self.height, self.columns))
        return tuple(blocks)


class _Crop(nn.Module):
    """Cuts pictures to the size wanted."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size = (height, width)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, height, width)."""
        return crop(images, *self.size)


def _up(before: int, after: int, *, bias: bool = False) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(before, after, 5, stride=2, padding=2, output_padding=1, bias=bias)


class DcganCritic(nn.Module):
    """5x5 convolutions with stride 2, InstanceNorm from the second on (a stand-in for LayerNorm), then one score.

    InstanceNorm is left out where it would see a single pixel: it is undefined there.
    """

    def __init__(self, image_shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        channels, _, _ = image_shape
        stages, rows, columns = grid_of(image_shape)
        self.canvas = (rows * 2**stages, columns * 2**stages)
        before, layers = channels, list[nn.Module]()
        for index, after in enumerate(_widths(width, stages)):
            layers.append(nn.Conv2d(before, after, 5, stride=2, padding=2))
            side = (self.canvas[0] >> (index + 1)) * (self.canvas[1] >> (index + 1))
            if index and side > 1:
                layers.append(nn.InstanceNorm2d(after, affine=True))
            layers.append(nn.LeakyReLU(0.2))
            before = after
        self.body = nn.Sequential(*layers, nn.Conv2d(before, 1, (rows, columns)), nn.Flatten(0))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B,), larger is more real."""
        return self.body(pad_to(images, *self.canvas))  # type: ignore[no-any-return]


class DcganPrior(NetworkPrior):
    """A trained DCGAN: `critic` scores realism, `project` starts from the nearest of many random samples."""

    traits: frozenset[Trait] = frozenset({Trait.CRITIC, Trait.STAGES})

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        """The generator cut before every up-sampling: feature maps lie between the parts."""
        return cast(DcganGenerator, self.generator).stages()

    def critic(self, images: Tensor) -> Tensor:
        """(B,) float32 realism score, larger is more real."""
        score: Tensor = self.networks["critic"](images)
        return score.float()

    @torch.no_grad()
    def guess(self, images: Tensor, ctx: RunContext, labels: Tensor | None = None) -> Tensor:
        """Per image, the latent of the nearest of 1,024 random samples."""
        latents = torch.randn(1024, self.latent_dim, generator=ctx.rng("prior", "projection")).to(images.device)
        samples = torch.cat([self.decode(chunk) for chunk in latents.split(ctx.batch_size)])
        return latents[torch.cdist(images.flatten(1), samples.flatten(1)).argmin(dim=1)]


class DcganBuilder:
    """DCGAN trained as a Wasserstein GAN with gradient penalty: brings the critic GMI needs; a weak generator.

    Departures: the generator kept is a moving average of the trained one, and the default is far fewer steps than the
    paper's, to fit a CPU; shapes other than 32 and 64 pixels take the nearest number of stages.
    """

    name = "dcgan"
    paper = (
        "Radford et al., ICLR 2016, arXiv 1511.06434; WGAN-GP: Gulrajani et al., NeurIPS 2017, arXiv 1704.00028; "
        "as in GMI, Zhang et al., CVPR 2020, arXiv 1911.07135"
    )
    Config = DcganConfig
    traits: frozenset[Trait] = DcganPrior.traits
    access: Access | None = None

    def __init__(self, config: DcganConfig) -> None:
        self.config = config

    def blank(self, image_shape: tuple[int, int, int], n_classes: int = 0) -> DcganPrior:
        """Untrained networks for pictures of `image_shape`."""
        return self._wrap(*self._networks(image_shape), image_shape)

    def train(self, public: ImageBatch, ctx: RunContext, oracle: Oracle | None = None) -> DcganPrior:
        """Train on public images; labels are not used."""
        shape = (int(public.images.shape[1]), int(public.images.shape[2]), int(public.images.shape[3]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ctx.rng("prior", self.name, "weights").initial_seed())
            generator, critic = (network.to(ctx.device) for network in self._networks(shape))
        kept, heldout = hold_out(public.images, ctx)
        average = self._optimise(generator, critic, kept.to(ctx.device), ctx)
        prior = self._wrap(average, critic, shape)
        prior.quality = quality_figures(prior, heldout, ctx)
        return prior

    def _networks(self, shape: tuple[int, int, int]) -> tuple[nn.Module, nn.Module]:
        generator: nn.Module = DcganGenerator(shape, self.config.latent_dim, self.config.width)
        critic: nn.Module = DcganCritic(shape, self.config.width)
        layout = torch.channels_last
        return generator.to(memory_format=layout), critic.to(memory_format=layout)  # type: ignore[call-overload]

    def _wrap(self, generator: nn.Module, critic: nn.Module, shape: tuple[int, int, int]) -> DcganPrior:
        return DcganPrior(
            name=self.name,
            config=self.config,
            image_shape=shape,
            latent_dim=self.config.latent_dim,
            networks=nn.ModuleDict({"generator": generator, "critic": critic}),
        )

    def _optimise(self, generator: nn.Module, critic: nn.Module, images: Tensor, ctx: RunContext) -> nn.Module:
        config, draws = self.config, ctx.rng("prior", self.name, "batches")
        average = copy.deepcopy(generator)
        g_adam = torch.optim.Adam(generator.parameters(), lr=config.lr, betas=(0.5, 0.999))
        d_adam = torch.optim.Adam(critic.parameters(), lr=config.lr, betas=(0.5, 0.999))
        size = max(2, min(config.batch_size, len(images)))
        generator.train()
        critic.train()
        parts: dict[str, Stateful] = {"generator": generator, "critic": critic, "average": average}
        parts |= {"generator's Adam": g_adam, "critic's Adam": d_adam}
        for step in resumable(ctx, "train dcgan", config.steps, parts, draws):
            for _ in range(config.critic_steps):
                real = random_batch(images, size, flip=config.flip, generator=draws)
                noise = torch.randn(size, config.latent_dim, generator=draws).to(ctx.device)
                mix = torch.rand(size, 1, 1, 1, generator=draws).to(ctx.device)
                with torch.no_grad(), ctx.autocast():
                    fake = generator(noise).float()
                penalty = gradient_penalty(critic, real + mix * (fake - real))
                with ctx.autocast():
                    scores = critic(torch.cat([fake, real])).float()
                loss = scores[:size].mean() - scores[size:].mean() + config.gradient_penalty * penalty
                _update(d_adam, loss)
            noise = torch.randn(size, config.latent_dim, generator=draws).to(ctx.device)
            critic.requires_grad_(False)
            with ctx.autocast():
                realism = critic(generator(noise)).float().mean()
            _update(g_adam, -realism)
            critic.requires_grad_(True)
            update_average(average, generator, step, config.ema)
        return average


def _update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def gradient_penalty(critic: nn.Module, images: Tensor) -> Tensor:
    """Mean squared deviation from 1 of the critic's gradient norm at `images` (B, C, H, W); always in float32."""
    images = images.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(images).sum(), images, create_graph=True)
    penalty: Tensor = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
    return penalty
