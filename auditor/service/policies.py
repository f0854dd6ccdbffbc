"""What the policies of a team may be called: names that look alike are alike, and the built-in one has its own."""

from __future__ import annotations

import re

from auditor.contracts.policy import Policy
from auditor.service.accounts import NamedPolicy
from auditor.service.repositories import UnitOfWork

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")
_ALL = 1 << 30


def problems_of_kept(tx: UnitOfWork, policy: Policy) -> list[str]:
    """Why a team cannot keep this policy under its name."""
    problems = _problems_of_name(policy)
    if policy.label != policy.name:
        problems.append(f"'{policy.name}' is the built-in policy: give yours another name")
    alike = [row.name for row in _named_alike(tx, policy.name)]
    if alike and policy.name not in alike:
        problems.append(f"there is a policy '{alike[0]}'; write that one, or choose another name")
    return problems


def problems_of_given(tx: UnitOfWork, policy: Policy) -> list[str]:
    """Why an audit for this team cannot go by a policy that came with it."""
    problems = _problems_of_name(policy)
    teams = [Policy.model_validate(row.policy) for row in _named_alike(tx, policy.name)]
    if teams and policy not in (Policy(), *teams):
        problems.append(f"your team has another policy '{teams[0].name}'; give yours another name, or name the team's")
    return problems


def _problems_of_name(policy: Policy) -> list[str]:
    if _NAME.fullmatch(policy.name):
        return []
    return [f"the name '{policy.name[:100]}' is not made of letters, digits, . _ @ and -"]


def _named_alike(tx: UnitOfWork, name: str) -> list[NamedPolicy]:
    """The team's policies of this name, whatever its case."""
    return [row for row in tx.policies.page(_ALL) if row.name.casefold() == name.casefold()]
