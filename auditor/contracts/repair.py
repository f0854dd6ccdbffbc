"""A repair and its proof: every boundary tried, the one chosen, before against after."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field, JsonValue

from auditor.contracts.access import Access
from auditor.contracts.base import Contract
from auditor.contracts.manifest import RepairBudget
from auditor.contracts.plan import AttackSpec
from auditor.contracts.policy import Verdict
from auditor.contracts.scores import Score


class NormMode(StrEnum):
    """What BatchNorm inside frozen units does during fine-tuning."""

    FROZEN = "frozen"
    """Evaluation mode: buffers stay bit-identical (default)."""
    REFERENCE = "reference"
    """Training mode, as the paper's code does: buffers take up private statistics."""
    RECALIBRATE_PUBLIC = "recalibrate_public"
    """Evaluation mode after one pass that re-estimates the statistics on public data."""


class Reach(StrEnum):
    """What applying a defense takes, least first."""

    SERVING = "serving"
    """Nothing is trained: what the model gives out is changed. Whoever has the weights is not hindered."""
    FINE_TUNE = "fine-tune"
    """Training goes on from the submitted weights."""
    RETRAIN = "retrain"
    """Training starts again from public weights."""


class Offer(Contract):
    """A defense of the catalog, as it can be known without running it."""

    name: str
    paper: str
    """Authors, venue, arXiv id."""
    reach: Reach
    access: tuple[Access, ...]
    """Deployments in which it can help at all; a defense of what is given out does not help where weights are."""
    summary: str
    """What it does, in one sentence."""
    caveat: str
    """What a reader of its numbers has to know."""
    adaptive: tuple[AttackSpec, ...]
    """Attacks that know this defense: every repair by it is audited with them too."""
    freezes: bool = False
    """Whether it holds public layers fixed where no boundaries are named."""
    families: tuple[str, ...] = ()
    """How the names of architectures begin that it is for; empty: any. Into an ONNX graph the repair itself looks."""


class FreezePlan(Contract):
    """Parameter names held fixed, and the proof."""

    boundary: int
    """Number of leading units frozen."""
    n_units: int
    units: tuple[str, ...]
    parameters: tuple[str, ...]
    buffers: tuple[str, ...] = ()
    """Buffers of the frozen units (running statistics): covered by the proof in every mode but `reference`."""
    modules: tuple[str, ...] = ()
    """Modules that run entirely inside frozen units; kept in evaluation mode in every mode but `reference`."""
    norm_mode: NormMode
    tuned_parameters: int
    total_parameters: int
    digest_before: str = ""
    """sha256 over frozen parameters and buffers before training."""
    digest_after: str = ""


class Utility(Contract):
    """What a model is worth to its users, beside its accuracy; on held-out images never used for a choice."""

    calibration_error: float
    """Expected calibration error, 15 bins of equal width, in [0, 1]."""
    robust_accuracy: dict[str, Score] = Field(default_factory=dict)
    """Top-1 accuracy under small changes of the image, by their largest size in units of the pixel range [0, 1]: where
    a defense buys privacy with robustness (Anti-Adversarial Training, ICLR 2026), it falls."""
    latency_ms: float
    """Of one image alone, the fastest of several runs on the machine of the repair."""
    size_bytes: int
    """Of the file."""


class TrainedCandidate(Contract):
    """One boundary, trained and written; not yet audited."""

    freeze: FreezePlan
    proposed_by: str
    """`fisher`, `quantile`, `sweep`, `user` or `defense`."""
    best_epoch: int
    """Epoch (from 0) with the best validation accuracy; its weights were kept."""
    epochs: int
    validation_accuracy: Score
    heldout_accuracy: Score
    """On the half of the held-out images that may choose among candidates."""
    test_accuracy: Score | None = None
    """On the other half, which chooses nothing; None: the held-out images are too few to be halved."""
    utility: Utility | None = None
    model_digest: str
    """sha256 of the written file."""
    model_weights_digest: str = ""
    model_answers: tuple[float, ...] = ()
    """These two as in the target card of the written file."""
    model_format: str
    parity_max_abs_error: float | None
    """Bound on the difference between the trained network and the written file in onnxruntime; None: bare weights."""
    notes: tuple[str, ...] = ()


class RepairStart(Contract):
    """What every boundary starts from."""

    defense: str
    paper: str
    pretraining: str
    """Where the frozen weights come from."""
    weights_digest: str
    """sha256 over the names and values of the starting weights, head excluded."""
    network: str
    """Architecture name, or `submitted graph`."""
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    """Every parameter of the defense as it ran, defaults included."""
    n_units: int
    boundaries: dict[int, str]
    """Boundaries to try, ascending, and who proposed each: `fisher`, `quantile`, `sweep`, `user` or `defense`."""
    trials: bool = False
    """Whether each is tried with a part of the training first, and only the better third gets all of it."""
    accuracy_before: Score
    """Of the submitted model, on the half of the held-out images that may choose among candidates."""
    test_accuracy_before: Score | None = None
    """On the other half, which chooses nothing; None: the held-out images are too few to be halved."""
    utility_before: Utility | None = None
    notes: tuple[str, ...] = ()


