"""An example of every JSON body that the API takes or gives, by route; they are part of its description."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from auditor.contracts.access import Access
from auditor.contracts.base import Contract
from auditor.contracts.jobs import JobKind, JobState, JobView, Progress, UnitState, UnitView
from auditor.contracts.manifest import InputSpec
from auditor.contracts.people import Me, OpenIdView, Retention, Role, Scope, TeamView, TokenView, TrailEntry, UserView
from auditor.contracts.policy import Policy, RiskLevel
from auditor.contracts.service import (
    BaselineView,
    DataSetView,
    Health,
    Picture,
    PictureRow,
    PolicyView,
    ReportView,
    StartedView,
    SubmissionView,
    UploadView,
    WaiverView,
)
from auditor.contracts.submission import ModelFormat, Output, ParityCheck, TargetCard

_JOB, _OTHER, _TEAM, _USER = "ab" * 16, "cd" * 16, "0" * 31 + "1", "3e" * 16
_REPORT, _FILE = "5f" * 32, "9f" * 32
_DAY, _LATER = "2030-03-01T09:30:00Z", "2030-03-01T11:12:00Z"
_NEXT = "MjAzMC0wMy0wMVQxMToxMjowMCswMDowMCAzZTNl"
_WORDS = "four words nobody guesses"

BODIES: Mapping[tuple[str, str], dict[str, Any]] = {
    ("POST", "/bootstrap"): {"token": "aud_the-one-that-serve-printed", "name": "ann", "password": _WORDS},
    ("POST", "/session"): {"team": "local", "name": "ann", "password": _WORDS},
    ("PUT", "/session/password"): {"password": _WORDS, "current": "the words of before"},
    ("POST", "/tokens"): {"name": "ci", "scopes": ["read", "submit"], "days": 90},
    ("POST", "/users"): {"name": "bob", "role": "reviewer", "openid": {"email": "bob@example.org"}},
    ("PATCH", "/users/{user_id}"): {"role": "admin"},
    ("POST", "/teams"): {"name": "vision", "admin": "eve", "password": _WORDS},
    ("PUT", "/retention"): {"pictures_days": 30, "private_data_days": 90},
    ("POST", "/uploads"): {"name": "model.onnx", "size": 1_048_576, "sha256": _FILE},
    ("POST", "/data-sets"): {"name": "badges-2030", "upload": _JOB},
    ("POST", "/audits"): {
        "model": _JOB,
        "manifest": {
            "model": {"name": "badge-reader"},
            "data": {"private": {"path": "private/"}, "public": {"path": "public/"}},
        },
        "files": {"private/": {"data_set": "badges-2030"}, "public/": {"upload": _OTHER}},
        "policy": "release",
    },
    ("POST", "/remediations"): {"audit": _JOB, "defense": "tl-dmi", "max_accuracy_loss": 0.03},
    ("PUT", "/policies/{name}"): {"name": "release", "fail_on": "medium"},
    ("PUT", "/baselines/{model}"): {"report": _REPORT},
    ("POST", "/waivers"): {
        "finding": "attack:ppa",
        "model": "badge-reader",
        "reason": "The internal pilot ends in May; the repair is planned for the release after it.",
        "days": 90,
    },
}
"""What a request may say."""

_ANN = UserView(id=_USER, name="ann", role=Role.ADMIN, disabled=False, created_at=_DAY)
_BOB = UserView(
    id=_OTHER,
    name="bob",
    role=Role.REVIEWER,
    disabled=False,
    created_at=_DAY,
    openid=OpenIdView(email="bob@example.org"),
)
_LOCAL = TeamView(id=_TEAM, name="local", created_at=_DAY)
_ME = Me(user=_ANN, team=_LOCAL, scopes=tuple(Scope), csrf_token="7c" * 16)
_TOKEN = TokenView(
    id=_JOB,
    name="ci",
    user="ann",
    scopes=(Scope.READ, Scope.SUBMIT),
    created_at=_DAY,
    expires_at="2030-05-30T09:30:00Z",
)
_UPLOAD = UploadView(
    id=_JOB, name="model.onnx", size=1_048_576, sha256=_FILE, received=524_288, complete=False, created_at=_DAY
)
_DATA_SET = DataSetView(name="badges-2030", sha256=_FILE, size=80_123_456, created_at=_DAY, created_by="ann")
_STARTED = StartedView(job_id=_JOB, reused=False, state=JobState.QUEUED)
_CARD = TargetCard(
    name="badge-reader",
    format=ModelFormat.ONNX,
    digest=_FILE,
    weights_digest="1a" * 32,
    architecture=f"onnx:{'2b' * 8}",
    n_classes=158,
    input=InputSpec(channels=3, height=64, width=64),
    output=Output.LOGITS,
    n_parameters=1_240_000,
    access=(Access.WHITE_BOX, Access.SCORE, Access.LABEL),
    parity=ParityCheck(batch_sizes=(1, 3, 8), max_abs_error=2.1e-6, tolerance=1e-4, passed=True),
    inferred={"n_classes": "158, from the shape of output 'logits'"},
)
_SUBMISSION = SubmissionView(id=_OTHER, name="badge-reader", created_at=_DAY, target=_CARD)
_RUNNING = JobView(
    id=_JOB,
    kind=JobKind.AUDIT,
    name="badge-reader",
    state=JobState.RUNNING,
    created_at=_DAY,
    units=(
        UnitView(key="prepare", kind="prepare", state=UnitState.DONE, attempt=1, seconds=241.5),
        UnitView(
            key="attack/ppa/0",
            kind="attack",
            state=UnitState.RUNNING,
            attempt=1,
            worker="gpu-1",
            progress=Progress(stage="attack", done=40, total=300),
        ),
    ),
)
_STOPPING = _RUNNING.model_copy(update={"cancel_requested": True})
_WAITING = JobView(
    id=_JOB,
    kind=JobKind.AUDIT,
    name="badge-reader",
    state=JobState.QUEUED,
    queue_position=2,
    eta_s=640.0,
    created_at=_DAY,
    units=_RUNNING.units[:1],
)
_ENTRY = ReportView(
    report_id=_REPORT,
    job_id=_JOB,
    unit_key="finish",
    kind=JobKind.AUDIT,
    name="badge-reader",
    digest="6d" * 32,
    verdict="fail",
    level="high",
    looser_policy=False,
    has_pictures=True,
    created_at=_LATER,
)
_SIGNED = f"/api/v1/reports/{_REPORT}/pictures/3-reconstruction-0?expires=1898592720&signature={'4e' * 32}"
_PICTURES = PictureRow(
    label=3,
    name="person-003",
    attack="ppa",
    pictures=(Picture(kind="reconstruction", url=_SIGNED, accepted=True),),
)
_POLICY = PolicyView(
    name="release", policy=Policy(name="release", fail_on=RiskLevel.MEDIUM), created_at=_DAY, created_by="ann"
)
_BASELINE = BaselineView(
    model="badge-reader",
    report_id=_REPORT,
    digest="6d" * 32,
    approved_by="bob",
    approved_at=_LATER,
    findings={"attack:ppa": RiskLevel.HIGH},
)
_WAIVER = WaiverView(
    id=_OTHER,
    finding="attack:ppa",
    model="badge-reader",
    reason="The internal pilot ends in May; the repair is planned for the release after it.",
    approver="bob",
    created=_LATER,
    expires=date(2030, 5, 29),
    up_to=RiskLevel.HIGH,
)
_LINE = TrailEntry(
    id=_USER, at=_LATER, who="bob", what="waiver.create", subject=_OTHER, detail={"finding": "attack:ppa"}
)
_RETENTION = Retention(pictures_days=30, private_data_days=90)


def _json(value: Contract) -> dict[str, Any]:
    return value.model_dump(mode="json")


def _page(value: Contract, then: str | None = None) -> dict[str, Any]:
    return {"items": [_json(value)], "next": then}


ANSWERS: Mapping[tuple[str, str], Any] = {
    ("GET", "/health"): _json(Health(status="ok")),
    ("GET", "/ready"): _json(Health(status="ok", checks={"database": "ok", "store": "ok"})),
    ("POST", "/bootstrap"): _json(_ANN),
    ("POST", "/session"): _json(_ME),
    ("GET", "/session"): _json(_ME),
    ("GET", "/tokens"): _page(_TOKEN),
    ("POST", "/tokens"): {"token": _json(_TOKEN), "secret": "aud_told-now-and-never-again"},
    ("GET", "/users"): _page(_ANN),
    ("POST", "/users"): _json(_BOB),
    ("PATCH", "/users/{user_id}"): _json(_BOB.model_copy(update={"role": Role.ADMIN})),
    ("GET", "/teams"): _page(_LOCAL),
    ("POST", "/teams"): _json(TeamView(id=_OTHER, name="vision", created_at=_DAY)),
    ("GET", "/retention"): _json(_RETENTION),
    ("PUT", "/retention"): _json(_RETENTION),
    ("GET", "/audit-log"): _page(_LINE, _NEXT),
    ("GET", "/uploads"): _page(_UPLOAD),
    ("POST", "/uploads"): _json(_UPLOAD.model_copy(update={"received": 0})),
    ("GET", "/uploads/{upload_id}"): _json(_UPLOAD),
    ("PUT", "/uploads/{upload_id}"): _json(_UPLOAD.model_copy(update={"received": 1_048_576, "complete": True})),
    ("GET", "/data-sets"): _page(_DATA_SET),
    ("POST", "/data-sets"): _json(_DATA_SET),
    ("GET", "/data-sets/{name}"): _json(_DATA_SET),
    ("POST", "/audits"): _json(_STARTED),
    ("POST", "/remediations"): _json(_STARTED),
    ("GET", "/submissions"): _page(_SUBMISSION),
    ("GET", "/submissions/{submission_id}"): _json(_SUBMISSION),
    ("GET", "/jobs"): _page(_WAITING),
    ("GET", "/jobs/{job_id}"): _json(_RUNNING),
    ("POST", "/jobs/{job_id}/cancel"): _json(_STOPPING),
    ("POST", "/jobs/{job_id}/resume"): _json(_WAITING),
    ("GET", "/reports"): _page(_ENTRY),
    ("GET", "/reports/{report_id}/entry"): _json(_ENTRY),
    ("GET", "/reports/{report_id}/pictures"): [_json(_PICTURES)],
    ("GET", "/policies"): _page(_POLICY),
    ("GET", "/policies/{name}"): _json(_POLICY),
    ("PUT", "/policies/{name}"): _json(_POLICY),
    ("GET", "/baselines"): _page(_BASELINE),
    ("GET", "/baselines/{model}"): _json(_BASELINE),
    ("PUT", "/baselines/{model}"): _json(_BASELINE),
    ("GET", "/waivers"): _page(_WAIVER),
    ("POST", "/waivers"): _json(_WAIVER),
}
"""What a good request is answered."""


def add_examples(operation: dict[str, Any], method: str, path: str) -> None:
    """Put the examples of one route into its description.

    Args:
        operation: of the route, as OpenAPI has it; changed.
        method: of the route.
        path: of the route.
    """
    body = BODIES.get((method, path))
    if body is not None:
        operation["requestBody"]["content"]["application/json"]["example"] = body
    answer = ANSWERS.get((method, path))
    if answer is not None:
        (good,) = [code for code in operation["responses"] if code.startswith("2")]
        operation["responses"][good]["content"]["application/json"]["example"] = answer
