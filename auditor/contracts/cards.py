"""Cards: what a report says about the data, the evaluator, the judge and the priors behind its numbers."""

from __future__ import annotations

from pydantic import JsonValue

from auditor.contracts.base import Contract
from auditor.contracts.scores import NotMeasured, Score


class DataCard(Contract):
    """One image set as it was used."""

    role: str
    """`private-fit`, `private-heldout`, `public`."""
    name: str
    digest: str
    """sha256 over images, labels and their order."""
    n_images: int
    n_classes: int | None
    """None: unlabelled."""
    note: str = ""


class OverlapCheck(Contract):
    """Private images found among the public ones."""

    checked: bool
    exact_duplicates: int = 0
    near_duplicates: int = 0
    """Pairs closer than the perceptual-hash limit that are not byte-identical."""
    planted: int = 0
    """Copies of private images, mirrored, dimmed and blurred, that were looked for among the public ones as a test."""
    planted_found: int = 0
    """Of them, those that the search found."""
    copies: int = 0
    """Private images of which a public one is a copy by the judge's features, also where it was cropped or shifted."""
    cropped: int = 0
    """Cropped copies of private images that were looked for in the same way as a test; 0: no such search."""
    cropped_found: int = 0
    """Of them, those that the search found."""
    note: str = ""


class ClassifierCard(Contract):
    """The evaluator: a classifier of the private classes that never saw the target."""

    architecture: str
    digest: str
    n_parameters: int
    training_data_digest: str
    split: str
    """Which private images it was trained on."""
    epochs: int
    seed: int
    heldout_accuracy: Score
    heldout_top5: Score
    target_heldout_accuracy: Score
    """The target's own accuracy on the same images."""
    independent: bool
    """Other architecture, other weights than the target (an audit is refused otherwise)."""
    cached: bool = False


class JudgeCard(Contract):
    """The judge: an embedder that never saw the private classes."""

    source: str
    """`trained` on the public data or `supplied` by the team."""
    objective: str
    """`metric-learning`, `self-supervised` or `supplied`."""
    architecture: str
    digest: str
    training_data_digest: str
    heldout_top1: Score
    """Nearest-centroid identification of held-out real private images."""
    heldout_top5: Score
    cached: bool = False


class PriorCard(Contract):
    """An image prior and what it can draw."""

    name: str
    digest: str
    source: str
    """`trained` on the public data or `supplied` by the team."""
    latent_dim: int
    traits: tuple[str, ...] = ()
    """What it offers beyond drawing: `critic`, `conditional`, `stages`, `pixels`, `surrogate`."""
    training_data_digest: str
    target_queries: int = 0
    """Images its training sent to the target: more than 0 for a prior made for this target."""
    config: dict[str, JsonValue] = {}
    quality: dict[str, float] = {}
    """Named quality figures from its training: pixel spread ratio, reconstruction error and the like."""
    kid: Score = NotMeasured(metric="kid", reason="not part of this report")
    """Kernel inception distance of its samples from the public images, in the judge's embedding; 0 is perfect."""
    class_coverage: Score
    """Share of classes that win at least one of the prior's samples, by the evaluator."""
    ceiling_evaluator: Score
    """Real held-out private images projected into the prior, accepted by the evaluator."""
    ceiling_judge: Score
    ceiling_both: Score
    control_both: Score
    """Unguided samples that both accept for a class, averaged over classes."""
    cached: bool = False
