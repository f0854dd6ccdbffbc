"""VAE-GAN: the VAE prior, sharpened by a critic that also compares what it reconstructs."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu
from torch.nn.utils.parametrizations import spectral_norm

from auditor.contracts.access import Access
from auditor.data.checkpoint import Stateful, resumable
from auditor.priors.base import Oracle, Trait
from auditor.priors.network import RunningMean, grid_of, pad_to, random_batch, update_average
from auditor.priors.quality import hold_out, quality_figures
from auditor.priors.transforms import N_DRAWS, Ranges, transform
from auditor.priors.vae import VaeBuilder, VaeConfig, VaePrior, reconstruction_error
from auditor.priors.vae_networks import VaeDecoder
from auditor.tensors import ImageBatch, RunContext

AUGMENT = Ranges(area=(0.8, 1.0), flip=True, brightness=0.15, contrast=0.2)
"""Changes of every picture the critic sees, real or drawn, so that it cannot learn a small data set by heart."""


class VaeGanConfig(VaeConfig):
    """Parameters of the VAE-GAN prior: those of the VAE it starts from, and of the adversarial phase."""

    steps: int = Field(default=300, ge=1)
    """Training steps of the VAE's convolutional part, which the adversarial phase then sharpens."""
    gan_steps: int = Field(default=300, ge=1)
    """Steps of the adversarial phase: one of the critic and one of the decoder each."""
    gan_lr: float = Field(default=3e-4, gt=0)
    """Step size of both Adams in that phase."""
    critic_width: int = Field(default=32, ge=4, le=512)
    """The critic's channels at the finest resolution; doubles per halving, up to eight times."""
    adversarial_weight: float = Field(default=0.02, ge=0)
    """Weight of the critic's score beside the pixel error, which is divided by its running mean."""
    feature_weight: float = Field(default=0.5, ge=0)
    """Weight of the error in the critic's features, each layer in units of its own mean square."""


class VaeGanCritic(nn.Module):
    """Spectrally normalised 4x4 convolutions with stride 2, then one score; gives its inner features too."""

    def __init__(self, image_shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        channels, _, _ = image_shape
        stages, rows, columns = grid_of(image_shape)
        self.canvas = (rows * 2**stages, columns * 2**stages)
        widths = [channels, *(width * min(8, 2**index) for index in range(stages))]
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1)) for before, after in pairwise(widths)
        )
        self.head = spectral_norm(nn.Linear(widths[-1] * rows * columns, 1))

    def features(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) in [0, 1] to the activations after each convolution."""
        x, found = pad_to(images, *self.canvas) * 2 - 1, []
        for layer in self.layers:
            x = leaky_relu(layer(x), 0.2)
            found.append(x)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B,), larger is more real."""
        score: Tensor = self.head(self.features(images)[-1].flatten(1)).squeeze(1)
        return score


class VaeGanPrior(VaePrior):
    """A VAE whose decoder also learned to please a critic, which it keeps."""

    traits: frozenset[Trait] = VaePrior.traits | {Trait.CRITIC}

    def critic(self, images: Tensor) -> Tensor:
        """(B,) float32 realism score, larger is more real."""
        score: Tensor = self.networks["critic"](images)
        return score.float()


