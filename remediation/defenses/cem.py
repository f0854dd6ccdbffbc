"""CEM: make what a device sends say the class and little more.

Xia et al., "Theoretical Insights in Model Inversion Robustness and Conditional Entropy Maximization for Collaborative
Inference Systems", CVPR 2025, arXiv 2503.00383. The smaller the spread of a class's features beside the noise that is
added to them, the more images fit any one of them. So beside the cross-entropy of noisy features, the spread of every
cluster of a class's features is pressed down to a share of the noise. Fine-tuning from the submitted weights, which the
authors offer beside training from the start.

Departures from the authors' code:

- no bottleneck with a sigmoid is put in at the cut: noise and spread are measured in units of the features' own
  standard deviation, batch by batch. Otherwise the network shrinks its features as a whole, which costs a decoder
  nothing: on a toy the spread within classes then rose beside that of all features, and so it falls to a quarter;
- the spread of a batch is taken about the centroids of its epoch; theirs is blended with a running one;
- the term is part of the loss with its full weight, as in their fine-tuning; theirs adds its gradient by hand;
- no more clusters than a class has groups of four images;
- AdamW; the last epoch is kept.

The bound holds for noisy features. The written file adds no noise: a graph with random numbers can be neither compared
nor audited exactly, and a device adds noise in one line. So what is audited is what is left without it.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from auditor.contracts.access import Access
from auditor.training import Step, predict
from remediation import freezing
from remediation.cut_features import NEEDS_CUT, CutPass
from remediation.defenses.base import Defense, DefenseConfig, Tuned, Tuning

_LLOYD_STEPS = 10
_LEAST_CLUSTER = 4
_SCALED_BY = 512
"""Images from which the features' scale is taken."""


class CemConfig(DefenseConfig):
    """Parameters of CEM; the defaults of training are those of the authors' fine-tuning."""

    epochs: int = Field(default=80, ge=1)
    lr: float = Field(default=1e-4, gt=0)
    weight: float = Field(default=16.0, ge=0)
    """Of the entropy term (the authors: 8 or 16); 0 leaves noise alone."""
    sigma: float = Field(default=0.025, gt=0)
    """Standard deviation of the noise in training, in units of the features' own."""
    tau: float = Field(default=0.125, gt=0)
    """The spread is pressed down to this share of the noise's variance."""
    gamma: float = Field(default=0.01, gt=0)
    """Added to both variances under the logarithm, so that small spreads weigh little."""
    clusters: int = Field(default=5, ge=1)
    """Per class (the authors: 5, three times as many without a sigmoid at the cut)."""


def kmeans(points: Tensor, centroids: Tensor, steps: int = _LLOYD_STEPS) -> tuple[Tensor, Tensor]:
    """Lloyd's iterations from `centroids`; one that no point is nearest to stays where it is.

    Args:
        points: (N, D) float32.
        centroids: (K, D) float32.
        steps: of the iteration.

    Returns:
        (K, D) centroids and (K,) the share of the points nearest to each.
    """
    for _ in range(steps):
        members = torch.cdist(points, centroids).argmin(dim=1)
        counts = torch.bincount(members, minlength=len(centroids))
        sums = torch.zeros_like(centroids).index_add_(0, members, points)
        centroids = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centroids)
    members = torch.cdist(points, centroids).argmin(dim=1)
    return centroids, torch.bincount(members, minlength=len(centroids)) / len(points)


