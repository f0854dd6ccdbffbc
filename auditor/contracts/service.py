"""What the API takes and gives beside reports, jobs and people."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator, Discriminator, Field, JsonValue, StringConstraints, Tag

from auditor.contracts.base import Contract
from auditor.contracts.jobs import JobKind, JobState
from auditor.contracts.manifest import Manifest
from auditor.contracts.people import ISO8601, Name
from auditor.contracts.policy import Policy, RiskLevel
from auditor.contracts.problems import TAG
from auditor.contracts.submission import TargetCard
from auditor.contracts.waiver import Finding, on_one_line, seen

T = TypeVar("T")
_REASON = 10
"""Characters that a waiver's reason has at least."""
PLAIN = r"^[^\x00-\x1f\x7f]*$"
"""Text of one line, without control characters."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""sha256, lower-case hexadecimal."""
Priority = Annotated[int, Field(ge=-10, le=10)]
"""Of jobs that wait, those with a higher one go first."""
Id = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Page(Contract, Generic[T]):
    """A part of a list, newest first."""

    items: tuple[T, ...]
    next: str | None = None
    """Give it as `after` for the following part; None: this was the last one."""


class NewUpload(Contract):
    """A file to be sent in parts."""

    name: str = Field(min_length=1, max_length=200, pattern=PLAIN)
    """For people only: where the file is kept does not depend on it."""
    size: int = Field(ge=1, le=1 << 40)
    """Bytes; the server may allow fewer."""
    sha256: Digest
    """Of the whole file; checked when the last part has come."""


class UploadView(Contract):
    """A file that was, or is being, sent."""

    id: str
    name: str
    size: int
    sha256: str
    received: int
    """Bytes that have come; the next part starts here."""
    complete: bool
    created_at: ISO8601


class NewDataSet(Contract):
    """A named data set, made of a finished upload: an npz with `images` and `labels`."""

    name: Name
    upload: Id


class DataSetView(Contract):
    """A named data set of the team."""

    name: str
    sha256: str
    size: int
    created_at: ISO8601
    created_by: str


class FileRef(Contract):
    """A file on the server: a finished upload, or a named data set."""

    upload: Id | None = None
    data_set: Name | None = None


_BY_NAME, _WHOLE = f"{TAG}name", f"{TAG}whole"


def _which(policy: object) -> str:
    return _BY_NAME if isinstance(policy, str) else _WHOLE


NamedOrWhole = Annotated[Annotated[Name, Tag(_BY_NAME)] | Annotated[Policy, Tag(_WHOLE)], Discriminator(_which)]
"""Name of a stored policy, or a policy."""


class NewAudit(Contract):
    """An audit to start."""

    model: Id
    """Upload that holds the model file."""
    manifest: Manifest
    """As in auditor.yaml. Every path in it must be a key of `files`: the server reads no paths of its own."""
    files: dict[str, FileRef] = Field(default={}, max_length=16)
    """Path as written in the manifest to the file it stands for."""
    policy: NamedOrWhole | None = None
    """Name of a stored policy, or a policy; default: the manifest's, else the built-in one."""
    budget_s: float | None = Field(default=None, gt=0)
    """Seconds for the whole audit, to which the plan is cut."""
    fresh: bool = False
    """Run again even if the same audit is stored."""
    priority: Priority = 0


class NewRemediation(Contract):
    """A repair to start."""

    audit: str = Field(pattern=r"^[0-9a-f]{4,64}$")
    """Report or job of the audit, or the first characters of its id."""
    weights: str | None = Field(default=None, pattern=r"^torchvision:[A-Za-z0-9_.]{1,100}$")
    max_accuracy_loss: float | None = Field(default=None, ge=0, le=1)
    defense: str | None = Field(default=None, max_length=100)
    search: str | None = Field(default=None, max_length=20)
    params: dict[str, JsonValue] = {}
    fresh: bool = False
    """Run again even if the same repair is stored."""
    priority: Priority = 0


class StartedView(Contract):
    """A job, new or found."""

    job_id: str
    reused: bool
    """The same work was there already."""
    state: JobState


class ReportView(Contract):
    """A stored report, in lists."""

    report_id: str
    job_id: str
    unit_key: str
    kind: JobKind
    name: str
    digest: str
    verdict: str | None
    level: str | None
    looser_policy: bool | None = None
    """Whether the policy that gave the verdict is looser than the built-in one; null: nobody knows."""
    has_pictures: bool
    created_at: ISO8601


class SubmissionView(Contract):
    """A checked model file, in lists."""

    id: str
    name: str
    created_at: ISO8601
    target: TargetCard


class PolicyView(Contract):
    """A named policy."""

    name: str
    policy: Policy | None
    """None: another version kept it, and this one cannot read it."""
    problem: str = ""
    """Why not."""
    created_at: ISO8601
    created_by: str


class NewBaseline(Contract):
    """The audit that later ones of this model are compared with."""

    report: str = Field(pattern=r"^[0-9a-f]{4,64}$")


class BaselineView(Contract):
    """The approved audit of a model."""

    model: str
    report_id: str
    digest: str = ""
    """Of the approved report's bytes: names it where several audits share the id."""
    approved_by: str
    approved_at: ISO8601
    findings: dict[str, RiskLevel] = {}
    """What failed when it was approved, waivers aside, by key, and its level: this is let through, up to there."""


def _seen(reason: str) -> str:
    if len(seen(reason)) < _REASON:
        raise ValueError(f"a reason has at least {_REASON} characters that can be seen")
    return reason


Reason = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=_REASON, max_length=2000, pattern=PLAIN),
    AfterValidator(on_one_line),
    AfterValidator(_seen),
]


class NewWaiver(Contract):
    """A finding to be let through for a while."""

    finding: Finding
    """What it covers: `attack:KEY`, `class:NAME` or `rule:E3.x`."""
    model: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    reason: Reason
    days: int = Field(ge=1, le=366)
    """Until it expires."""
    up_to: RiskLevel = RiskLevel.HIGH
    """A finding of a higher level than this fails in spite of it."""


class WaiverView(Contract):
    """A waiver."""

    id: str
    finding: str
    model: str
    reason: str
    approver: str
    created: ISO8601
    expires: date
    """The last day on which it counts (UTC)."""
    up_to: RiskLevel


class Picture(Contract):
    """Where one picture of a gallery can be seen for a few minutes."""

    kind: str
    """`reconstruction`, `nearest-public` or `original`."""
    url: str
    """Path on this server, signed for the one who asked."""
    accepted: bool | None = None
    """Accepted by evaluator and judge; reconstructions only."""


class PictureRow(Contract):
    """The pictures of one class by one attack."""

    label: int
    name: str
    attack: str
    pictures: tuple[Picture, ...]


class Health(Contract):
    """Whether the server works."""

    status: str
    checks: dict[str, str] = {}


class Problem(Contract):
    """Every error of the API (RFC 9457, `application/problem+json`)."""

    type: str
    """`urn:auditor:` and the code."""
    title: str
    status: int
    detail: str
    code: str
    """Stable, as in the log and on the command line."""
    problems: tuple[str, ...]
    """Everything that is wrong, one line each."""
    remedy: str
    """What to do."""
    retryable: bool
