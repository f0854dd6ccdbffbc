"""Variational autoencoder, the default prior."""

from __future__ import annotations

import copy
import math
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad

from auditor.components import principal_components
from auditor.contracts.access import Access
from auditor.data.checkpoint import Stateful, resumable
from auditor.priors.base import Oracle, Trait
from auditor.priors.network import NetworkPrior, PriorConfig, RunningMean, random_batch, update_average
from auditor.priors.quality import hold_out, quality_figures
from auditor.priors.vae_networks import VaeDecoder, VaeEncoder
from auditor.tensors import ImageBatch, RunContext


class VaeConfig(PriorConfig):
    """Parameters of the VAE prior."""

    latent_dim: int = Field(default=384, ge=2, le=4096)
    """Coordinates of the latent; capped at the number of pixels."""
    width: int = Field(default=24, ge=4, le=512)
    """Channels at the finest resolution; doubles per halving, up to four times."""
    steps: int = Field(default=300, ge=0)
    """Training steps of the convolutional part; 0 leaves it out, and the prior is a linear VAE, fitted in seconds."""
    batch_size: int = Field(default=64, ge=2)
    lr: float = Field(default=2e-3, gt=0)
    """Peak learning rate of AdamW, one-cycle."""
    kl_weight: float = Field(default=0.3, ge=0)
    """Weight of the KL term against the Gaussian likelihood of the pixels (1 is the textbook bound)."""
    edge_weight: float = Field(default=1.0, ge=0)
    """Weight of the squared error of horizontal and vertical pixel differences beside that of pixels."""
    ema: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the weight average that is kept."""
    flip: bool = True
    """Mirror half of the training images."""


class VaePrior(NetworkPrior):
    """A trained VAE: `decode` paints, `project` encodes and then refines by pixels; the encoder is nearly there."""

    traits: frozenset[Trait] = frozenset({Trait.STAGES})
    refine_steps = 20

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        """The decoder cut after its codes and before every up-sampling; see `VaeDecoder.stages`."""
        return cast(VaeDecoder, self.generator).stages()

    def encode(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B, D): the encoder's mean, in the coordinates of N(0, I)."""
        mean, _ = self.networks["encoder"](images)
        decoder = self.networks["generator"]
        latents: Tensor = cast(VaeDecoder, decoder).latents(mean)
        return latents

    @torch.no_grad()
    def guess(self, images: Tensor, ctx: RunContext, labels: Tensor | None = None) -> Tensor:
        """The encoder's mean."""
        return self.encode(images)


