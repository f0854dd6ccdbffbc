"""Jobs, their cut into units, and the messages of the runner process."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from auditor.contracts.access import Access
from auditor.contracts.base import Contract
from auditor.contracts.plan import AuditPlan


class JobKind(StrEnum):
    """What a job does."""

    AUDIT = "audit"
    REPAIR = "repair"


class JobState(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    """Stopped by a person; finished units are kept and it can be resumed."""


class UnitState(StrEnum):
    """Where a unit is."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


WEIGHTS, WEIGHTS_ORIGIN = "weights.safetensors", "weights.txt"
"""Names of the file of public weights that a repair starts from, and of the one that says where they were fetched."""


class UnitSpec(Contract):
    """One idempotent piece of work, run in a fresh runner process.

    `inputs` name what the process may read, by artifact digest; it sees nothing else.
    """

    kind: str
    """Handler name: `check`, `prepare`, `attack`, `fisher`, `finish`, `repair-train`, ..."""
    key: str
    """Unique within the job, e.g. `attack/ppa/0`."""
    params: dict[str, JsonValue] = {}
    inputs: dict[str, str] = {}
    """Input name to artifact digest. The name is the file name in the workspace."""
    places: tuple[str, ...] = ()
    """Folders outside the workspace that it reads: a check works on files where they are."""
    needs_network: bool = False
    """It fetches what is published, and is given no file of a stranger."""
    starts_processes: bool = False
    """It compiles what it runs, with compilers of the machine."""


class UnitResult(Contract):
    """What a unit gave back."""

    value: dict[str, JsonValue] = {}
    """Small JSON result."""
    outputs: dict[str, str] = {}
    """Output name to artifact digest (filled by the parent after storing)."""
    seconds: float = 0.0
    peak_memory_bytes: int | None = None


class Progress(Contract):
    """Runner message: how far the unit is."""

    event: Literal["progress"] = "progress"
    stage: str
    done: int
    total: int


class Log(Contract):
    """Runner message: a line for the log."""

    event: Literal["log"] = "log"
    level: Literal["info", "warning", "error"] = "info"
    message: str


class Finished(Contract):
    """Runner message: the unit's result, always the last line of a good run."""

    event: Literal["finished"] = "finished"
    value: dict[str, JsonValue]
    outputs: tuple[str, ...] = ()
    """File names under the workspace's `outputs/`."""
    seconds: float
    peak_memory_bytes: int | None = None


class Failed(Contract):
    """Runner message: the unit ended with an error."""

    event: Literal["failed"] = "failed"
    code: str
    problems: tuple[str, ...]
    remedy: str = ""
    retryable: bool = False


RunnerMessage = Annotated[Progress | Log | Finished | Failed, Field(discriminator="event")]


class AuditJob(Contract):
    """What an audit job was asked to do; stored with the job, and all that its pipeline knows."""

    name: str
    """The submission's name, for lists."""
    plan: AuditPlan
    inputs: dict[str, str]
    """Workspace file name to artifact digest: `model`, `manifest.json`, `plan.json`, `policy.json`, `target.json`,
    and, where given, `private.npz`, `heldout.npz`, `public.npz`, `generator.onnx`, `judge.onnx`."""


class AttackReadiness(Contract):
    """What `prepare` says about one attack of the plan; its result value lists one per attack under `attacks`."""

    key: str
    """The attack's key in the plan."""
    runnable: bool
    reason: str = ""
    """Why it cannot run."""
    prior: str | None = None
    """The prior it uses; None: the one its entry names, else the plan's first."""
    access: Access | None = None
    """Its access level. The Fisher stage gets the images of the first white-box attack."""
    inapplicable: bool = False
    """Not runnable, and no attacker could: the method has nothing to work on in this model."""
    aids: str = ""
    """Name of the file with its trained helper networks; empty: it needs none."""
    aid_queries: int = 0
    """Images that training these sent to the target, once for all classes."""


class UnitView(Contract):
    """One unit of a job, as shown to people."""

    key: str
    kind: str
    state: UnitState
    attempt: int
    """How many times it was started."""
    worker: str | None = None
    stalled: bool = False
    """It says it runs, but its worker has not been heard of since its lease ran out."""
    progress: Progress | None = None
    error: Failed | None = None
    seconds: float | None = None


class JobView(Contract):
    """A job, as shown to people."""

    id: str
    kind: JobKind
    name: str
    submitter: str = ""
    """The person's name; empty: submitted without a server, or by an older version."""
    state: JobState
    """`running` only while a unit of it runs under a live lease; between units, or when its worker died, `queued`."""
    stalled: bool = False
    """A unit of it says it runs, but its worker has not been heard of; it is put back within seconds."""
    priority: int = 0
    """Of jobs that wait, those with a higher one go first."""
    queue_position: int | None = None
    """Of a job that waits for a worker: 1 is next."""
    eta_s: float | None = None
    """Seconds until it is likely to go on, from the units ahead that are known by now; None: nothing to tell by."""
    created_at: str
    """ISO 8601, UTC."""
    finished_at: str | None = None
    cancel_requested: bool = False
    error: Failed | None = None
    report_ids: tuple[str, ...] = ()
    """Reports it left, the final one last."""
    units: tuple[UnitView, ...] = ()


class JobEvent(Contract):
    """Something happened to a job that somebody follows."""

    job_id: str
    unit_key: str
    unit_state: UnitState
    message: RunnerMessage | None = None
    """What the runner said; None: the unit changed its state."""
    units_done: int = 0
    units_known: int = 0
    """Units created so far; more follow as stages end."""


class RepairJob(Contract):
    """What a repair job was asked to do; stored with the job, and all that its pipeline knows."""

    name: str
    plan: AuditPlan
    """That of the audit before, and the attacks that know the defense; the chosen candidate is audited with it."""
    quick_plan: AuditPlan
    """Every candidate, and the submission itself, are audited with this one, which has those attacks too."""
    quick_plan_digest: str
    """Artifact of the quick plan's JSON."""
    trial_plan: AuditPlan
    """The boundaries of a sweep are ranked with this one after a part of the training."""
    trial_plan_digest: str
    """Artifact of the trial plan's JSON."""
    inputs: dict[str, str]
    """As in AuditJob; `manifest.json` carries the budget."""
    data: dict[str, str]
    """What the audit before left: `fit.npz`, `heldout.npz`, `report.json`; and `weights.safetensors` where given."""
    published: dict[str, JsonValue] | None = None
    """Weights to be fetched first: torchvision's name for them (`weights`), `architecture`, `channels`."""
