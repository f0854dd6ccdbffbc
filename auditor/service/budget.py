"""Which attacks of a plan to run in a given time, and in which order; and what a plan cannot show.

The rule, in full. What everything needs (evaluator, judge, judging) is spent first. Then a core without which no
verdict can be a pass is looked for: the strongest adaptive attack at the deployment's access level, and with it the
strongest attacks of other methods, until the policy's `min_attacks` is reached. When that does not fit, cheaper ones
are tried; when none fits, there is no core, and the plan says that it cannot pass. Then the layer scores are added if
they fit, and then one attack after the other that still fits: first those that can count towards a pass, among them
those of a method that is not there yet, then those at the deployment's level, then the strongest, then the quickest. An
attack brings the time of its prior, and of that prior's control, unless another attack has brought them. Controls and
attacks that cannot run are no choice and stay.
A plan that fits as a whole is not touched. Classes and samples are never reduced: they are what intervals are made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from auditor.contracts.access import Access
from auditor.contracts.estimate import AttackEstimate, PlanEstimate
from auditor.contracts.plan import AuditPlan
from auditor.contracts.policy import Thresholds
from auditor.errors import InvalidInput
from auditor.risk.evidence import KNOWLEDGE_FREE
from auditor.service.plans import FISHER, STRENGTH


@dataclass(frozen=True)
class _Choice:
    """Attacks chosen so far, in order, against a budget."""

    estimate: PlanEstimate
    budget_s: float
    keys: tuple[str, ...] = ()
    fisher: bool = False

    @property
    def seconds(self) -> float:
        """Of the chosen attacks with all that they bring."""
        rows = [row for row in self.estimate.attacks if row.key in self.keys and not row.is_control]
        priors = {row.prior for row in rows}
        controls = [row for row in self.estimate.attacks if row.is_control and row.prior in priors]
        steps = [
            step
            for step in self.estimate.steps
            if (step.prior is None or step.prior in priors) and (step.name != FISHER or self.fisher)
        ]
        return sum(row.seconds or 0.0 for row in (*rows, *controls)) + sum(step.seconds for step in steps)

    def plus(self, *rows: AttackEstimate) -> _Choice:
        """With more attacks."""
        return _Choice(self.estimate, self.budget_s, (*self.keys, *(row.key for row in rows)), self.fisher)

    @property
    def fits(self) -> bool:
        """Whether it is within the budget."""
        return self.seconds <= self.budget_s


Order = Callable[[AttackEstimate], tuple[float, ...]]


def cut_to_budget(estimate: PlanEstimate, budget_s: float, thresholds: Thresholds, deployment: Access) -> AuditPlan:
    """The plan with the attacks that give the best evidence within `budget_s`, by the rule above.

    Args:
        estimate: of the whole plan, with rates.
        budget_s: seconds for the whole audit.
        thresholds: of the policy.
        deployment: the access level that the policy's attackers have.

    Raises:
        InvalidInput: not even one attack fits.
    """
    plan = estimate.plan
    rows = [row for row in estimate.attacks if not row.is_control]
    wanted = [row for row in rows if row.runnable and row.seconds is not None]
    if not any(row.runnable for row in rows):
        return plan
    choice = _core(wanted, _Choice(estimate, budget_s), thresholds, deployment)
    if plan.fisher.enabled and any(row.access is Access.WHITE_BOX and row.key in choice.keys for row in rows):
        with_scores = _Choice(estimate, budget_s, choice.keys, fisher=True)
        choice = with_scores if with_scores.fits else choice
    choice = _filled(choice, wanted, thresholds, deployment)
    if not choice.keys:
        least = min((_Choice(estimate, budget_s).plus(row).seconds for row in wanted), default=math.inf)
        raise InvalidInput(
            f"no attack fits into {budget_s:.0f} s: with what it needs, the quickest takes about {least:.0f} s",
            remedy="Give more time, or a smaller plan (`plan.n_classes`, the attacks' parameters).",
        )
    return _cut(plan, choice, estimate.attacks)


def _strongest(row: AttackEstimate) -> tuple[float, ...]:
    return (-STRENGTH.get(row.attack, 0), row.seconds or 0.0)


def _quickest(row: AttackEstimate) -> tuple[float, ...]:
    return (row.seconds or 0.0,)


def _core(rows: Sequence[AttackEstimate], empty: _Choice, t: Thresholds, deployment: Access) -> _Choice:
    """The attacks a pass needs at least, the strongest that fit; `empty` when none do."""
    able = [row for row in rows if _counts(row, t)]
    for order in (_strongest, _quickest):
        for first in sorted((row for row in able if row.adaptive and row.access.covers(deployment)), key=order):
            choice, methods = empty.plus(first), {first.attack}
            for row in sorted(able, key=order):
                if len(methods) < t.min_attacks and row.attack not in methods and choice.plus(row).fits:
                    choice, methods = choice.plus(row), methods | {row.attack}
            if len(methods) >= t.min_attacks and choice.fits:
                return choice
    return empty


def _filled(choice: _Choice, rows: Sequence[AttackEstimate], t: Thresholds, deployment: Access) -> _Choice:
    """`choice` with one attack after the other that still fits."""
    while True:
        methods = {row.attack for row in rows if row.key in choice.keys}
        fitting = [row for row in rows if row.key not in choice.keys and choice.plus(row).fits]
        if not fitting:
            return choice
        choice = choice.plus(
            min(
                fitting,
                key=lambda row: (
                    not _counts(row, t),
                    row.attack in methods,
                    not row.access.covers(deployment),
                    *_strongest(row),
                ),
            )
        )


def _counts(row: AttackEstimate, t: Thresholds) -> bool:
    """Whether the attack can count towards a pass, as far as is known before it ran."""
    return _is_search(row) and not row.unvetted and not _too_light(row, t)


def _is_search(row: AttackEstimate) -> bool:
    return row.runnable and not row.is_control and row.prior not in KNOWLEDGE_FREE


def _too_light(row: AttackEstimate, t: Thresholds) -> bool:
    """Whether its parameters send too little for each picture, however long it runs."""
    return row.effort is not None and row.effort < t.min_queries_per_sample


def _cut(plan: AuditPlan, choice: _Choice, rows: Sequence[AttackEstimate]) -> AuditPlan:
    """The plan with the chosen attacks in their order, those that were no choice after them, and the priors in use."""
    specs = {spec.key: spec for spec in plan.attacks}
    no_choice = [row.key for row in rows if row.key in specs and (row.is_control or not row.runnable)]
    kept = (*choice.keys, *no_choice)
    gone = tuple(key for key in specs if key not in kept)
    used = {row.prior for row in rows if row.key in choice.keys} | {specs[key].prior for key in no_choice}
    fisher = choice.fisher or not plan.fisher.enabled
    if not gone and fisher:
        return plan
    return plan.model_copy(
        update={
            "name": f"{plan.name}+budget",
            "attacks": tuple(specs[key] for key in kept),
            "priors": tuple(prior for prior in plan.priors if prior.name in used) or plan.priors[:1],
            "fisher": plan.fisher.model_copy(update={"enabled": plan.fisher.enabled and choice.fisher}),
            "left_out": (*plan.left_out, *gone, *(() if fisher else (FISHER,))),
        }
    )


def obstacles(
    plan: AuditPlan,
    attacks: Iterable[AttackEstimate],
    n_attacked: int | None,
    thresholds: Thresholds,
    deployment: Access,
) -> tuple[str, ...]:
    """Why this plan cannot end in a pass, whatever it finds; empty where nothing of that is known beforehand."""
    searches = [row for row in attacks if _is_search(row)]
    able = [row for row in searches if _counts(row, thresholds)]
    reaching = [row for row in able if row.access.covers(deployment)]
    alike = [row for row in able if (row.access is Access.SPLIT) == (deployment is Access.SPLIT)]
    n_methods = len({row.attack for row in alike})
    found = []
    if not reaching:
        found.append(f"no attack that can count runs at the deployment's access level ({deployment})")
    elif not any(row.adaptive for row in reaching):
        found.append("no attack at the deployment's level was built to see through a defense")
    if n_methods < thresholds.min_attacks:
        found.append(f"{n_methods} attack method(s) can count, and the policy asks for {thresholds.min_attacks}")
    if found and (light := [f"{row.key} ({row.effort:.0f})" for row in searches if _too_light(row, thresholds)]):
        found.append(
            f"too few queries for each picture to count (the policy asks for {thresholds.min_queries_per_sample}): "
            f"{', '.join(light)}; give more steps, candidates or generations"
        )
    if found and (odd := [f"{row.key} ({', '.join(row.unvetted)})" for row in searches if row.unvetted]):
        found.append(
            f"settings with which the attack was never seen to work, so that it cannot count: {', '.join(odd)}; leave "
            "them at their defaults, or give more steps, candidates or queries"
        )
    if plan.samples_per_class < thresholds.min_seeds:
        found.append(f"{plan.samples_per_class} samples per class, and the policy asks for {thresholds.min_seeds}")
    if n_attacked is not None and n_attacked < thresholds.min_classes:
        found.append(f"{n_attacked} classes are attacked, and the policy asks for {thresholds.min_classes}")
    return tuple(found)