class VaeBuilder:
    """Variational autoencoder of the public images: the strongest attacker per minute of training, and the default.

    Departures from the textbook: encoder and decoder are a linear map plus a convolutional correction that starts at
    zero. The linear map is set to the principal components of the public images, which is where a linear VAE's training
    ends (Lucas et al.), and stays; so training begins where eigenfaces end. On aligned faces at 32x32 that part alone
    carries nearly the whole ceiling. The pixel variance is the running reconstruction error (sigma-VAE) instead of a
    constant set by hand; pixel differences are reconstructed as well as pixels; the weights kept are a moving average;
    and after training the latent is re-expressed so that N(0, I) is the distribution of the encoder's codes, which lets
    the KL term stay weak without leaving holes between the codes.
    """

    name = "vae"
    paper = (
        "Kingma and Welling, ICLR 2014, arXiv 1312.6114; sigma-VAE: Rybkin et al., ICML 2021, arXiv 2006.13202; "
        "linear VAE: Lucas et al., NeurIPS 2019, arXiv 1911.02469; "
        "density fitted after training: Ghosh et al., ICLR 2020, arXiv 1903.12436"
    )
    Config = VaeConfig
    traits: frozenset[Trait] = VaePrior.traits
    access: Access | None = None

    def __init__(self, config: VaeConfig) -> None:
        self.config = config

    def blank(self, image_shape: tuple[int, int, int], n_classes: int = 0) -> VaePrior:
        """Untrained networks for pictures of `image_shape`."""
        return self._wrap(*self._networks(image_shape), image_shape)

    def train(self, public: ImageBatch, ctx: RunContext, oracle: Oracle | None = None) -> VaePrior:
        """Train on public images; labels are not used."""
        shape = (int(public.images.shape[1]), int(public.images.shape[2]), int(public.images.shape[3]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ctx.rng("prior", self.name, "weights").initial_seed())
            encoder, decoder = self._networks(shape)
        kept, heldout = hold_out(public.images, ctx)
        images = kept.to(ctx.device)
        _start_from_components(encoder, decoder, kept, ctx)
        encoder, decoder = encoder.to(ctx.device), decoder.to(ctx.device)
        if self.config.steps:
            encoder, decoder = self._optimise(encoder, decoder, images, ctx)
        _fit_density(encoder, decoder, images, ctx)
        prior = self._wrap(encoder, decoder, shape)
        prior.quality = quality_figures(prior, heldout, ctx)
        return prior

    def _networks(self, shape: tuple[int, int, int]) -> tuple[VaeEncoder, VaeDecoder]:
        latent_dim = min(self.config.latent_dim, math.prod(shape))
        width = self.config.width if self.config.steps else 0
        encoder, decoder = VaeEncoder(shape, latent_dim, width), VaeDecoder(shape, latent_dim, width)
        for network in (encoder, decoder):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return encoder, decoder

    def _wrap(self, encoder: VaeEncoder, decoder: VaeDecoder, shape: tuple[int, int, int]) -> VaePrior:
        return VaePrior(
            name=self.name,
            config=self.config,
            image_shape=shape,
            latent_dim=decoder.shift.numel(),
            networks=nn.ModuleDict({"generator": decoder, "encoder": encoder}),
        )

    def _optimise(
        self, encoder: VaeEncoder, decoder: VaeDecoder, images: Tensor, ctx: RunContext
    ) -> tuple[VaeEncoder, VaeDecoder]:
        config, generator = self.config, ctx.rng("prior", self.name, "batches")
        model = nn.ModuleList([encoder, decoder]).train()
        average = copy.deepcopy(model)
        moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(moving, lr=config.lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, config.lr, total_steps=config.steps + 1, pct_start=0.1
        )
        size = min(config.batch_size, len(images))
        variance = RunningMean(0.01).to(ctx.device)
        parts: dict[str, Stateful] = {"model": model, "average": average, "variance": variance}
        parts |= {"optimizer": optimizer, "schedule": schedule}
        for step in resumable(ctx, "train vae", config.steps, parts, generator):
            batch = random_batch(images, size, flip=config.flip, generator=generator)
            noise = torch.randn(size, decoder.shift.numel(), generator=generator).to(ctx.device)
            error, kl = self._bound(encoder, decoder, batch, noise, ctx)
            loss = (0.5 * error / variance(error.mean()) + config.kl_weight * kl / batch[0].numel()).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(moving, 1.0)
            optimizer.step()
            schedule.step()
            update_average(average, model, step, config.ema)
        average.eval()
        return cast(VaeEncoder, average[0]), cast(VaeDecoder, average[1])

    def _bound(
        self, encoder: VaeEncoder, decoder: VaeDecoder, batch: Tensor, noise: Tensor, ctx: RunContext
    ) -> tuple[Tensor, Tensor]:
        """(B,) reconstruction error and (B,) KL divergence of the posterior from N(0, I)."""
        with ctx.autocast():
            mean, log_var = encoder(batch)
            painted = decoder.paint(mean + noise * (0.5 * log_var).exp())
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(dim=1)
        return reconstruction_error(painted, batch, self.config.edge_weight), kl


def reconstruction_error(painted: Tensor, images: Tensor, edge_weight: float) -> Tensor:
    """(B,) mean squared error of pixels, plus `edge_weight` times that of neighbouring pixels' differences."""
    residual = painted - images
    error = residual.square().flatten(1).mean(dim=1)
    if edge_weight:
        across = residual[..., :, 1:] - residual[..., :, :-1]
        down = residual[..., 1:, :] - residual[..., :-1, :]
        edges = across.square().flatten(1).mean(dim=1) + down.square().flatten(1).mean(dim=1)
        error = error + edge_weight * edges
    return error


@torch.no_grad()
def _start_from_components(encoder: VaeEncoder, decoder: VaeDecoder, images: Tensor, ctx: RunContext) -> None:
    """Set both linear maps to the leading principal components of the public images, codes of unit variance."""
    D = decoder.shift.numel()
    found = principal_components(images, D, ctx.rng("prior", "vae", "components"))
    vectors = pad(found.directions, (0, D - found.directions.shape[1]))  # of few images there are fewer
    deviations = pad(found.deviations, (0, D - len(found.deviations)))
    deviations = deviations.clamp_min(1e-2 * float(deviations[0]) + 1e-6)
    encoder.linear.requires_grad_(False)
    decoder.linear.requires_grad_(False)
    encoder.linear.weight.copy_((vectors / deviations).T)
    encoder.linear.bias.copy_(-(found.mean @ vectors) / deviations)
    decoder.linear.weight.copy_(vectors * deviations)
    decoder.linear.bias.copy_(found.mean)


@torch.no_grad()
def _fit_density(encoder: VaeEncoder, decoder: VaeDecoder, images: Tensor, ctx: RunContext) -> None:
    """Make N(0, I) the distribution of the codes: their mean, and their covariance plus the mean posterior variance."""
    means, variances = [], []
    for chunk in images.split(ctx.batch_size):
        mean, log_var = encoder(chunk)
        means.append(mean.double())
        variances.append(log_var.double().exp())
    codes = torch.cat(means)
    centre = codes.mean(dim=0)
    covariance = (codes - centre).T @ (codes - centre) / len(codes) + torch.cat(variances).mean(dim=0).diag()
    values, vectors = torch.linalg.eigh(covariance.cpu())
    root = values.clamp_min(1e-6).sqrt()
    decoder.shift.copy_(centre)
    decoder.scale.copy_((vectors * root).T)
    decoder.unscale.copy_(vectors / root)
