"""What the policies of a team may be called: names that look alike are alike, and the built-in one has its own."""

from __future__ import annotations

import re

from auditor.contracts.policy import Policy
from auditor.service.accounts import NamedPolicy
from auditor.service.repositories import UnitOfWork

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")
_ALL = 1 << 30


def problems_of_name(policy: Policy) -> list[str]:
    """Why a policy that is not the built-in one cannot be called so."""
    problems = []
    if not _NAME.fullmatch(policy.name):
        problems.append(f"the name '{policy.name[:100]}' is not made of letters, digits, . _ @ and -")
    if policy.name.casefold() == Policy().name and policy != Policy():
        problems.append(f"'{policy.name}' is the built-in policy: give yours another name")
    return problems


def named_alike(tx: UnitOfWork, name: str) -> list[NamedPolicy]:
    """The team's policies of this name, whatever its case."""
    return [row for row in tx.policies.page(_ALL) if row.name.casefold() == name.casefold()]
