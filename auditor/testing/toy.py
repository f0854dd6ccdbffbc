"""A target and a prior whose answers are known by hand, for tests of attacks, metrics and plugins."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from auditor.contracts.access import Access
from auditor.contracts.manifest import InputSpec
from auditor.contracts.submission import ModelFormat, Output, TargetCard
from auditor.priors.base import Trait
from auditor.tensors import RunContext

EVERY_TOY_ACCESS = (Access.WHITE_BOX, Access.SCORE, Access.LABEL)
"""The access levels a toy target offers unless told otherwise."""


def toy_templates(n_classes: int, shape: tuple[int, int, int] = (1, 8, 8), *, seed: int = 0) -> Tensor:
    """(K, C, H, W) smooth random patterns in [0.2, 0.8]; any two differ by far more than the noise of `toy_images`."""
    channels, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n_classes, channels, 4, 4, generator=generator)
    smooth = interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
    low, high = smooth.amin(dim=(1, 2, 3), keepdim=True), smooth.amax(dim=(1, 2, 3), keepdim=True)
    return 0.2 + 0.6 * (smooth - low) / (high - low)


def toy_card(
    *,
    name: str = "toy",
    n_classes: int = 5,
    image_shape: tuple[int, int, int] = (1, 8, 8),
    access: Sequence[Access] = EVERY_TOY_ACCESS,
    architecture: str = "toy-templates",
    weights_digest: str = "0" * 64,
    n_parameters: int = 1,
    warnings: tuple[str, ...] = (),
) -> TargetCard:
    """A complete target card with harmless defaults."""
    channels, height, width = image_shape
    return TargetCard(
        name=name,
        format=ModelFormat.SAFETENSORS,
        digest=weights_digest,
        weights_digest=weights_digest,
        architecture=architecture,
        n_classes=n_classes,
        input=InputSpec(channels=channels, height=height, width=width),
        output=Output.LOGITS,
        n_parameters=n_parameters,
        access=tuple(access),
        warnings=warnings,
    )


class TemplateClassifier(nn.Module):
    """Logit of class k is minus `sharpness` times the squared Euclidean distance to template k; no other structure.

    Attributes:
        templates: (K, C, H, W) parameter.
        sharpness: factor on the squared distance summed over all pixels.
    """

    def __init__(self, templates: Tensor, sharpness: float = 1.0) -> None:
        super().__init__()
        self.templates = nn.Parameter(templates.detach().float().clone())
        self.sharpness = sharpness

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K)."""
        difference = images[:, None] - self.templates[None]  # (B, K, C, H, W)
        distances: Tensor = difference.square().flatten(2).sum(dim=2)
        return -self.sharpness * distances


class ToyTarget:
    """A target with a known answer: logits are minus squared distances to one template image per class.

    The logit of class k has its one maximum, zero, exactly at template k, and the winning class of any image is that of
    the nearest template. The log-probability goes on rising a little beyond the template, away from the other
    templates, so an attack on cross-entropy ends near the template on its far side, one on the raw logit at it.

    Args:
        templates: (K, C, H, W) in [0, 1]; H and W at least 8.
        sharpness: factor on the squared distance summed over all pixels.
        access: levels on offer; without white-box there is no module and logits carry no gradient.
        name: for the card.
    """

    def __init__(
        self,
        templates: Tensor,
        *,
        sharpness: float = 1.0,
        access: Sequence[Access] = EVERY_TOY_ACCESS,
        name: str = "toy",
    ) -> None:
        self._network = TemplateClassifier(templates, sharpness).eval()
        shape = templates.shape
        self._card = toy_card(
            name=name,
            n_classes=shape[0],
            image_shape=(shape[1], shape[2], shape[3]),
            access=access,
            weights_digest=_digest(self._network.templates, torch.tensor(sharpness)),
            n_parameters=templates.numel(),
        )

    @property
    def card(self) -> TargetCard:
        """What it is and which access levels it offers."""
        return self._card

    @property
    def n_classes(self) -> int:
        """Number of templates."""
        return self._card.n_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a template."""
        spec = self._card.input
        return spec.channels, spec.height, spec.width

    @property
    def templates(self) -> Tensor:
        """(K, C, H, W) the best image of each class."""
        return self._network.templates.detach()

    @property
    def module(self) -> nn.Module | None:
        """The classifier, when white-box is on offer; its raw input is the image itself."""
        return self._network if Access.WHITE_BOX in self._card.access else None

    def logits(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B, K); differentiable only when white-box is on offer."""
        self._network.to(images.device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.module is not None):
            logits: Tensor = self._network(images)
        return logits


