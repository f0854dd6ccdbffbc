"""What the policies of a team may be called: names that look alike are alike, and the built-in one has its own."""

from __future__ import annotations

import re

from pydantic import ValidationError

from auditor.contracts.policy import Policy
from auditor.contracts.problems import problems_in
from auditor.errors import InvalidInput
from auditor.service.accounts import NamedPolicy
from auditor.service.ports import ArtifactStore
from auditor.service.repositories import Transactions, UnitOfWork

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")
_ALL = 1 << 30


def policy_in(record: NamedPolicy) -> Policy:
    """The policy that a team keeps.

    Raises InvalidInput where another version of the auditor kept what this one does not know.
    """
    try:
        return Policy.model_validate(record.policy)
    except ValidationError as error:
        problems = problems_in(error, Policy, where=f"the team's policy '{record.name}' cannot be read")
        raise InvalidInput(problems, remedy="A reviewer removes it, and writes it anew.") from None


def problems_of_kept(tx: UnitOfWork, policy: Policy) -> list[str]:
    """Why a team cannot keep this policy under its name."""
    problems = _problems_of_name(policy)
    if policy.called_default and policy != Policy():
        problems.append(f"names like '{policy.name}' are of the built-in policy: give yours another")
    elif policy.family != policy.name:
        problems.append(f"'{policy.name}' is what `--fail-on` makes of '{policy.family}': give yours another name")
    alike = [row.name for row in _rows(tx) if row.name.casefold() == policy.name.casefold()]
    if alike and policy.name not in alike:
        problems.append(f"there is a policy '{alike[0]}'; write that one, or choose another name")
    return problems


def problems_of_given(tx: UnitOfWork, policy: Policy) -> list[str]:
    """Why an audit for this team cannot go by a policy that came with it."""
    problems = _problems_of_name(policy)
    if policy.name not in (policy.family, f"{policy.family}@{policy.fail_on}"):
        problems.append(f"it is called '{policy.name[:100]}', and fails on {policy.fail_on}")
    if clash := _clash(tx, policy):
        problems.append(f"{clash}; give yours another name, or name the team's")
    return problems


def refuse_replaced(transactions: Transactions, store: ArtifactStore, job_id: str) -> None:
    """Begin nothing anew, and go on with nothing that has stopped, by a policy whose name is another's by now.

    Raises:
        InvalidInput: the team has another policy of that name, or this version cannot read the one of the audit.
    """
    with transactions() as tx:
        digest = tx.submissions.get(tx.jobs.get(job_id).submission_id).inputs["policy.json"]
    data = store.get_bytes(digest)
    try:
        policy = Policy.model_validate_json(data)
        with transactions() as tx:
            clash = _clash(tx, policy)
        problems = [clash] if clash else []
    except ValidationError as error:
        problems = problems_in(error, Policy, where="it cannot be read")
    if problems:
        raise InvalidInput(
            [f"the policy of this audit: {problem}" for problem in problems],
            remedy="Submit the model anew, by a policy of today.",
        )


def _problems_of_name(policy: Policy) -> list[str]:
    if _NAME.fullmatch(policy.family):
        return []
    return [f"the name '{policy.family[:100]}' is not made of letters, digits, . _ @ and -"]


def _clash(tx: UnitOfWork, policy: Policy) -> str:
    """Whether it is called as a policy of the team and is neither that nor what `--fail-on` makes of it; empty: no."""
    if policy.called_default:
        return ""  # people are told what it is, whatever it is called
    derived = policy.family != policy.name
    for row in _rows(tx):
        name = Policy(name=row.name).family if derived else row.name
        if name.casefold() == policy.family.casefold():
            kept = policy_in(row)
            if not policy.decides_like(kept.model_copy(update={"fail_on": policy.fail_on}) if derived else kept):
                return f"your team has another policy '{row.name}'"
    return ""


def _rows(tx: UnitOfWork) -> tuple[NamedPolicy, ...]:
    return tuple(tx.policies.page(_ALL))