def spread_start(points: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """(k, D) of the (N, D) `points`, each drawn with the squared distance to those before as its chance (k-means++)."""
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    for _ in range(k - 1):
        nearest = torch.cdist(points, points[chosen]).amin(dim=1).square().cpu()
        chances = nearest if float(nearest.sum()) > 0 else torch.ones(len(points))
        chosen.append(int(torch.multinomial(chances, 1, generator=generator)))
    return points[chosen]


def entropy_term(
    features: Tensor, labels: Tensor, centroids: Tensor, owners: Tensor, shares: Tensor, *, floor: float, gamma: float
) -> Tensor:
    """How far the features of a batch spread about their clusters beyond `floor`; a mean over its classes.

    Args:
        features: (B, D) float32.
        labels: (B,) int64.
        centroids: (M, D) of all classes; every label owns some.
        owners: (M,) int64 class of each.
        shares: (M,) share of its class that each cluster holds.
        floor: variance per dimension down to which nothing is pressed further: tau * sigma².
        gamma: added to variances under the logarithm.
    """
    distances = torch.cdist(features.detach(), centroids).masked_fill(labels[:, None] != owners, float("inf"))
    nearest = distances.argmin(dim=1)
    own = (features - centroids[nearest]).square().mean(dim=1)  # (B,)
    counts = torch.bincount(nearest, minlength=len(centroids))
    variance = own.new_zeros(len(centroids)).index_add(0, nearest, own) / counts.clamp_min(1)
    excess = ((variance + gamma).log() - own.new_tensor(floor + gamma).log()).relu()
    return (shares * excess).sum() / len(labels.unique())


def _deviation(features: Tensor) -> Tensor:
    """Standard deviation of all numbers about their mean over the images, kept from zero."""
    return (features.float().var(dim=0, unbiased=False).mean() + 1e-12).sqrt()


class Cem(Defense[CemConfig]):
    """Features of one class drawn together at the cut, under noise."""

    name = "cem"
    Config = CemConfig

    def misplaced(self, deployment: Access, cut: str | None) -> str:
        """Only for a cut model."""
        return "" if cut is not None else NEEDS_CUT

    def tune(self, job: Tuning) -> Tuned:
        """Cross-entropy of noisy features, and the entropy term of clean ones."""
        if job.cut is None:
            raise ValueError(NEEDS_CUT)
        loss = _CemLoss(job, CutPass(job.module, job.cut), self.config)
        history = job.train(self.config.training, loss, keep_from=self.config.epochs - 1)
        noise = self.config.sigma * loss.scale()
        note = (
            f"Trained for Gaussian noise of standard deviation {noise:.3g} on the features at '{job.cut}'. The file "
            "adds none, and was audited without: the device has to add it."
        )
        return Tuned(job.module, history, (note,))


class _CemLoss:
    """The loss, with clusters that are fitted anew at the start of every epoch."""

    def __init__(self, job: Tuning, run: CutPass, config: CemConfig) -> None:
        if job.data.fit.labels is None:
            raise ValueError("clusters need labels")
        self._job, self._run, self._config = job, run, config
        self._labels = job.data.fit.labels.cpu()
        self._noise = job.ctx.rng("cem", "noise")
        self._epoch = -1
        self._clusters: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, step: Step) -> Tensor:
        if step.epoch != self._epoch:
            self._fit_clusters()
            self._epoch = step.epoch
        features, scores = self._run(step.inputs, self._disturbed)
        rows = features.flatten(1).float()
        term = entropy_term(
            rows / _deviation(rows),
            step.labels,
            *self._stacked,
            floor=self._config.tau * self._config.sigma**2,
            gamma=self._config.gamma,
        )
        return cross_entropy(scores, step.labels) + self._config.weight * term

    def _disturbed(self, features: Tensor) -> Tensor:
        noise = torch.randn(features.shape, generator=self._noise).to(features)
        return features + self._config.sigma * _deviation(features.detach()) * noise

    def scale(self) -> float:
        """Standard deviation of the features of the private images, in evaluation mode."""
        return float(_deviation(self._features(self._job.data.fit.images[:_SCALED_BY])))

    def _features(self, images: Tensor) -> Tensor:
        """(N, D) features in evaluation mode, on the device; the network is left in its training mode."""
        job = self._job
        job.module.eval()
        found = predict(lambda inputs: self._run(inputs)[0], images, job.ctx, prepare=job.prepare)
        freezing.set_mode(job.module, job.plan)
        return found.flatten(1).to(job.ctx.device)

    def _fit_clusters(self) -> None:
        """Every class's clusters, from where they were an epoch before."""
        scale = self.scale()
        for label in self._labels.unique().tolist():
            points = self._features(self._job.data.fit.images[self._labels == label]) / scale
            if label in self._clusters:
                start = self._clusters[label][0]
            else:
                k = max(1, min(self._config.clusters, len(points) // _LEAST_CLUSTER))
                start = spread_start(points, k, self._job.ctx.rng("cem", "clusters", label))
            self._clusters[label] = kmeans(points, start)
        owners = [label for label, (centroids, _) in self._clusters.items() for _ in range(len(centroids))]
        self._stacked = (
            torch.cat([centroids for centroids, _ in self._clusters.values()]),
            torch.tensor(owners, device=self._job.ctx.device),
            torch.cat([shares for _, shares in self._clusters.values()]),
        )
