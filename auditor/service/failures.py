"""Errors across a process boundary: an AuditorError becomes a `Failed` message and comes back as the same class."""

from __future__ import annotations

from auditor.contracts.jobs import Failed
from auditor.errors import AuditorError, InvalidInput


def failure_of(error: AuditorError) -> Failed:
    """The message that carries `error`."""
    problems = error.problems if isinstance(error, InvalidInput) else (error.message,)
    return Failed(code=error.code, problems=problems, remedy=error.remedy, retryable=error.retryable)


def error_of(failure: Failed) -> AuditorError:
    """The error that `failure` carries; a code this version does not know becomes a plain AuditorError."""
    known = _classes(AuditorError)
    cls = known.get(failure.code, AuditorError)
    if issubclass(cls, InvalidInput):
        return cls(failure.problems, remedy=failure.remedy)
    return cls("; ".join(failure.problems), remedy=failure.remedy)


def _classes(base: type[AuditorError]) -> dict[str, type[AuditorError]]:
    table = {base.code: base}
    for child in base.__subclasses__():
        table = _classes(child) | table
    return table
