"""Training the judge on public images only: margin-based metric learning, or contrast of views without labels.

With identities: CosFace (Wang et al., CVPR 2018, arXiv 1801.09414) over the public identities with two images or more.
Without them, or when nearly every identity has one image: NT-Xent on two augmented views of each image (SimCLR, Chen et
al., ICML 2020, arXiv 2002.05709). Either way a linear metric follows that whitens what differs *within* an identity (or
between views of an image): within-class covariance normalisation (Hatch et al., Interspeech 2006). The papers stop at
the network; with a few thousand public images the metric adds about ten points of identification.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, one_hot

from auditor.components import PrincipalComponents, principal_components
from auditor.contracts.plan import JudgeTraining
from auditor.errors import InvalidInput
from auditor.evaluation.degradation import degrade, smoothing_components
from auditor.evaluation.evaluator import initialise
from auditor.evaluation.fingerprints import batch_digest
from auditor.evaluation.judge import Judge, trained_judge
from auditor.evaluation.judge_network import JudgeNetwork, JudgeShape
from auditor.evaluation.mirroring import mirrors_fit
from auditor.tensors import ImageBatch, RunContext
from auditor.training import augment_images

METRIC_LEARNING = "metric-learning"
SELF_SUPERVISED = "self-supervised"

_SCALE, _MARGIN = 20.0, 0.2
_TEMPERATURE = 0.1
_SHRINKAGE = 0.1
_COMPONENTS = 200
EPOCH_IMAGES = 6000
"""Images of one epoch at most: a random part of a larger set, so that training time does not grow with it."""
_MIN_IDENTITIES = 20
_MIN_IMAGES = 100
_LR, _WEIGHT_DECAY = 3e-3, 5e-2


@dataclass(frozen=True)
class _Setting:
    """What a training step needs beside the batch."""

    smoothing: PrincipalComponents
    mirror: bool
    generator: torch.Generator


def choose_objective(public: ImageBatch) -> str:
    """Metric learning where at least 20 identities have two images or more and these are 100 images or more."""
    if public.labels is None:
        return SELF_SUPERVISED
    counts = torch.unique(public.labels, return_counts=True)[1]
    repeated = counts[counts >= 2]
    enough = len(repeated) >= _MIN_IDENTITIES and int(repeated.sum()) >= _MIN_IMAGES
    return METRIC_LEARNING if enough else SELF_SUPERVISED


def train_judge(public: ImageBatch, spec: JudgeTraining, ctx: RunContext, *, training_data_digest: str = "") -> Judge:
    """An embedder trained on public images; the private classes are never seen.

    Args:
        public: images in [0, 1], with identity labels where there are any.
        spec: epochs and embedding size.
        ctx: device, seed, autocast, progress.
        training_data_digest: digest of the public images as the report names it; computed here when empty.

    Raises:
        InvalidInput: fewer than 16 images.
    """
    if len(public) < 16:
        raise InvalidInput(f"a judge cannot be trained on {len(public)} public images")
    objective = choose_objective(public)
    mirror = mirrors_fit(public, ctx)
    _, C, H, W = public.images.shape
    n_components = min(_COMPONENTS, len(public) // 4, C * H * W)
    shape = JudgeShape(
        channels=C, height=H, width=W, embedding_dim=spec.embedding_dim, n_components=n_components, mirror=mirror
    )
    network = JudgeNetwork(shape)
    initialise(network, ctx.rng("judge", "weights"))
    found = principal_components(public.images, n_components, ctx.rng("judge", "components"))
    network.set_components(found.mean, found.directions / found.deviations.clamp_min(1e-4))
    network.to(ctx.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = _repeated_identities(public) if objective == METRIC_LEARNING else ImageBatch(public.images)
    smoothing = smoothing_components(public.images, ctx.rng("judge", "smoothing"))
    setting = _Setting(smoothing, mirror, ctx.rng("judge", "batches"))
    _train(network, data, spec, setting, ctx)
    network.eval()
    _fit_metric(network, data, setting, ctx)
    return trained_judge(
        network, objective=objective, training_data_digest=training_data_digest or batch_digest(public)
    )


def _repeated_identities(public: ImageBatch) -> ImageBatch:
    """The images of identities with two images or more, labels renumbered from 0."""
    assert public.labels is not None  # noqa: S101 - decided by choose_objective
    _, labels, counts = torch.unique(public.labels.cpu(), return_inverse=True, return_counts=True)
    kept = counts[labels] >= 2
    renumbered = torch.unique(labels[kept], return_inverse=True)[1]
    return ImageBatch(public.images[kept], renumbered)


def _train(network: JudgeNetwork, data: ImageBatch, spec: JudgeTraining, setting: _Setting, ctx: RunContext) -> None:
    """AdamW, one cycle; every epoch takes its own random order of the images."""
    n = len(data)
    size = min(64 if data.labels is not None else 128, n)
    steps = max(1, min(n, EPOCH_IMAGES) // size)
    head = _identity_head(network, data, ctx)
    optimizer = torch.optim.AdamW(_groups(network, head), lr=_LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LR, total_steps=steps * spec.epochs + 1, pct_start=0.15)
    for epoch in range(spec.epochs):
        network.train()
        order = torch.randperm(n, generator=setting.generator)
        for step in range(steps):
            rows = order[step * size : (step + 1) * size]
            loss = _loss(network, head, data, rows, setting, ctx)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        ctx.tick("judge", epoch + 1, spec.epochs)


def _identity_head(network: JudgeNetwork, data: ImageBatch, ctx: RunContext) -> nn.Parameter | None:
    """(identities, D) one direction per identity, for CosFace; None without labels."""
    if data.labels is None:
        return None
    shape = (int(data.labels.max()) + 1, network.shape.embedding_dim)
    return nn.Parameter((0.05 * torch.randn(shape, generator=ctx.rng("judge", "head"))).to(ctx.device))


def _groups(network: JudgeNetwork, head: nn.Parameter | None) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels, none for norms and slopes."""
    parameters = [*network.parameters(), *([] if head is None else [head])]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": _WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _loss(
    network: JudgeNetwork,
    head: nn.Parameter | None,
    data: ImageBatch,
    rows: Tensor,
    setting: _Setting,
    ctx: RunContext,
) -> Tensor:
    """CosFace on one view per image, or NT-Xent on two."""
    images = data.images[rows].to(ctx.device)
    if head is not None and data.labels is not None:
        embedded = _embed_views(network, _view(images, setting), ctx)
        return cosface_loss(embedded, head, data.labels[rows].to(ctx.device))
    views = torch.cat([_view(images, setting), _view(images, setting)])
    return nt_xent_loss(_embed_views(network, views, ctx))


