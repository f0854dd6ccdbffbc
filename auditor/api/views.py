"""Records as the API shows them."""

from __future__ import annotations

from auditor.contracts.people import OpenIdView, Retention, Scope, TeamView, TokenView, TrailEntry, UserView
from auditor.contracts.policy import RiskLevel
from auditor.contracts.service import (
    BaselineView,
    DataSetView,
    PolicyView,
    ReportView,
    SubmissionView,
    UploadView,
    WaiverView,
)
from auditor.errors import InvalidInput
from auditor.service.accounts import Baseline, DataSet, NamedPolicy, StoredWaiver, Team, Token, Trail, Upload, User
from auditor.service.policies import policy_in
from auditor.service.records import Place, StoredReport, Submission


def place_of(record: Team | User | Token | Trail | Upload | DataSet | NamedPolicy | Baseline | StoredWaiver) -> Place:
    """Where a record stands in a list."""
    return record.created_at, record.id


def team_view(team: Team) -> TeamView:
    """A team."""
    return TeamView(id=team.id, name=team.name, created_at=team.created_at.isoformat())


def retention_of(team: Team) -> Retention:
    """For how long it keeps what is sensitive."""
    return Retention(pictures_days=team.pictures_days, private_data_days=team.private_data_days)


def user_view(user: User) -> UserView:
    """A person."""
    external = user.email is not None or user.subject is not None
    return UserView(
        id=user.id,
        name=user.name,
        role=user.role,
        disabled=user.disabled,
        created_at=user.created_at.isoformat(),
        openid=OpenIdView(email=user.email, issuer=user.issuer, subject=user.subject) if external else None,
    )


def token_view(token: Token, user: str) -> TokenView:
    """A token of the person called `user`."""
    return TokenView(
        id=token.id,
        name=token.name,
        user=user,
        scopes=tuple(Scope(scope) for scope in token.scopes),
        created_at=token.created_at.isoformat(),
        expires_at=token.expires_at.isoformat(),
        last_used_at=None if token.last_used_at is None else token.last_used_at.isoformat(),
        revoked=token.revoked_at is not None,
    )


def trail_entry(line: Trail) -> TrailEntry:
    """A line of the audit log."""
    return TrailEntry(
        id=line.id,
        at=line.created_at.isoformat(),
        who=line.who,
        what=line.what,
        subject=line.subject,
        detail=line.detail,
    )


def upload_view(upload: Upload) -> UploadView:
    """An upload."""
    return UploadView(
        id=upload.id,
        name=upload.name,
        size=upload.size,
        sha256=upload.sha256,
        received=upload.received,
        complete=upload.complete,
        created_at=upload.created_at.isoformat(),
    )


def data_set_view(data_set: DataSet) -> DataSetView:
    """A data set."""
    return DataSetView(
        name=data_set.name,
        sha256=data_set.digests["data.npz"],
        size=data_set.size,
        created_at=data_set.created_at.isoformat(),
        created_by=data_set.created_by,
    )


def submission_view(submission: Submission) -> SubmissionView:
    """A checked model file."""
    return SubmissionView(
        id=submission.id, name=submission.name, created_at=submission.created_at.isoformat(), target=submission.target
    )


def report_view(report: StoredReport) -> ReportView:
    """The entry of a report."""
    return ReportView(
        report_id=report.report_id,
        job_id=report.job_id,
        unit_key=report.unit_key,
        kind=report.kind,
        name=report.name,
        digest=report.digest,
        verdict=report.verdict,
        level=report.level,
        looser_policy=report.looser_policy,
        has_pictures=report.gallery_digest is not None,
        created_at=report.created_at.isoformat(),
    )


def policy_view(record: NamedPolicy) -> PolicyView:
    """A named policy, or why this version cannot read it."""
    policy, problem = None, ""
    try:
        policy = policy_in(record)
    except InvalidInput as error:
        problem = str(error)
    return PolicyView(
        name=record.name,
        policy=policy,
        problem=problem,
        created_at=record.created_at.isoformat(),
        created_by=record.created_by,
    )


def baseline_view(record: Baseline) -> BaselineView:
    """The approved audit of a model."""
    return BaselineView(
        model=record.name,
        report_id=record.report_id,
        digest=record.digest,
        approved_by=record.approver,
        approved_at=record.created_at.isoformat(),
        findings={key: RiskLevel(level) for key, level in record.findings.items()},
    )


def waiver_view(record: StoredWaiver) -> WaiverView:
    """A waiver."""
    return WaiverView(
        id=record.id,
        finding=record.finding,
        model=record.model,
        reason=record.reason,
        approver=record.approver,
        created=record.created_at.isoformat(),
        expires=record.last_day,
        up_to=RiskLevel(record.up_to),
    )
