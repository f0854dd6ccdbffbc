"""What lists tell of stored reports, by today's rules: a verdict of earlier ones is judged anew by its evidence."""

from __future__ import annotations

import logging
from dataclasses import replace

from pydantic import ValidationError

from auditor.contracts.base import code_digest
from auditor.contracts.jobs import JobKind
from auditor.contracts.policy import Verdict
from auditor.errors import AuditorError, StorageAway
from auditor.risk.exit_code import worst_verdict
from auditor.risk.gate import by_its_evidence
from auditor.service.ports import ArtifactStore
from auditor.service.records import StoredReport
from auditor.service.reports import read_audit, read_repair, told_of
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
        """Judge what other code than this process's has judged; returns how many reports that were.

        A report that is lost or cannot be read, as with another key than the one it is encrypted with, settles nothing:
        it passes no longer, and is tried again the next time.

        Raises:
            StorageAway: the store does not answer; nothing is lost by trying again.
        """
        code, count, unread = code_digest(), 0, 0
        while True:
            with self._transactions() as tx:
                found = tx.reports.judged_otherwise(code, _AT_ONCE, skip=unread)
            judged = [self._judged(entry, code) for entry in found]
            with self._transactions() as tx:
                for entry in judged:
                    tx.reports.judge(entry)
            now_unread = sum(entry.judged_by is None for entry in judged)
            unread, count = unread + now_unread, count + len(judged) - now_unread
            if len(found) < _AT_ONCE:
                break
        if unread:
            _LOG.warning("stored reports that cannot be read pass no longer until they can be: %d", unread)
        return count

    def _judged(self, entry: StoredReport, code: str) -> StoredReport:
        try:
            if entry.kind is JobKind.REPAIR:
                told = told_of(read_repair(entry, self._transactions, self._store))
            else:
                told = told_of(by_its_evidence(read_audit(entry, self._store)))
        except StorageAway:
            raise
        except (AuditorError, ValidationError):
            verdict = entry.verdict and worst_verdict([Verdict(entry.verdict), Verdict.INCONCLUSIVE]).value
            return replace(entry, verdict=verdict, judged_by=None)
        return replace(entry, **told._asdict(), judged_by=code)
