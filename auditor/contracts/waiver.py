"""A waiver: somebody answers for one proven finding of one model, for a reason and until a day."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from datetime import date
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from auditor.contracts.base import Contract
from auditor.contracts.policy import RiskLevel

FINDING_FORMS = "attack:KEY, class:NAME or rule:E3.x"
_FINDING = re.compile(r"attack:(control/)?[A-Za-z0-9][A-Za-z0-9._-]{0,63}|rule:E3\.[2-7]|class:\S(.{0,254}\S)?")


_BLANK = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and symbols that show nothing."""
_TURNS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
"""Classes of characters that turn the direction of others."""


def seen(text: str) -> str:
    """The characters of a text that somebody sees, and the spaces between them."""
    return "".join(sign for sign in text if sign.isprintable() and sign not in _BLANK).strip()


def on_one_line(given: str) -> str:
    """The text with single spaces; refuses what shows nothing, or what a terminal or a browser would act on."""
    text = " ".join(given.split())
    if not seen(text):
        raise ValueError("says nothing that can be seen")
    return _shown_as_it_is(text)


def _shown_as_it_is(text: str) -> str:
    if any(unicodedata.category(sign) == "Cc" or unicodedata.bidirectional(sign) in _TURNS for sign in text):
        raise ValueError("holds control characters")
    return text


def _a_finding(given: str) -> str:
    if not _FINDING.fullmatch(given):
        raise ValueError(f"'{given}' is not {FINDING_FORMS}")
    return _shown_as_it_is(given)


Finding = Annotated[str, AfterValidator(_a_finding)]
Words = Annotated[str, StringConstraints(min_length=1, max_length=2000), AfterValidator(on_one_line)]
"""Text of one line; line breaks and other white space become single spaces."""


class Waiver(Contract):
    """One accepted finding."""

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Unique in its file."""
    finding: Finding
    """What it covers: `attack:KEY` (what this attack proves), `class:NAME` (a class that leaks for certain, by name or
    index) or `rule:E3.x` (whatever this rule of the policy raises)."""
    model: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Name of the one model it is for."""
    reason: Words
    approver: Words
    """Who answers for it."""
    created: date
    expires: date
    """The last day on which it counts (UTC)."""
    up_to: RiskLevel = RiskLevel.HIGH
    """A finding of a higher level than this fails in spite of it."""

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> Waiver:
        if self.expires < self.created:
            raise ValueError(f"`expires` ({self.expires}) is before `created` ({self.created})")
        return self


class WaiverFile(Contract):
    """A file of waivers, committed beside the model."""

    version: Literal[1] = 1
    max_days: int = Field(default=366, ge=1)
    """How long any waiver of this file may count, from `created` to `expires`."""
    waivers: tuple[Waiver, ...] = ()

    @model_validator(mode="after")
    def _each_once_and_not_for_ever(self) -> WaiverFile:
        counted = Counter(waiver.id for waiver in self.waivers)
        problems = [f"waiver '{name}' is given {times} times" for name, times in counted.items() if times > 1]
        for waiver in self.waivers:
            days = (waiver.expires - waiver.created).days
            if days > self.max_days:
                problems.append(f"waiver '{waiver.id}' is for {days} days, more than `max_days` ({self.max_days})")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class WaiverState(StrEnum):
    """What became of a waiver when the gate decided."""

    APPLIED = "applied"
    EXPIRED = "expired"
    PENDING = "not yet in force"
    EXCEEDED = "exceeded"
    """The finding is of a higher level than the waiver allows."""
    PARTIAL = "not enough"
    """It covers a class of a finding that fails without this class too."""
    UNUSED = "unused"
    """Nothing that fails is covered by it."""


class WaiverUse(Contract):
    """A waiver of this model, and what became of it."""

    waiver: Waiver
    state: WaiverState
