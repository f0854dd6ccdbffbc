"""Use-cases of a reviewer: policies, baselines, waivers, and looking at reconstructions; each is written down."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from auditor.contracts.jobs import JobKind, JobState
from auditor.contracts.policy import Policy, RiskLevel
from auditor.contracts.report import AuditReport
from auditor.contracts.service import NewWaiver
from auditor.contracts.waiver import Waiver
from auditor.errors import InvalidInput, NotFound
from auditor.risk.gate import decide_gate
from auditor.service.accounts import Baseline, NamedPolicy, StoredWaiver
from auditor.service.people import Identity
from auditor.service.ports import Clock
from auditor.service.repositories import Database, UnitOfWork
from auditor.service.trail import note

R = TypeVar("R")
_MANY = 10_000
"""Waivers of one model."""


class Reviews:
    """What is decided in the name of one person in their team.

    Args:
        database: the database.
        clock: the time.
        me: who decides.
    """

    def __init__(self, *, database: Database, clock: Clock, me: Identity) -> None:
        self._transactions = database.of_team(me.team.id)
        self._clock = clock
        self._me = me

    def write_policy(self, name: str, policy: Policy) -> NamedPolicy:
        """Store a policy under a name, in place of the one that was there."""
        record = NamedPolicy(
            secrets.token_hex(16),
            self._clock.now(),
            self._me.team.id,
            name,
            policy.model_dump(mode="json"),
            self._me.user.name,
        )
        with self._noted("policy.write", name) as tx:
            before = tx.policies.find(name=name)
            if before is not None:
                tx.policies.remove(before.id)
            tx.policies.add(record)
        return record

    def remove_policy(self, name: str) -> None:
        """Raises NotFound where there is none of this name."""
        with self._noted("policy.remove", name) as tx:
            tx.policies.remove(found_by_name(tx.policies.find(name=name), "policy", name).id)

    def approve(self, model: str, reference: str) -> Baseline:
        """Make an audit the one that later ones of this model are compared with.

        Raises:
            NotFound: no such report.
            InvalidInput: it is not the report of a finished audit of this model.
        """
        with self._noted("baseline.approve", model) as tx:
            report = tx.reports.find(reference)
            problems = []
            if report.kind is not JobKind.AUDIT:
                problems.append(f"'{reference}' is the report of a repair: approve its audit, or audit what it made")
            if report.name != model:
                problems.append(f"'{reference}' is about the model '{report.name}', not '{model}'")
            if tx.jobs.get(report.job_id).state is not JobState.DONE:
                problems.append(f"the job of '{reference}' has not finished")
            if problems:
                raise InvalidInput(problems, remedy="Approve the report of a finished audit of this model.")
            before = tx.baselines.find(name=model)
            if before is not None:
                tx.baselines.remove(before.id)
            record = Baseline(
                secrets.token_hex(16),
                self._clock.now(),
                self._me.team.id,
                model,
                report.report_id,
                report.job_id,
                self._me.user.name,
            )
            tx.baselines.add(record)
        return record

    def withdraw_baseline(self, model: str) -> None:
        """Raises NotFound where there is none."""
        with self._noted("baseline.withdraw", model) as tx:
            tx.baselines.remove(found_by_name(tx.baselines.find(name=model), "baseline", model).id)

    def waive(self, request: NewWaiver) -> StoredWaiver:
        """Let a finding through today and for so many days more, each to its end (UTC)."""
        now = self._clock.now()
        waiver = StoredWaiver(
            id=secrets.token_hex(16),
            created_at=now,
            team_id=self._me.team.id,
            finding=request.finding,
            model=request.model,
            reason=request.reason,
            approver=self._me.user.name,
            expires_at=now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=request.days + 1),
            up_to=request.up_to,
        )
        with self._noted("waiver.create", waiver.id, finding=waiver.finding, model=waiver.model) as tx:
            tx.waivers.add(waiver)
        return waiver

    def withdraw_waiver(self, waiver_id: str) -> None:
        """Raises NotFound where there is none."""
        with self._noted("waiver.withdraw", waiver_id) as tx:
            tx.waivers.get(waiver_id)
            tx.waivers.remove(waiver_id)

    def decided(self, report: AuditReport) -> AuditReport:
        """The report as the gate decides with the team's waivers of today; as it is where there are none."""
        with self._transactions() as tx:
            stored = tx.waivers.page(_MANY, model=report.target.name)
        if not stored:
            return report
        waivers = tuple(waiver_of(record) for record in stored)
        return decide_gate(report, report.policy, waivers=waivers, today=self._clock.now().date())

    def note_view(self, report_id: str, picture: str) -> None:
        """Somebody looks at a picture."""
        with self._noted("picture.view", report_id, picture=picture):
            pass

    @contextmanager
    def _noted(self, what: str, subject: str, **detail: str) -> Iterator[UnitOfWork]:
        """A transaction that ends with a line in the audit log."""
        with self._transactions() as tx:
            yield tx
            note(tx, self._me.user, what, subject, self._clock.now(), **detail)


def waiver_of(record: StoredWaiver) -> Waiver:
    """A stored waiver as the gate reads it."""
    return Waiver(
        id=record.id,
        finding=record.finding,
        model=record.model,
        reason=record.reason,
        approver=record.approver,
        created=record.created_at.date(),
        expires=(record.expires_at - timedelta(microseconds=1)).date(),
        up_to=RiskLevel(record.up_to),
    )


def found_by_name(record: R | None, noun: str, name: str) -> R:
    """`record`, or NotFound."""
    if record is None:
        raise NotFound(f"there is no {noun} '{name}'")
    return record
