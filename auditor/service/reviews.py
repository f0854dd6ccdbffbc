"""Use-cases of a reviewer: policies, baselines, waivers, and looking at reconstructions; each is written down."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from pydantic import ValidationError

from auditor.contracts.gate import Approval, FindingState
from auditor.contracts.jobs import JobKind, JobState
from auditor.contracts.policy import Policy, RiskLevel
from auditor.contracts.report import AuditReport
from auditor.contracts.service import NewWaiver
from auditor.contracts.waiver import Waiver
from auditor.errors import InvalidInput, NotFound, StorageAway, StorageFailure, UnreadableReport
from auditor.risk.baseline import shortcomings
from auditor.risk.gate import Baseline as Compared
from auditor.risk.gate import by_its_evidence, decide_gate
from auditor.service.accounts import Baseline, NamedPolicy, StoredWaiver
from auditor.service.audits import require_full
from auditor.service.baselines import compared
from auditor.service.people import Identity
from auditor.service.policies import problems_of_kept
from auditor.service.ports import ArtifactStore, Clock
from auditor.service.records import StoredReport
from auditor.service.reports import read_audit
from auditor.service.repositories import Database, Table, UnitOfWork
from auditor.service.trail import note

N = TypeVar("N", NamedPolicy, Baseline)
R = TypeVar("R")
_MANY = 10_000
"""Waivers of one model."""
APPROVE_ONE = "A reviewer approves a complete audit on its page, or with PUT /api/v1/baselines/MODEL."


class Reviews:
    """What is decided in the name of one person in their team.

    Args:
        database: the database.
        store: the reports.
        clock: the time.
        me: who decides.
    """

    def __init__(self, *, database: Database, store: ArtifactStore, clock: Clock, me: Identity) -> None:
        self._transactions = database.of_team(me.team.id)
        self._store = store
        self._clock = clock
        self._me = me

    def write_policy(self, policy: Policy) -> NamedPolicy:
        """Store a policy under its name, in place of the one that was there.

        Raises InvalidInput where no audit could ask for it by that name.
        """
        name = policy.name
        record = NamedPolicy(
            secrets.token_hex(16),
            self._clock.now(),
            self._me.team.id,
            name,
            policy.model_dump(mode="json"),
            self._me.user.name,
        )
        with self._noted("policy.write", name) as tx:
            if problems := problems_of_kept(tx, policy):
                raise InvalidInput([f"name: {problem}" for problem in problems])
            self._replace(tx, tx.policies, record, name)
        return record

    def remove_policy(self, name: str) -> None:
        """Raises NotFound where there is none of this name."""
        with self._noted("policy.remove", name) as tx:
            tx.policies.remove(found_by_name(tx.policies.find(name=name), "policy", name).id)

    def approve(self, model: str, reference: str) -> Baseline:
        """Make an audit the one that later ones of this model are compared with.

        What fails in it today, and is not waived, is let through from now on; what a waiver covers stays with the
        waiver, and fails again when that is over.

        Raises:
            NotFound: no such report.
            InvalidInput: it is not the report of a finished, complete audit of this model.
        """
        with self._noted("baseline.approve", model) as tx:
            report = tx.reports.find(reference)
            problems = []
            if report.kind is not JobKind.AUDIT:
                problems.append(f"'{reference}' is the report of a repair: approve its audit, or audit what it made")
            if report.name != model:
                problems.append(f"'{reference}' is about the model '{report.name}', not '{model}'")
            if report.is_trial:
                problems.append(f"'{reference}' is a quick trial of a repair, not a full audit")
            if tx.jobs.get(report.job_id).state is not JobState.DONE:
                problems.append(f"the job of '{reference}' has not finished")
            audit = None if report.kind is not JobKind.AUDIT else self._read(report)
            problems += [] if audit is None else shortcomings(audit)
            if problems or audit is None:
                raise InvalidInput(problems, remedy="Approve the report of a finished audit of this model.")
            failing = self._with_waivers(tx, audit).decision.having(FindingState.FAILING)
            record = Baseline(
                secrets.token_hex(16),
                self._clock.now(),
                self._me.team.id,
                model,
                report.report_id,
                report.job_id,
                self._me.user.name,
                {finding.key: str(finding.level) for finding in failing},
                report.digest,
            )
            self._replace(tx, tx.baselines, record, model)
        return record

    def withdraw_baseline(self, model: str) -> None:
        """Raises NotFound where there is none."""
        with self._noted("baseline.withdraw", model) as tx:
            tx.baselines.remove(found_by_name(tx.baselines.find(name=model), "baseline", model).id)

    def waive(self, request: NewWaiver, request_id: str | None = None) -> StoredWaiver:
        """Let a finding through today and for so many days more, each to its end (UTC).

        Args:
            request: what is let through.
            request_id: becomes its id, so that no request makes two; the one that is there already is returned.
        """
        now = self._clock.now()
        waiver = StoredWaiver(
            id=request_id or secrets.token_hex(16),
            created_at=now,
            team_id=self._me.team.id,
            finding=request.finding,
            model=request.model,
            reason=request.reason,
            approver=self._me.user.name,
            expires_at=now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=request.days + 1),
            up_to=request.up_to,
        )
        with self._transactions() as tx:
            made = tx.waivers.find(id=waiver.id)
            if made is not None:
                return made
            tx.waivers.add(waiver)
            note(tx, self._me.user, "waiver.create", waiver.id, now, finding=waiver.finding, model=waiver.model)
        return waiver

    def withdraw_waiver(self, waiver_id: str) -> None:
        """Raises NotFound where there is none."""
        with self._noted("waiver.withdraw", waiver_id) as tx:
            tx.waivers.get(waiver_id)
            tx.waivers.remove(waiver_id)

    def decided(self, report: AuditReport, *, against_baseline: bool = False) -> AuditReport:
        """The report as the gate decides with the team's waivers of today; where there are none, see `by_its_evidence`.

        Args:
            report: as stored.
            against_baseline: fail only on what is worse than the audit that is approved as the model's baseline.

        Raises:
            NotFound: no baseline is approved, or it cannot be read any more.
            InvalidInput: the approved one cannot be compared with this audit, or is none that may be approved.
        """
        model = report.target.name
        with self._transactions() as tx:
            if not against_baseline:
                return self._with_waivers(tx, report)
            approved = tx.baselines.find(name=model)
            if approved is None:
                raise NotFound(f"no audit is approved as the baseline of '{model}'", remedy=APPROVE_ONE)
            try:
                entry = tx.reports.find(approved.digest)
                before = self._read(entry)
            except StorageAway:
                raise
            except (NotFound, StorageFailure, UnreadableReport) as error:
                text = f"the audit that is approved as the baseline of '{model}': {error}"
                raise NotFound(text, remedy=APPROVE_ONE) from None
            require_full(entry, approved.digest[:12])
            baseline = compared(before, report, approval_of(approved))
            return self._with_waivers(tx, report, baseline)

    def _with_waivers(self, tx: UnitOfWork, report: AuditReport, baseline: Compared | None = None) -> AuditReport:
        stored = tx.waivers.page(_MANY, model=report.target.name)
        waivers = tuple(waiver for record in stored if (waiver := waiver_of(record)) is not None)
        if not waivers and baseline is None:
            return by_its_evidence(report)
        today = self._clock.now().date()
        return decide_gate(report, report.policy, waivers=waivers, baseline=baseline, today=today)

    def _read(self, entry: StoredReport) -> AuditReport:
        return read_audit(entry, self._store)

    def note_view(self, report_id: str, picture: str) -> None:
        """Somebody looks at a picture."""
        with self._noted("picture.view", report_id, picture=picture):
            pass

    def _replace(self, tx: UnitOfWork, table: Table[N], record: N, name: str) -> None:
        """Put a record in place of the one of its name; of two at the same moment, the later one stays."""
        tx.teams.get(self._me.team.id, lock=True)
        before = table.find(name=name)
        if before is not None:
            table.remove(before.id)
        table.add(record)

    @contextmanager
    def _noted(self, what: str, subject: str, **detail: str) -> Iterator[UnitOfWork]:
        """A transaction that ends with a line in the audit log."""
        with self._transactions() as tx:
            yield tx
            note(tx, self._me.user, what, subject, self._clock.now(), **detail)


def waiver_of(record: StoredWaiver) -> Waiver | None:
    """A stored waiver as the gate reads it; None where it is not one, such as one without a reason."""
    given = {name: getattr(record, name) for name in ("id", "finding", "model", "reason", "approver", "up_to")}
    given |= {"created": record.created_at.date(), "expires": record.last_day}
    try:
        return Waiver.model_validate(given)
    except ValidationError:
        return None


def approval_of(record: Baseline) -> Approval:
    """A stored baseline's approval as the gate reads it."""
    findings = {key: RiskLevel(level) for key, level in record.findings.items()}
    return Approval(approver=record.approver, approved=record.created_at.date(), findings=findings)


def found_by_name(record: R | None, noun: str, name: str) -> R:
    """`record`, or NotFound."""
    if record is None:
        raise NotFound(f"there is no {noun} '{name}'")
    return record
