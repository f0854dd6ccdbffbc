"""One transaction over all repositories."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from auditor.db.queue import SqlQueue
from auditor.db.repositories import SqlJobs, SqlOutbox, SqlReferences, SqlReports, SqlSubmissions, SqlUnits
from auditor.errors import StorageFailure


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


class SqlTransactions:
    """Opens transactions on one engine: calling it gives a block that commits at its end or rolls back on an error."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def __call__(self) -> Iterator[SqlUnitOfWork]:
        """One transaction; what the database reports becomes a StorageFailure."""
        try:
            with Session(self._engine, autoflush=False) as session, session.begin():
                yield SqlUnitOfWork(
                    submissions=SqlSubmissions(session),
                    jobs=SqlJobs(session),
                    units=SqlUnits(session),
                    queue=SqlQueue(session),
                    reports=SqlReports(session),
                    outbox=SqlOutbox(session),
                    references=SqlReferences(session),
                )
        except SQLAlchemyError as error:
            raise StorageFailure(f"the database could not be used: {summary_of(error)}") from error


def summary_of(error: SQLAlchemyError) -> str:
    """The first line of what the driver said: no statement, no parameters, no address."""
    text = str(error.orig) if isinstance(error, DBAPIError) else type(error).__name__
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__
