"""One transaction over all repositories."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from auditor.db import account_models as rows
from auditor.db.models import Base, TeamRow
from auditor.db.queue import SqlQueue
from auditor.db.repositories import SqlJobs, SqlOutbox, SqlReferences, SqlSubmissions, SqlUnits
from auditor.db.stored_reports import SqlReports
from auditor.db.tables import SqlTable
from auditor.errors import StorageFailure
from auditor.service import accounts
from auditor.service.accounts import Record
from auditor.service.repositories import Transactions

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class SqlUnitOfWork:
    """The repositories of one open transaction."""

    submissions: SqlSubmissions
    jobs: SqlJobs
    units: SqlUnits
    queue: SqlQueue
    reports: SqlReports
    outbox: SqlOutbox
    references: SqlReferences
    teams: SqlTable[accounts.Team]
    users: SqlTable[accounts.User]
    tokens: SqlTable[accounts.Token]
    sessions: SqlTable[accounts.BrowserSession]
    trail: SqlTable[accounts.Trail]
    uploads: SqlTable[accounts.Upload]
    data_sets: SqlTable[accounts.DataSet]
    policies: SqlTable[accounts.NamedPolicy]
    baselines: SqlTable[accounts.Baseline]
    waivers: SqlTable[accounts.StoredWaiver]
    answers: SqlTable[accounts.Answer]


class SqlTransactions:
    """Opens transactions on one engine: calling it gives a block that commits at its end or rolls back on an error."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __call__(self) -> AbstractContextManager[SqlUnitOfWork]:
        """A transaction that sees every team."""
        return self._open(None)

    def of_team(self, team_id: str) -> Transactions:
        """Transactions in which nothing but this team's rows exists."""
        return partial(self._open, team_id)

    @contextmanager
    def _open(self, team_id: str | None) -> Iterator[SqlUnitOfWork]:
        """One transaction; what the database reports becomes a StorageFailure."""
        try:
            with Session(self._engine, autoflush=False) as session, session.begin():
                yield _work(session, team_id)
        except SQLAlchemyError as error:
            raise StorageFailure(f"the database could not be used: {summary_of(error)}") from error


def _work(session: Session, team_id: str | None) -> SqlUnitOfWork:
    def table(record: type[R], row: type[Base]) -> SqlTable[R]:
        return SqlTable(session, record, row, team_id)

    return SqlUnitOfWork(
        submissions=SqlSubmissions(session, team_id),
        jobs=SqlJobs(session, team_id),
        units=SqlUnits(session, team_id),
        queue=SqlQueue(session),
        reports=SqlReports(session, team_id),
        outbox=SqlOutbox(session, team_id),
        references=SqlReferences(session),
        teams=table(accounts.Team, TeamRow),
        users=table(accounts.User, rows.UserRow),
        tokens=table(accounts.Token, rows.TokenRow),
        sessions=table(accounts.BrowserSession, rows.SessionRow),
        trail=table(accounts.Trail, rows.TrailRow),
        uploads=table(accounts.Upload, rows.UploadRow),
        data_sets=table(accounts.DataSet, rows.DataSetRow),
        policies=table(accounts.NamedPolicy, rows.PolicyRow),
        baselines=table(accounts.Baseline, rows.BaselineRow),
        waivers=table(accounts.StoredWaiver, rows.WaiverRow),
        answers=table(accounts.Answer, rows.AnswerRow),
    )


def summary_of(error: SQLAlchemyError) -> str:
    """The first line of what the driver said: no statement, no parameters, no address."""
    text = str(error.orig) if isinstance(error, DBAPIError) else type(error).__name__
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__