def _embed_views(network: JudgeNetwork, views: Tensor, ctx: RunContext) -> Tensor:
    """(B, D) unit vectors, with gradients."""
    views = views.contiguous(memory_format=torch.channels_last)
    with ctx.autocast():
        embedded = network.raw(views)
    return normalize(embedded.float(), dim=1)


def _view(images: Tensor, setting: _Setting) -> Tensor:
    """One augmented view per image: geometry, light, colour, then mild degradation."""
    moved = augment_images(images, setting.generator, strength=1.3, flip=setting.mirror)
    return degrade(_recolour(moved, setting.generator), setting.generator, components=setting.smoothing)


def _recolour(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random saturation (within 60 %) and channel gains (within 15 %); grey images only get a gain."""
    B, C = images.shape[:2]
    saturation = (1 + 0.6 * (2 * torch.rand(B, 1, 1, 1, generator=generator) - 1)).to(images.device)
    gains = (1 + 0.15 * (2 * torch.rand(B, C, 1, 1, generator=generator) - 1)).to(images.device)
    grey = images.mean(dim=1, keepdim=True)
    recoloured: Tensor = ((grey + (images - grey) * saturation) * gains).clamp(0, 1)
    return recoloured


def cosface_loss(embedded: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over cosines to identity directions, the own cosine lowered by a margin.

    Args:
        embedded: (B, D) unit vectors.
        head: (identities, D), normalised here.
        labels: (B,) int64.
    """
    cosines = embedded @ normalize(head, dim=1).T
    return cross_entropy(_SCALE * (cosines - _MARGIN * one_hot(labels, len(head))), labels)


def nt_xent_loss(embedded: Tensor) -> Tensor:
    """Each of 2B unit vectors must find its other view (rows i and i + B) among the rest."""
    n = len(embedded)
    similarities = (embedded @ embedded.T / _TEMPERATURE).masked_fill(
        torch.eye(n, dtype=torch.bool, device=embedded.device), -torch.inf
    )
    partner = (torch.arange(n, device=embedded.device) + n // 2) % n
    return cross_entropy(similarities, partner)


@torch.no_grad()
def _fit_metric(network: JudgeNetwork, data: ImageBatch, setting: _Setting, ctx: RunContext) -> None:
    """Whiten what differs within an identity, or, without labels, between four views of an image."""
    if data.labels is not None:
        embedded, owners = _units(network, data.images, ctx), data.labels
    else:
        chosen = data.images[:4000]
        views = [_units(network, _view_all(chosen, setting), ctx) for _ in range(4)]
        embedded, owners = torch.cat(views), torch.arange(len(chosen)).repeat(4)
    network.set_metric(embedded.mean(dim=0).to(ctx.device), within_whitening(embedded, owners).to(ctx.device))


def _units(network: JudgeNetwork, images: Tensor, ctx: RunContext) -> Tensor:
    return torch.cat([network.unit(chunk.to(ctx.device)).cpu() for chunk in images.split(ctx.batch_size)])


def _view_all(images: Tensor, setting: _Setting) -> Tensor:
    return torch.cat([_view(chunk, setting) for chunk in images.split(256)])


def within_whitening(embedded: Tensor, owners: Tensor, *, shrinkage: float = _SHRINKAGE) -> Tensor:
    """(D, D) symmetric matrix that gives the within-owner scatter of `embedded` unit covariance.

    Args:
        embedded: (N, D).
        owners: (N,) int64; owners with one row say nothing and are left out.
        shrinkage: weight of the mean variance on the diagonal, in [0, 1].
    """
    _, labels, counts = torch.unique(owners, return_inverse=True, return_counts=True)
    rows = embedded.double()
    means = torch.zeros(len(counts), rows.shape[1], dtype=torch.float64).index_add_(0, labels, rows) / counts[:, None]
    repeated = counts[labels] >= 2
    n = counts[labels][repeated].double()
    residual = (rows - means[labels])[repeated] * (n / (n - 1)).sqrt()[:, None]
    scatter = residual.T @ residual / max(len(residual), 1)
    target = torch.eye(len(scatter), dtype=torch.float64) * scatter.diagonal().mean().clamp_min(1e-12)
    values, vectors = torch.linalg.eigh((1 - shrinkage) * scatter + shrinkage * target)
    whitening: Tensor = vectors @ torch.diag(values.clamp_min(1e-12).rsqrt()) @ vectors.T
    return whitening.float()
