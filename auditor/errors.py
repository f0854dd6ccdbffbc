"""One error tree. Each class carries a code, an HTTP status, whether a retry can help, and what the user can do."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Process exit codes of every command (DESIGN section 8)."""

    OK = 0
    GATE_FAILED = 1
    ERROR = 2
    INCONCLUSIVE = 3
    DENIED = 4
    WAIT_TIMEOUT = 5
    INTERRUPTED = 130


class AuditorError(Exception):
    """Base of every error a user can meet.

    Attributes:
        code: stable snake_case identifier, used in JSON and logs.
        http_status: status of an API answer that carries this error.
        retryable: True when the same request may succeed later without a change.
        exit_code: what a command that ends with this error returns.
        remedy: one sentence that says what to do.
        retry_after_s: when a retry is worth trying; None: nobody knows.
    """

    retry_after_s: int | None = None

    code: ClassVar[str] = "internal_error"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[ExitCode] = ExitCode.ERROR
    default_remedy: ClassVar[str] = "This is a defect of the auditor: please report it with the log."

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy if remedy is not None else self.default_remedy


class InvalidInput(AuditorError):
    """Something the user gave cannot be used; all problems found are listed together."""

    code = "invalid_input"
    http_status = 422
    default_remedy = "Correct the listed problems and try again."

    def __init__(self, problems: str | Sequence[str], *, remedy: str | None = None) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("; ".join(self.problems), remedy=remedy)


class RefusedFile(InvalidInput):
    """A model file in a format that could execute code, or that breaks a safety limit."""

    code = "refused_file"


class UnknownName(InvalidInput):
    """A name that is not in a catalog."""

    code = "unknown_name"


class NotFound(AuditorError):
    """An id that does not exist in the store."""

    code = "not_found"
    http_status = 404
    default_remedy = "Look for it in the list of what is there; it may have been removed, or belong to another team."


class AccessDenied(AuditorError):
    """An attack asked a target for more than its access level allows."""

    code = "access_denied"
    http_status = 403
    default_remedy = "Declare the access level the attack needs, or use what its view offers."


class NotSignedIn(AuditorError):
    """Nobody is signed in, or what was given as proof is not valid (any more); which of these is not told."""

    code = "not_signed_in"
    http_status = 401
    exit_code = ExitCode.DENIED
    default_remedy = "Sign in with `auditor login URL`, or give a valid token in AUDITOR_TOKEN."


class NotAllowed(AuditorError):
    """The person is known, and may not do this."""

    code = "not_allowed"
    http_status = 403
    exit_code = ExitCode.DENIED
    default_remedy = "Ask an admin of your team for the role, or use a token with the scope, that is named."


class Conflict(AuditorError):
    """It contradicts what is there: a name that is taken, a part that does not follow, work that is under way."""

    code = "conflict"
    http_status = 409
    default_remedy = "Look at what is there, and choose another name or go on from its state."


class UnderWay(Conflict):
    """The same request came before and is still being worked on."""

    retry_after_s: int | None = 1

    code = "under_way"
    retryable = True
    default_remedy = "Send it again with the same Idempotency-Key until its answer comes."


class TooLarge(AuditorError):
    """A request or a file is over the size limit."""

    code = "too_large"
    http_status = 413
    default_remedy = "Send less at once, or ask the operator to raise the limit."


class TooManyRequests(AuditorError):
    """The rate limit was passed."""

    retry_after_s: int | None = 1

    code = "too_many_requests"
    http_status = 429
    retryable = True
    default_remedy = "Wait as long as the answer's `Retry-After` says, then go on."


class ServerFailure(AuditorError):
    """The server could not be reached, or answered with what is not its protocol."""

    code = "server_failure"
    http_status = 502
    retryable = True
    default_remedy = "Check the server's address (AUDITOR_SERVER_URL, `auditor login URL`) and that it runs."


class NoAuditor(ServerFailure):
    """Something answers at the address, and it is no auditor: a wrong path, another service, a proxy's sign-in page."""

    code = "no_auditor"
    retryable = False


class ProviderUnavailable(AuditorError):
    """The OpenID Connect provider could not be reached, or answered with what is not its protocol."""

    code = "provider_unavailable"
    http_status = 503
    retryable = True
    default_remedy = "Try again in a few minutes, or sign in with a password."


class QueryBudgetExceeded(AuditorError):
    """A target view's query counter would pass its budget; raised before the query is made."""

    code = "query_budget_exceeded"
    http_status = 409
    default_remedy = "Raise `max_queries` in the plan."


class UnsupportedModel(AuditorError):
    """The model can be read but not differentiated: score-level attacks only."""

    code = "unsupported_model"
    http_status = 422
    exit_code = ExitCode.INCONCLUSIVE
    default_remedy = "Export the model with the listed operators only, or submit safetensors with an architecture name."


class StorageFailure(AuditorError):
    """The database or the artifact store could not be read or written."""

    retry_after_s: int | None = 5

    code = "storage_failure"
    http_status = 503
    retryable = True
    default_remedy = "Check the database address, the free disk space and the folder's permissions, then run it again."


class StorageAway(StorageFailure):
    """The artifact store does not answer, or says that it cannot now, as while it restarts."""

    code = "storage_away"


class UnreadableReport(AuditorError):
    """A stored report breaks the contract of this version: an older one let through what this one does not."""

    code = "unreadable_report"
    http_status = 500
    default_remedy = "Read it with the version that wrote it, or run the audit again."


class RunnerFailure(AuditorError):
    """The sandboxed compute process broke its protocol, ran out of time or memory, or left what cannot be used."""

    code = "runner_failure"
    default_remedy = "See the log of the unit; run the audit again, with a smaller batch if memory ran out."


class RunnerDied(RunnerFailure):
    """The sandboxed compute process, or the worker that started it, ended without a word: nobody knows whose fault."""

    code = "runner_died"
    retryable = True


class IllegalMove(AuditorError):
    """A job was to go where its state does not lead."""

    code = "illegal_move"
    http_status = 409


class Cancelled(AuditorError):
    """The job was cancelled or interrupted; finished units are kept."""

    code = "cancelled"
    http_status = 409
    retryable = True
    exit_code = ExitCode.INTERRUPTED
    default_remedy = "Run `auditor submit --resume ID` to go on from the last finished unit."


class WaitTimeout(AuditorError):
    """The wait for a job ran out of time; the job goes on."""

    code = "wait_timeout"
    http_status = 504
    retryable = True
    exit_code = ExitCode.WAIT_TIMEOUT
    default_remedy = "Ask again with `auditor status ID`."


_NO_MEMORY = (
    "DefaultCPUAllocator", "could not create a primitive", "can't start new thread", "std::bad_alloc",
    "Cannot allocate memory",
)  # fmt: skip
"""What torch's allocator, oneDNN, Python, C++ and the system say when there is none left."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether Python, CUDA or torch's CPU allocator had no memory left; needs no torch to tell."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch's, of a GPU
        or any(words in str(error) for words in _NO_MEMORY)
    )