class _Directions(nn.Module):
    """(B, D) latents to (B, C*H*W) offsets along the rows of `basis`."""

    basis: Tensor

    def __init__(self, basis: Tensor) -> None:
        super().__init__()
        self.register_buffer("basis", basis.detach().float().clone())

    def forward(self, latents: Tensor) -> Tensor:
        """(B, D) to (B, C*H*W)."""
        offset: Tensor = latents @ self.basis
        return offset


class _OnBase(nn.Module):
    """(B, C*H*W) offsets to images around `base`."""

    base: Tensor

    def __init__(self, base: Tensor) -> None:
        super().__init__()
        self.register_buffer("base", base.detach().float().clone())

    def forward(self, offset: Tensor) -> Tensor:
        """(B, C*H*W) to (B, C, H, W) in [0, 1]."""
        images: Tensor = (self.base + offset.unflatten(1, self.base.shape)).clamp(0, 1)
        return images


class AffineGenerator(nn.Module):
    """decode(z) = clamp(base + z @ basis, 0, 1), reshaped to an image; with `lean`, pulled towards a class's template.

    Attributes:
        base: (C, H, W) image at z = 0.
        basis: (D, C*H*W), one direction per latent coordinate, rows orthogonal.
        lean: (K, C*H*W) offset of each class, or None.
    """

    lean: Tensor | None

    def __init__(self, base: Tensor, basis: Tensor, lean: Tensor | None = None) -> None:
        super().__init__()
        self.stages = nn.Sequential(_Directions(basis), _OnBase(base))
        self.register_buffer("lean", None if lean is None else lean.detach().float().clone())

    @property
    def base(self) -> Tensor:
        """(C, H, W)."""
        base: Tensor = self.get_buffer("stages.1.base")
        return base

    @property
    def basis(self) -> Tensor:
        """(D, C*H*W)."""
        basis: Tensor = self.get_buffer("stages.0.basis")
        return basis

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, D) to (B, C, H, W) in [0, 1]."""
        offset: Tensor = self.stages[0](latents)
        if self.lean is not None:
            offset = offset + self.lean[labels]
        images: Tensor = self.stages[1](offset)
        return images


class ToyPrior:
    """A linear generator whose images are Gaussian with the mean and covariance of the templates it was built from.

    Every template lies in its range: `decode(project(template))` is the template, and the templates' latents have unit
    mean square per used coordinate, so samples from N(0, I) spread as the templates do.

    Args:
        templates: (K, C, H, W) in [0, 1], K at least 2.
        latent_dim: at least K - 1; more adds directions of random noise with a tenth of the templates' amplitude.
        has_critic: whether `critic` answers (minus the squared distance from the generator's subspace).
        conditional: draw a class at a time, half-way to its template.
        has_surrogate: whether `surrogate` answers (two blunt classifiers of the templates).
        made_for: (K, C, H, W) the templates of the target that classes and surrogates follow; default: `templates`,
            whose range the pictures keep to either way.
        seed: of the added directions.
    """

    name = "toy"

    def __init__(
        self,
        templates: Tensor,
        *,
        latent_dim: int | None = None,
        has_critic: bool = False,
        conditional: bool = False,
        has_surrogate: bool = False,
        made_for: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        n, shape = len(templates), templates.shape[1:]
        self.image_shape = (shape[0], shape[1], shape[2])
        self.latent_dim = n - 1 if latent_dim is None else latent_dim
        if not n - 1 <= self.latent_dim <= shape.numel():
            raise ValueError(f"latent_dim must be in {n - 1}..{shape.numel()}")
        base = templates.mean(dim=0)
        basis = _principal_directions((templates - base).flatten(1).double(), self.latent_dim, seed)
        followed = templates if made_for is None else made_for
        lean = 0.5 * _inside((followed - base).flatten(1), basis) if conditional else None
        self._network = AffineGenerator(base, basis, lean).eval()
        self.generator: nn.Module = self._network
        self.n_classes = len(followed) if conditional else 0
        self._students = [TemplateClassifier(followed, sharpness).eval() for sharpness in (0.5, 1.0)]
        self.traits = frozenset(
            trait
            for trait, there in (
                (Trait.CRITIC, has_critic),
                (Trait.CONDITIONAL, conditional),
                (Trait.STAGES, not conditional),
                (Trait.SURROGATE, has_surrogate),
            )
            if there
        )
        self.digest = _digest(
            self._network.base, self._network.basis, torch.tensor([has_critic, conditional]), followed
        )

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        """Latents to offsets, offsets to images; a conditional prior comes in one piece."""
        return (self.generator,) if Trait.CONDITIONAL in self.traits else tuple(self._network.stages)

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, latent_dim) to (B, C, H, W) in [0, 1]; differentiable."""
        if Trait.CONDITIONAL in self.traits and labels is None:
            raise ValueError("a conditional prior was not told which classes to draw")
        images: Tensor = self._network.to(latents.device)(latents, labels)
        return images

    def critic(self, images: Tensor) -> Tensor | None:
        """(B,) minus the squared distance to the subspace of decodable images; None without a critic."""
        if Trait.CRITIC not in self.traits:
            return None
        flat = (images - self._network.to(images.device).base).flatten(1)
        return -(flat - _inside(flat, self._network.basis)).square().sum(dim=1)

    def surrogate(self, images: Tensor) -> Tensor | None:
        """(2, B, K) logits of blunt classifiers of the templates; None without them."""
        if Trait.SURROGATE not in self.traits:
            return None
        return torch.stack([student.to(images.device)(images) for student in self._students])

    def project(self, images: Tensor, ctx: RunContext, labels: Tensor | None = None) -> Tensor:
        """(B, latent_dim) least-squares latents, in closed form."""
        base = self._network.to(images.device).base
        ctx.tick("project", len(images), len(images))
        offset = (images - base).flatten(1)
        if self._network.lean is not None and labels is not None:
            offset = offset - self._network.lean[labels]
        return _coordinates(offset, self._network.basis)


def _coordinates(flat: Tensor, basis: Tensor) -> Tensor:
    """(B, D) least-squares coordinates of (B, P) rows along the orthogonal rows of `basis` (D, P)."""
    return flat @ basis.T / basis.square().sum(dim=1)


def _inside(flat: Tensor, basis: Tensor) -> Tensor:
    """(B, P) the part of (B, P) rows that the rows of `basis` (D, P) span."""
    return _coordinates(flat, basis.to(flat)) @ basis.to(flat)


def _principal_directions(centred: Tensor, n: int, seed: int) -> Tensor:
    """(n, P) orthogonal rows: the K-1 principal directions of (K, P) rows, scaled by deviation, then weak noise."""
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    used = len(centred) - 1
    scale = singular[:used] / len(centred) ** 0.5
    rows: Tensor = directions[:used] * scale[:, None]
    if n > used:
        noise = torch.randn(centred.shape[1], n - used, generator=torch.Generator().manual_seed(seed)).double()
        noise = noise - directions[:used].T @ (directions[:used] @ noise)
        extra = torch.linalg.qr(noise).Q.T * (0.1 * scale.mean())
        rows = torch.cat([rows, extra])
    return rows


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(repr(tuple(tensor.shape)).encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
