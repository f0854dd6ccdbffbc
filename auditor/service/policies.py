"""What the policies of a team may be called: names that look alike are alike, and the built-in one has its own."""

from __future__ import annotations

import re

from pydantic import ValidationError

from auditor.contracts.jobs import JobKind
from auditor.contracts.policy import Policy
from auditor.contracts.problems import problems_in
from auditor.errors import InvalidInput
from auditor.service.accounts import NamedPolicy
from auditor.service.ports import ArtifactStore
from auditor.service.records import Job
from auditor.service.repositories import UnitOfWork

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
        raise InvalidInput(problems, remedy="A reviewer writes it anew, or removes it.") from None


def problems_of_kept(tx: UnitOfWork, policy: Policy) -> list[str]:
    """Why a team cannot keep this policy under its name."""
    problems = _problems_of_name(policy)
    if not problems and policy.label != policy.name:
        problems.append(f"names like '{policy.name}' are of the built-in policy: give yours another")
    elif policy.family != policy.name:
        problems.append(f"'{policy.name}' is what `--fail-on` makes of '{policy.family}': give yours another name")
    alike = [row.name for row in _named_alike(tx, policy.name)]
    if alike and policy.name not in alike:
        problems.append(f"there is a policy '{alike[0]}'; write that one, or choose another name")
    return problems


def problems_of_given(tx: UnitOfWork, policy: Policy) -> list[str]:
    """Why an audit for this team cannot go by a policy that came with it."""
    clashes = [f"{clash}; give yours another name, or name the team's" for clash in _clashes(tx, policy)]
    return [*_problems_of_name(policy), *clashes]


def refuse_replaced(tx: UnitOfWork, store: ArtifactStore, job: Job) -> None:
    """Do not go on with an audit, or run it again, by a policy whose name is that of another one by now.

    A repair goes by the policy of the audit that it repairs.

    Raises:
        InvalidInput: the team has another policy of that name, or this version cannot read the audit's.
    """
    if job.kind is not JobKind.AUDIT:
        return
    data = store.get_bytes(tx.submissions.get(job.submission_id).inputs["policy.json"])
    try:
        problems = _clashes(tx, Policy.model_validate_json(data))
    except ValidationError as error:
        problems = problems_in(error, Policy, where="it cannot be read")
    if problems:
        raise InvalidInput(
            [f"the policy of this audit: {problem}" for problem in problems],
            remedy="Submit the model anew, by a policy of today.",
        )


def _problems_of_name(policy: Policy) -> list[str]:
    if _NAME.fullmatch(policy.name):
        return []
    return [f"the name '{policy.name[:100]}' is not made of letters, digits, . _ @ and -"]


def _clashes(tx: UnitOfWork, policy: Policy) -> list[str]:
    """Whether it is called as a policy of the team and is neither that nor what `--fail-on` makes of it."""
    if policy.label != policy.name or policy == Policy().failing_on(policy.fail_on):
        return []  # people are told what it is, whatever it is called
    alike = [*_named_alike(tx, policy.name), *_named_alike(tx, policy.family)]
    if not alike or policy in [policy_in(row).failing_on(policy.fail_on) for row in alike]:
        return []
    return [f"your team has another policy '{alike[0].name}'"]


def _named_alike(tx: UnitOfWork, name: str) -> list[NamedPolicy]:
    """The team's policies of this name, whatever its case."""
    return [row for row in tx.policies.page(_ALL) if row.name.casefold() == name.casefold()]
