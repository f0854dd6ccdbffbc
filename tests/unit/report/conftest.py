"""Reports under every decision that the gate can come to."""

from __future__ import annotations

from datetime import date
from functools import cache

import pytest

from auditor.cli.gating import Gating, gated
from auditor.contracts.outcome import OutcomeStatus
from auditor.contracts.policy import Verdict
from auditor.risk.gate import decide_gate
from auditor.testing.reports import LIFTS, sample_attacks, sample_outcome, sample_report
from auditor.testing.waivers import TODAY, waivers_of_all

DECISIONS = (
    "pass", "fail", "inconclusive", "waived", "partly waived", "expired", "known", "regression", "crashed",
    "crashed and waived", "named", "others", "stored fail", "stored inconclusive",
)  # fmt: skip


def _found(label):
    """An audit whose first attacks find one person whenever they try, and nobody else."""
    first, second, *others = sample_attacks(LIFTS[Verdict.FAIL])
    rows = tuple(row.model_copy(update={"both": float(row.label == label)}) for row in first.per_class)
    found = (outcome.model_copy(update={"per_class": rows}) for outcome in (first, second))
    return sample_report(attacks=(*found, *others))


@cache
def report_under(name):
    """A report whose gate came to the decision of this name."""
    if name in list(Verdict):
        return sample_report(Verdict(name))
    gone = {"status": OutcomeStatus.FAILED, "reason": "out of luck", "scores": (), "per_class": ()}
    crashed = tuple(
        outcome.model_copy(update=gone) if outcome.key == "mirror-b" else outcome
        for outcome in sample_attacks(LIFTS[Verdict.FAIL])
    )
    if name.startswith("stored"):
        passes, worse = sample_report(Verdict.PASS), sample_report(Verdict(name.removeprefix("stored ")))
        return decide_gate(passes.model_copy(update={"verdict": worse.verdict}), passes.policy)
    if name == "named":
        return sample_report(attacks=(sample_outcome("ppa", named=(3, 4)), *sample_attacks()[1:]))
    if name == "crashed":
        return sample_report(attacks=crashed)
    if name == "known":
        return gated(sample_report(), Gating(None, sample_report()))
    if name == "others":
        return gated(_found(9), Gating(None, _found(8)))
    if name == "regression":
        return gated(sample_report(lift=(0.45, 0.40, 0.49)), Gating(None, sample_report()))
    report = sample_report(attacks=crashed) if name.startswith("crashed") else sample_report()
    waivers = waivers_of_all("ppa", "ppa-averaged") if name == "partly waived" else waivers_of_all()
    today = date(2027, 1, 1) if name == "expired" else TODAY
    return decide_gate(report, report.policy, waivers=waivers, today=today)


@pytest.fixture(params=DECISIONS)
def decided(request):
    """Each of them in turn."""
    return report_under(request.param)


@pytest.fixture
def under():
    """One of them by name."""
    return report_under
