"""The judge: an embedder that never saw the private classes, used by nearest class centroid.

Ho et al. (2025, arXiv 2505.03519) show that a classifier trained on the private classes shares the target's blind
spots: most of what it calls a success a person would not recognise. The judge is the second witness: trained on public
images only (`judge_training`) or supplied by the team, it identifies a picture by the nearest mean of real private
references, as prototypical networks do (Snell et al., NeurIPS 2017, arXiv 1703.05175).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from auditor.data.network_file import check_digest, load_exactly, read_network, write_network
from auditor.errors import InvalidInput
from auditor.evaluation.judge_network import JudgeNetwork, JudgeShape
from auditor.tensors import ImageBatch, RunContext

_KIND = "judge-1"


@dataclass(frozen=True)
class Judge:
    """An embedder of images.

    Attributes:
        embedder: (B, C, H, W) in [0, 1] to (B, D).
        source: `trained` or `supplied`.
        objective: `metric-learning`, `self-supervised` or `supplied`.
        architecture: for the card.
        digest: sha256 over what it is.
        training_data_digest: of the public images; empty when supplied.
    """

    embedder: Callable[[Tensor], Tensor]
    source: str
    objective: str
    architecture: str
    digest: str
    training_data_digest: str = ""

    @torch.no_grad()
    def embed(self, images: Tensor, ctx: RunContext) -> Tensor:
        """(N, C, H, W) in [0, 1] to (N, D) unit vectors on the CPU; always in full precision."""
        if isinstance(self.embedder, nn.Module):
            self.embedder.eval().to(ctx.device)
        parts = [self.embedder(chunk.to(ctx.device)).float().cpu() for chunk in images.split(ctx.batch_size)]
        return normalize(torch.cat(parts), dim=1)


@dataclass(frozen=True)
class JudgeIndex:
    """A judge with the centroids of real private references.

    Attributes:
        judge: the embedder.
        centroids: (K, D) unit vectors; rows of zeros for classes without a reference.
        present: (K,) bool, whether the class has a reference.
    """

    judge: Judge
    centroids: Tensor
    present: Tensor

    @property
    def n_classes(self) -> int:
        """K."""
        return len(self.centroids)

    def similarities(self, images: Tensor, ctx: RunContext) -> Tensor:
        """(N, K) cosine of each image to each class centroid; minus infinity for classes without a reference."""
        cosines = self.judge.embed(images, ctx) @ self.centroids.T
        return cosines.masked_fill(~self.present, -torch.inf)


def index_judge(judge: Judge, references: ImageBatch, n_classes: int, ctx: RunContext) -> JudgeIndex:
    """Centroids of `references` (real private images with labels): the mean of unit embeddings per class.

    Raises:
        InvalidInput: no labels, or labels outside the target's classes.
    """
    labels = references.labels
    if labels is None or len(references) == 0:
        raise InvalidInput("the judge needs labelled private references")
    if int(labels.min()) < 0 or int(labels.max()) >= n_classes:
        raise InvalidInput(f"private labels must be in 0..{n_classes - 1}")
    embeddings = judge.embed(references.images, ctx)
    sums = torch.zeros(n_classes, embeddings.shape[1]).index_add_(0, labels.cpu(), embeddings)
    return JudgeIndex(judge, normalize(sums, dim=1), torch.bincount(labels.cpu(), minlength=n_classes) > 0)


def supplied_judge(embed: Callable[[Tensor], Tensor], digest: str, *, architecture: str = "supplied") -> Judge:
    """A judge around the team's own embedder: images (B, C, H, W) in [0, 1] to (B, D)."""
    return Judge(embed, source="supplied", objective="supplied", architecture=architecture, digest=digest)


def save_judge(judge: Judge, path: Path) -> str:
    """Write a trained judge to `path` in one move, and return its digest; equal judges give equal bytes."""
    if not isinstance(judge.embedder, JudgeNetwork):
        raise InvalidInput("only a trained judge has weights to save")
    about = {
        "digest": judge.digest,
        "objective": judge.objective,
        "shape": judge.embedder.shape.model_dump(mode="json"),
        "training_data_digest": judge.training_data_digest,
    }
    write_network(path, _KIND, judge.embedder.state_dict(), about)
    return judge.digest


def load_judge(path: Path, device: torch.device) -> Judge:
    """The judge stored at `path`, bit for bit as it was saved.

    Raises:
        InvalidInput: not a judge file, or altered since it was written.
    """
    about, state = read_network(path, _KIND)
    network = JudgeNetwork(JudgeShape.model_validate(about["shape"]))
    load_exactly(network, state, path)
    judge = trained_judge(
        network.to(device),
        objective=about["objective"],
        training_data_digest=about["training_data_digest"],
    )
    check_digest(path, about, judge.digest)
    return judge


def trained_judge(network: JudgeNetwork, *, objective: str, training_data_digest: str) -> Judge:
    """A judge around a network trained here, with the digest of its weights."""
    network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Judge(
        embedder=network,
        source="trained",
        objective=objective,
        architecture=network.architecture,
        digest=network.digest(objective),
        training_data_digest=training_data_digest,
    )
