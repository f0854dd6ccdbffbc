"""What every trained prior shares: frozen networks, a content digest, and projection of real images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from pydantic import BaseModel, ConfigDict, JsonValue
from torch import Tensor, nn
from torch.nn.functional import pad

from auditor.contracts.access import Access
from auditor.contracts.base import canonical_json
from auditor.priors.base import Oracle, Trait
from auditor.tensors import ImageBatch, RunContext


class PriorConfig(BaseModel):
    """Base of every prior's parameters: frozen, unknown keys refused, ranges checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class NetworkPrior:
    """A prior made of networks; satisfies `auditor.priors.base.Prior`.

    Attributes:
        name: catalog name of the builder that made it.
        config: the builder's parameters, JSON-ready.
        image_shape: (C, H, W) of its pictures.
        latent_dim: D, coordinates of the latent ~ N(0, I).
        networks: everything with weights, `generator` among them; frozen and in eval mode.
        generator: latent (B, D) to images (B, C, H, W) in [0, 1].
        quality: named figures measured on public images (see `auditor.priors.quality`).
        n_classes: K of a prior that knows the target's classes, else 0.
        target_queries: images its training sent to the target; 0 for a prior of public images alone.
        refine_steps: gradient steps of a projection, after its guess.
    """

    traits: frozenset[Trait] = frozenset()
    refine_steps = 100

    def __init__(
        self,
        *,
        name: str,
        config: BaseModel,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        networks: nn.ModuleDict,
        quality: dict[str, float] | None = None,
        n_classes: int = 0,
    ) -> None:
        self.name = name
        self.config: dict[str, JsonValue] = config.model_dump(mode="json")
        self.image_shape = image_shape
        self.latent_dim = latent_dim
        self.networks = networks.eval().requires_grad_(False)
        self.generator: nn.Module = networks["generator"]
        self.quality: dict[str, float] = dict(quality or {})
        self.n_classes = n_classes
        self.target_queries = 0
        self.digest = self.compute_digest()

    def compute_digest(self) -> str:
        """sha256 over name, parameters, shape and weights as they are now."""
        digest = hashlib.sha256(canonical_json([self.name, self.config, list(self.image_shape)]).encode())
        for key, value in sorted(self.state().items()):
            digest.update(f"\0{key}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def state(self) -> dict[str, Tensor]:
        """Every weight and buffer by name, contiguous copies on the CPU."""
        return {
            key: value.detach().cpu().contiguous().clone(memory_format=torch.contiguous_format)
            for key, value in self.networks.state_dict().items()
        }

    def to(self, device: torch.device) -> NetworkPrior:
        """Move the networks to `device`, in place."""
        self.networks.to(device)
        return self

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        """The generator in one piece, unless a subclass can take it apart."""
        return (self.generator,)

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, D) to (B, C, H, W) float32 in [0, 1]; differentiable. A conditional prior needs (B,) `labels`."""
        if Trait.CONDITIONAL not in self.traits:
            images: Tensor = self.generator(latents)
        elif labels is None:
            raise ValueError(f"prior '{self.name}' draws a class at a time and was not told which")
        else:
            images = self.generator(latents, labels.to(latents.device))
        return images.float()

    def critic(self, images: Tensor) -> Tensor | None:
        """(B,) realism score, larger is more real; None: this prior has no critic."""
        return None

    def surrogate(self, images: Tensor) -> Tensor | None:
        """(M, B, K) logits of models that stand in for the target; None: this prior has none."""
        return None

    def guess(self, images: Tensor, ctx: RunContext, labels: Tensor | None = None) -> Tensor:
        """(B, D) starting points of a projection: the mean of the prior, unless a subclass knows better."""
        return torch.zeros(len(images), self.latent_dim, device=images.device)

    def project(self, images: Tensor, ctx: RunContext, labels: Tensor | None = None) -> Tensor:
        """(B, D): the latents whose pictures are nearest to `images` by pixels; no target is involved.

        `images` are (B, C, H, W) in [0, 1]. Starts from `guess` and refines by gradient; the result is on `ctx.device`.
        """
        parts = []
        for start in range(0, len(images), ctx.batch_size):
            rows = slice(start, start + ctx.batch_size)
            chunk, classes = images[rows].to(ctx.device), None if labels is None else labels[rows].to(ctx.device)
            guess = self.guess(chunk, ctx, classes)
            parts.append(refine_projection(self, chunk, guess, classes, steps=self.refine_steps))
            ctx.tick("project", min(start + ctx.batch_size, len(images)), len(images))
        return torch.cat(parts) if parts else torch.zeros(0, self.latent_dim, device=ctx.device)


def refine_projection(
    prior: NetworkPrior,
    images: Tensor,
    start: Tensor,
    labels: Tensor | None = None,
    *,
    steps: int = 100,
    lr: float = 0.05,
    latent_weight: float = 1e-5,
) -> Tensor:
    """Adam on the pixel error, row by row, keeping each row's best point; never worse than `start`.

    Args:
        prior: decodes the latents.
        images: (B, C, H, W) in [0, 1], to be matched.
        start: (B, D) latents to begin with.
        labels: (B,) int64 classes, for a conditional prior.
        steps: gradient steps.
        lr: peak step size in latent units, annealed to zero by a cosine.
        latent_weight: weight of the mean squared latent beside the mean squared pixel error; weak, it only keeps
            directions that change no pixel from drifting.
    """
    z = start.detach().float().clone().requires_grad_(True)
    best, best_loss = z.detach().clone(), torch.full((len(z),), math.inf, device=z.device)
    optimizer = torch.optim.Adam([z], lr=lr)
    with torch.enable_grad():
        for step in range(steps + 1):
            optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))
            error = (prior.decode(z, labels) - images).square().flatten(1).mean(dim=1)
            loss = error + latent_weight * z.square().mean(dim=1)
            better = loss.detach() < best_loss
            best_loss = torch.where(better, loss.detach(), best_loss)
            best = torch.where(better[:, None], z.detach(), best)
            (z.grad,) = torch.autograd.grad(loss.sum(), z)
            optimizer.step()
    return best


class PriorBuilder(Protocol):
    """An entry of the prior catalog: configured once, it trains on public images and rebuilds stored priors."""

    name: str
    paper: str
    Config: type[Any]
    traits: frozenset[Trait]
    """What its priors offer."""
    access: Access | None
    """What training asks of the target; None: nothing, and the prior serves every target of this shape."""

    def train(self, public: ImageBatch, ctx: RunContext, oracle: Oracle | None = None) -> NetworkPrior:
        """A prior of `public` ((N, C, H, W) in [0, 1]); private images never come here.

        `oracle` is the target at the level of `access`, whose counter is the caller's; None where `access` is.
        """
        ...

    def blank(self, image_shape: tuple[int, int, int], n_classes: int = 0) -> NetworkPrior:
        """The same prior with untrained weights, to be filled from storage; `n_classes` is the prior's."""
        ...