class VaeGanBuilder:
    """VAE-GAN: the VAE prior, whose decoder then learns against a critic.

    Departures: the paper trains encoder, decoder and discriminator together and replaces the pixel error by an error in
    the discriminator's features; here the encoder stays as the VAE left it, so that N(0, I) remains the distribution of
    its codes, and the decoder minimises pixel error, feature error and the hinge critic's score (on reconstructions and
    on samples) together. The critic sees every picture through random crops, mirrors and changes of light (Zhao et
    al.), and the weights kept are a moving average.
    """

    name = "vae-gan"
    paper = (
        "Larsen et al., ICML 2016, arXiv 1512.09300; hinge loss and spectral norm: Miyato et al., ICLR 2018, "
        "arXiv 1802.05957; augmentation of what the critic sees: Zhao et al., NeurIPS 2020, arXiv 2006.10738"
    )
    Config = VaeGanConfig
    traits: frozenset[Trait] = VaeGanPrior.traits
    access: Access | None = None

    def __init__(self, config: VaeGanConfig) -> None:
        self.config = config
        self._vae = VaeBuilder(config)

    def blank(self, image_shape: tuple[int, int, int], n_classes: int = 0) -> VaeGanPrior:
        """Untrained networks for pictures of `image_shape`."""
        return self._wrap(self._vae.blank(image_shape).networks, self._critic(image_shape), image_shape)

    def train(self, public: ImageBatch, ctx: RunContext, oracle: Oracle | None = None) -> VaeGanPrior:
        """Train on public images; labels are not used."""
        vae = self._vae.train(public, ctx)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ctx.rng("prior", self.name, "weights").initial_seed())
            critic = self._critic(vae.image_shape).to(ctx.device)
        kept, heldout = hold_out(public.images, ctx)
        vae.networks["generator"] = self._sharpen(vae, critic, kept.to(ctx.device), ctx)
        prior = self._wrap(vae.networks, critic, vae.image_shape)
        prior.quality = quality_figures(prior, heldout, ctx)
        return prior

    def _critic(self, shape: tuple[int, int, int]) -> nn.Module:
        critic = VaeGanCritic(shape, self.config.critic_width)
        return critic.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def _wrap(self, networks: nn.ModuleDict, critic: nn.Module, shape: tuple[int, int, int]) -> VaeGanPrior:
        networks["critic"] = critic
        latent_dim = min(self.config.latent_dim, math.prod(shape))
        return VaeGanPrior(
            name=self.name, config=self.config, image_shape=shape, latent_dim=latent_dim, networks=networks
        )

    def _sharpen(self, vae: VaePrior, critic: nn.Module, images: Tensor, ctx: RunContext) -> nn.Module:
        """The moving average of the decoder, trained against `critic`."""
        config, draws = self.config, ctx.rng("prior", self.name, "batches")
        average = vae.networks["generator"]
        decoder = copy.deepcopy(average).train().requires_grad_(True)
        decoder.linear.requires_grad_(False)
        moving = [parameter for parameter in decoder.parameters() if parameter.requires_grad]
        d_adam = torch.optim.Adam(critic.parameters(), lr=config.gan_lr, betas=(0.5, 0.99))
        g_adam = torch.optim.Adam(moving, lr=config.gan_lr, betas=(0.5, 0.99))
        size = max(2, min(config.batch_size, len(images)))
        scale = RunningMean(0.01).to(ctx.device)
        parts: dict[str, Stateful] = {"decoder": decoder, "average": average, "critic": critic, "scale": scale}
        parts |= {"decoder's Adam": g_adam, "critic's Adam": d_adam}
        for step in resumable(ctx, f"train {self.name}", config.gan_steps, parts, draws):
            real = random_batch(images, size, flip=config.flip, generator=draws)
            noise = torch.randn(size, vae.latent_dim, generator=draws).to(ctx.device)
            changes = torch.rand(2, 2 * size, N_DRAWS, generator=draws)
            with torch.no_grad():
                codes = torch.cat([vae.encode(real), noise])
            with ctx.autocast():
                drawn = _draw(decoder, codes)
            _update(d_adam, _hinge(critic, real, drawn.detach(), changes[0], ctx))
            critic.requires_grad_(False)
            error = reconstruction_error(drawn[:size], real, config.edge_weight).mean()
            with ctx.autocast():
                feature_error = _feature_error(critic, drawn[:size], real)
                realism = critic(transform(drawn, changes[1], AUGMENT)).float().mean()
            loss = error / scale(error) + config.feature_weight * feature_error - config.adversarial_weight * realism
            _update(g_adam, loss, moving)
            critic.requires_grad_(True)
            update_average(average, decoder, step, config.ema)
        return average


def _draw(decoder: nn.Module, latents: Tensor) -> Tensor:
    """(B, D) ~ N(0, I) to (B, C, H, W), not clamped, so that gradients reach every pixel."""
    if not isinstance(decoder, VaeDecoder):
        raise TypeError("a VAE-GAN sharpens a VAE's decoder")
    return decoder.paint(decoder.codes(latents)).float()


def _hinge(critic: nn.Module, real: Tensor, drawn: Tensor, changes: Tensor, ctx: RunContext) -> Tensor:
    """The critic's loss on augmented pictures; of the drawn ones, reconstructions and samples in equal parts."""
    n = len(real)
    with ctx.autocast():
        on_real = critic(transform(real, changes[:n], AUGMENT)).float()
        on_drawn = critic(transform(drawn.clamp(0, 1), changes, AUGMENT)).float()
    return relu(1 - on_real).mean() + relu(1 + on_drawn).mean()


def _feature_error(critic: nn.Module, drawn: Tensor, real: Tensor) -> Tensor:
    """Mean squared error in the critic's features, each layer in units of its own mean square."""
    if not isinstance(critic, VaeGanCritic):
        raise TypeError("features come from a VAE-GAN's critic")
    with torch.no_grad():
        wanted = critic.features(real)
    errors = [
        (found - want).float().square().mean() / want.float().square().mean().clamp_min(1e-8)
        for found, want in zip(critic.features(drawn), wanted, strict=True)
    ]
    return torch.stack(errors).mean()


def _update(optimizer: torch.optim.Optimizer, loss: Tensor, clipped: list[nn.Parameter] | None = None) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if clipped is not None:
        nn.utils.clip_grad_norm_(clipped, 1.0)
    optimizer.step()