class RepairCandidate(Contract):
    """One boundary, trained and audited with the quick plan."""

    freeze: FreezePlan
    proposed_by: str
    """`fisher`, `quantile`, `sweep`, `user` or `defense`."""
    best_epoch: int
    validation_accuracy: Score
    heldout_accuracy: Score
    """On the half of the held-out images that may choose among candidates."""
    test_accuracy: Score | None = None
    """On the other half; None: the held-out images are too few to be halved."""
    within_budget: bool
    report_id: str
    lift: dict[str, Score]
    """Lift by attack key, same plan and seeds as before."""
    both_agree: dict[str, Score]
    evaluator_top1: dict[str, Score]

    @property
    def accuracy(self) -> Score:
        """What the candidate is worth, on images that had no part in its choice where there are such."""
        return self.test_accuracy or self.heldout_accuracy


class PairedDifference(Contract):
    """Before minus after, paired by class."""

    attack: str
    metric: str
    before: Score
    after: Score
    difference: Score


class HeuristicRow(Contract):
    """A boundary that was tried, against the Fisher scores of the submission."""

    boundary: int
    inversion_mass: float
    """Share of the inversion's Fisher information in the frozen units, in [0, 1]."""
    classification_mass: float
    lift: Score
    """Under the worst attack of the quick plan."""
    within_budget: bool


class HeuristicCheck(Contract):
    """How well the Fisher scores of the submission proposed, judged by the boundaries that were tried."""

    proposed: int | None
    """Boundary that they propose; None: uninformative."""
    best: int | None
    """Boundary with the lowest lift within the accuracy budget."""
    regret: Score
    """Lift at the proposed boundary minus lift at the best; `n` counts boundaries."""
    correlation: Score
    """Spearman's, over boundaries, of the frozen inversion mass and the reduction of lift; `n` counts boundaries."""
    rows: tuple[HeuristicRow, ...]
    notes: tuple[str, ...] = ()


class RepairReport(Contract):
    """What the repair did, and whether it can be believed."""

    schema_version: int = 1
    id: str
    defense: str
    paper: str
    before_report_id: str
    before_quick_report_id: str
    after_report_id: str | None
    """None: no candidate stayed within the budget."""
    budget: RepairBudget
    """What was asked for; its `params` are those that were set."""
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    """Every parameter of the defense as it ran, defaults included."""
    accuracy_before: Score
    """On held-out images that had no part in the choice of the candidate; the notes say where there were too few."""
    accuracy_after: Score
    """On the same images."""
    utility_before: Utility | None = None
    utility_after: Utility | None = None
    pretraining: str
    """Where the frozen weights came from."""
    weights_digest: str = ""
    """sha256 over the names and values of the starting weights, head excluded."""
    seed: int = 0
    """All randomness of the trainings and audits derives from it."""
    data: dict[str, str] = Field(default_factory=dict)
    """Digests of the images that were trained and audited with, by role."""
    candidates: tuple[RepairCandidate, ...]
    trials: tuple[RepairCandidate, ...] = ()
    """Every boundary of a sweep, after a part of the training."""
    front: tuple[int, ...] = ()
    """The Pareto front: boundaries to which no other is better in accuracy and in the upper bound of the worst lift."""
    chosen: int | None
    """Boundary of the chosen candidate."""
    unkept: str = ""
    """Why no repaired model was kept; empty: one was."""
    quick_lift_before: dict[str, Score] = Field(default_factory=dict)
    """Lift of the submitted model by attack key under the quick plan: what the candidates are compared with."""
    heuristic: HeuristicCheck | None = None
    """None: the submission has no Fisher scores, or one boundary alone was tried."""
    differences: tuple[PairedDifference, ...]
    """Attacks of the audit before, under the full plan."""
    adaptive_differences: tuple[PairedDifference, ...] = ()
    """Attacks that know the defense, under the quick plan: the submission against the chosen candidate."""
    verdict_before: Verdict
    verdict_after: Verdict | None
    """That of the audit after; where a pass is withheld (its plan says why) it is never one."""
    policy_loosened: tuple[str, ...] = ()
    """How the policy of both verdicts is looser than the built-in one."""
    model_digest: str | None
    model_format: str
    parity_max_abs_error: float | None
    notes: tuple[str, ...] = ()
    content_digest: str = ""
    """Of all the rest: shows accidents and edits, is no signature. Empty: of an older version."""