@runtime_checkable
class AskingBuilder(PriorBuilder, Protocol):
    """A builder whose training asks the target, and that says how much: every builder with an `access` is one."""

    def queries(self, n_public: int, n_classes: int) -> int:
        """Images that `train` on `n_public` images sends to a target of `n_classes`."""
        ...


def grid_of(image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """(stages, rows, columns): how often a picture can be halved until its short side is 4 to 7, and the grid left.

    Sides that do not divide are rounded up; `crop` and `pad_to` bridge the difference.
    """
    _, height, width = image_shape
    stages = max(1, math.floor(math.log2(max(8, min(height, width)) / 4)))
    return stages, math.ceil(height / 2**stages), math.ceil(width / 2**stages)


def pad_to(images: Tensor, height: int, width: int) -> Tensor:
    """Replicate the lower and right border up to (height, width)."""
    extra_h, extra_w = height - images.shape[-2], width - images.shape[-1]
    return images if extra_h == extra_w == 0 else pad(images, (0, extra_w, 0, extra_h), mode="replicate")


def crop(images: Tensor, height: int, width: int) -> Tensor:
    """The upper left (height, width) of `images`: undoes `pad_to`."""
    return images[..., :height, :width]


def random_batch(images: Tensor, size: int, *, flip: bool, generator: torch.Generator) -> Tensor:
    """(size, C, H, W) of `images` drawn with replacement by a CPU generator; half of them mirrored when `flip`."""
    batch = images[torch.randint(len(images), (size,), generator=generator).to(images.device)]
    if not flip:
        return batch
    mirrored = (torch.rand(size, generator=generator) < 0.5).to(images.device)
    return torch.where(mirrored[:, None, None, None], batch.flip(3), batch)


class RunningMean(nn.Module):
    """Exponential mean of a positive scalar, a twentieth new at every call.

    Args:
        start: its first value.
    """

    value: Tensor

    def __init__(self, start: float) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(start))

    def forward(self, new: Tensor) -> Tensor:
        """The mean after the scalar `new`, at least 1e-5; carries no gradient."""
        self.value = self.value.lerp(new.detach(), 0.05).clamp_min(1e-5)
        return self.value


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move `average` towards `model`: exponential moving average of weights and buffers, faster at the start."""
    rate = 1 - min(decay, (1 + step) / (10 + step))
    for kept, new in zip(_state(average), _state(model), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, rate)
        else:
            kept.copy_(new)


def _state(module: nn.Module) -> Iterable[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
