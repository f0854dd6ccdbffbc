"""A verdict to a process exit code: computed before, and independently of, any output format."""

from __future__ import annotations

from collections.abc import Iterable

from auditor.contracts.policy import Verdict
from auditor.contracts.report import RiskVerdict
from auditor.errors import ExitCode

_CODES = {Verdict.PASS: ExitCode.OK, Verdict.FAIL: ExitCode.GATE_FAILED, Verdict.INCONCLUSIVE: ExitCode.INCONCLUSIVE}
_ORDER = (ExitCode.OK, ExitCode.INCONCLUSIVE, ExitCode.GATE_FAILED)


def exit_code(verdict: Verdict | RiskVerdict, *, exit_zero: bool = False, allow_inconclusive: bool = False) -> ExitCode:
    """0 pass, 1 fail, 3 inconclusive.

    Args:
        verdict: what was decided.
        exit_zero: turns 1 into 0, and nothing else.
        allow_inconclusive: turns 3 into 0, and nothing else.
    """
    code = _CODES[verdict.verdict if isinstance(verdict, RiskVerdict) else verdict]
    if (exit_zero and code is ExitCode.GATE_FAILED) or (allow_inconclusive and code is ExitCode.INCONCLUSIVE):
        return ExitCode.OK
    return code


def worst_verdict(verdicts: Iterable[Verdict]) -> Verdict:
    """The one that decides among several: fail over inconclusive over pass (1 > 3 > 0). None at all: inconclusive."""
    return max(verdicts, key=lambda verdict: _ORDER.index(_CODES[verdict]), default=Verdict.INCONCLUSIVE)
