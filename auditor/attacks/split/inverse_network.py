"""The inverse network: a decoder learned from public images and what the device's part makes of them."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from auditor.attacks.base import AttackConfig, Inversion, KeyedContext, Rows
from auditor.attacks.rows import Chunks
from auditor.attacks.split.base import Shape, SplitAttack
from auditor.attacks.split.networks import Decoder
from auditor.attacks.split.training import DecoderConfig, fit_network
from auditor.targets.views import Knowledge, SplitView
from auditor.tensors import RunContext


class InverseNetworkConfig(AttackConfig):
    """Parameters of the inverse network."""

    decoder: DecoderConfig = Field(default_factory=DecoderConfig)


class InverseNetwork(SplitAttack[InverseNetworkConfig]):
    """A decoder that is trained to give back the public images whose activations it is shown; then one pass per image.

    It learns the inverse of whatever runs on the device, a defense included, which makes it the adaptive attack here.

    Departures: the paper trains on the target's own training images, which no attacker has; this decoder sees public
    images only. It follows the residual decoders of later work (Xia et al., CVPR 2025) rather than a few
    deconvolutions, with Adam's usual epsilon (the paper's 1e-3 slows so small a loss: 2 dB less in our trial). Each
    batch is encoded anew, so mirrored images count as queries of their own.
    """

    name = "inverse-network"
    knowledge = Knowledge.QUERIES
    paper = "He, Zhang and Lee, ACSAC 2019; Xia et al., CVPR 2025 (decoder)"
    Config = InverseNetworkConfig

    @property
    def adaptive(self) -> bool:
        """It is trained on the outputs of the part under attack, as it is deployed."""
        return True

    def aids(self, image_shape: Shape, feature_shape: Shape) -> nn.ModuleDict:
        """The decoder."""
        return blank_decoder(self.config.decoder, image_shape, feature_shape)

    @property
    def recipe(self) -> dict[str, Any]:
        """The decoder's parameters."""
        return decoder_recipe(self.config.decoder)

    def train_aids(self, aids: nn.ModuleDict, view: SplitView, public: Tensor, ctx: RunContext) -> None:
        """Minimise the squared pixel error of decoded public activations."""
        train_decoder(aids, self.config.decoder, view, public, ctx)

    def rebuild(self, view: Any, activations: Tensor, rows: Rows, ctx: KeyedContext) -> Inversion:
        """Decode; nothing is asked of the target."""
        chunks = Chunks(ctx)
        images, start = decode(ctx, activations, chunks)
        ctx.tick(self.name, len(rows), len(rows))
        return Inversion(start=start, images=images, notes=chunks.notes)


def blank_decoder(config: DecoderConfig, image_shape: Shape, feature_shape: Shape) -> nn.ModuleDict:
    """An untrained decoder under the name `decoder`."""
    return nn.ModuleDict({"decoder": Decoder(feature_shape, image_shape, width=config.width, blocks=config.blocks)})


def decoder_recipe(config: DecoderConfig) -> dict[str, Any]:
    """What decides a decoder, JSON-ready."""
    return {"decoder": config.model_dump(mode="json")}


def train_decoder(aids: nn.ModuleDict, config: DecoderConfig, view: SplitView, public: Tensor, ctx: RunContext) -> None:
    """Train `aids["decoder"]` on pairs of public images and their activations."""
    decoder: Any = aids["decoder"]
    decoder.mean_image.copy_(public.mean(dim=0))

    def loss(images: Tensor) -> Tensor:
        with torch.no_grad():
            seen = view.encode(images)
        error: Tensor = (decoder(seen).float() - images).square().mean()
        return error

    fit_network(decoder, loss, public, ctx, steps=config.steps, batch=config.batch, lr=config.lr, stage="decoder")


@torch.no_grad()
def decode(ctx: KeyedContext, activations: Tensor, chunks: Chunks) -> tuple[Tensor, Tensor]:
    """(N, C, H, W) decoded images, and as many mean public images, on the CPU."""
    if ctx.aids is None:
        raise ValueError("the decoder was not trained")
    decoder: Any = ctx.aids["decoder"]

    def draw(rows: slice) -> Tensor:
        images: Tensor = decoder(activations[rows].to(ctx.device)).float().cpu()
        return images

    images = torch.cat(chunks.map(len(activations), draw))
    return images, decoder.mean_image.cpu().expand_as(images).clone()
