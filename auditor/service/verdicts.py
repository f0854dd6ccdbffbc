"""Verdicts that earlier rules gave to stored reports are judged anew, so that lists tell what today's rules say."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from auditor.contracts.jobs import JobKind
from auditor.errors import AuditorError, NotFound, StorageAway
from auditor.risk.gate import by_its_evidence
from auditor.risk.rules import RULES
from auditor.service.ports import ArtifactStore
from auditor.service.records import StoredReport
from auditor.service.reports import audits_of_repair, read_audit, read_repair, told_of
from auditor.service.repositories import Transactions

_LOG = logging.getLogger("auditor.verdicts")
_AT_ONCE = 50


class Verdicts:
    """Judges stored reports.

    Args:
        transactions: the database.
        store: the reports.
    """

    def __init__(self, *, transactions: Transactions, store: ArtifactStore) -> None:
        self._transactions = transactions
        self._store = store

    def judge_anew(self) -> int:
        """Judge every report that earlier rules have judged; returns how many that were.

        One that cannot be read, as with another key, stays as it is: lists tell no pass of it, the log says why, and
        the next start tries again. While the store is away, nothing is tried any more.
        """
        judged = unread = 0
        while found := self._judged_before(skip=unread):
            for entry in found:
                try:
                    anew = self._judged(entry)
                except Exception as error:
                    unread += 1
                    if unread == 1:
                        _warn(entry, error)
                    if isinstance(error, StorageAway):
                        return judged
                else:
                    judged += 1
                    with self._transactions() as tx:
                        tx.reports.judge(anew)
        return judged

    def _judged_before(self, *, skip: int) -> Sequence[StoredReport]:
        with self._transactions() as tx:
            return tx.reports.judged_before(RULES, _AT_ONCE, skip=skip)

    def _judged(self, entry: StoredReport) -> StoredReport:
        """A repair goes by its audits, which are older and so were judged before it."""
        if entry.kind is JobKind.AUDIT:
            told = told_of(by_its_evidence(read_audit(entry, self._store)))
        else:
            with self._transactions() as tx:
                audits = audits_of_repair(entry, tx).values()
            if any(audit.rules < RULES and not audit.is_trial for audit in audits):
                raise NotFound("an audit of this repair could not be judged")
            told = told_of(read_repair(entry, self._transactions, self._store))
        return replace(entry, **told._asdict(), rules=RULES)


def _warn(entry: StoredReport, error: Exception) -> None:
    words = f"{error.message} {error.remedy}" if isinstance(error, AuditorError) else f"{type(error).__name__}: {error}"
    _LOG.warning(
        "the report %s of job %s, and maybe others, cannot be judged by today's rules, so lists tell no pass of it: %s",
        entry.report_id[:12],
        entry.job_id[:12],
        words[:500],
    )
