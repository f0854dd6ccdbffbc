"""Waivers: read from a file, and laid over the findings that fail. A waiver changes no number and no level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from auditor.contracts.gate import FindingState, GateFinding
from auditor.contracts.manifest_file import read_contract
from auditor.contracts.plan import AuditPlan
from auditor.contracts.policy import Policy
from auditor.contracts.waiver import Waiver, WaiverFile, WaiverState, WaiverUse
from auditor.risk.assessment import Reading
from auditor.risk.completeness import counts
from auditor.risk.levels import read_level


def read_waivers(path: Path) -> WaiverFile:
    """The waivers in `path`, of all models.

    Raises:
        InvalidInput: every problem, with its line.
    """
    return read_contract(path, WaiverFile, made_by="auditor waive")


@dataclass(frozen=True, slots=True)
class Waived:
    """Findings with waivers laid over them.

    Attributes:
        findings: all of them; those that are covered are waived.
        uses: every waiver of the model, and what became of it.
        aside: by attack, what is left of its reading: None where all that it shows is waived.
    """

    findings: tuple[GateFinding, ...]
    uses: tuple[WaiverUse, ...] = ()
    aside: Mapping[str, Reading | None] = field(default_factory=dict)


def waive(
    findings: Sequence[GateFinding],
    readings: Mapping[str, Reading],
    waivers: Sequence[Waiver],
    *,
    plan: AuditPlan,
    policy: Policy,
    today: date,
) -> Waived:
    """Lay the waivers of this model over `findings`.

    Waivers of an attack or a rule cover a finding alone; those of classes do if the attack without these classes would
    not fail.

    Args:
        findings: what fails.
        readings: by attack key.
        waivers: of this model, in force or not.
        plan: of the audit.
        policy: by which it was decided.
        today: in UTC; a waiver counts from the day it was created through the day it expires.
    """
    in_force = [waiver for waiver in waivers if waiver.created <= today <= waiver.expires]
    covered: list[GateFinding] = []
    aside: dict[str, Reading | None] = {}
    for finding in findings:
        enough = [waiver for waiver in in_force if waiver.up_to.rank >= finding.level.rank]
        by = [waiver for waiver in enough if waiver.finding in (finding.key, f"rule:{finding.rule}")]
        left: Reading | None = None
        if not by and finding.attack in readings:
            by, left = _by_classes(readings[finding.attack], enough, plan, policy)
        if by:
            aside[finding.attack] = left
            state = {"state": FindingState.WAIVED, "waivers": tuple(waiver.id for waiver in by)}
            finding = finding.model_copy(update=state)
        covered.append(finding)
    uses = tuple(WaiverUse(waiver=waiver, state=_state(waiver, covered, readings, today)) for waiver in waivers)
    return Waived(tuple(covered), uses, aside)


def _by_classes(
    reading: Reading, waivers: Sequence[Waiver], plan: AuditPlan, policy: Policy
) -> tuple[list[Waiver], Reading | None]:
    """Waivers of classes without which the attack would not fail, and its reading without them; else none."""
    named = _named(reading)
    by = [waiver for waiver in waivers if waiver.finding in named]
    if not by or reading.given is None:
        return [], None
    left = set(reading.evidence.outcome.named_classes) - {named[waiver.finding] for waiver in by}
    n_classes = max(reading.given.n_classes, 1)
    given = replace(reading.given, any_named=bool(left), f_named=len(left) / n_classes)
    without = replace(reading, given=given, level=read_level(given, policy.thresholds))
    level = without.level.proven
    if level is None and counts(reading.evidence, plan):
        level = without.level.level
    fails = level is not None and level.rank >= policy.fail_on.rank
    return ([], None) if fails else (by, without)


def _named(reading: Reading) -> dict[str, int]:
    """Classes that leak for certain under an attack, by what a waiver may call them."""
    outcome = reading.evidence.outcome
    names = {row.label: row.name for row in outcome.per_class}
    taken = set(names.values())  # a class called "2" is meant by that, and not the one with index 2
    by_index = {f"class:{label}": label for label in outcome.named_classes if str(label) not in taken}
    return by_index | {f"class:{names[label]}": label for label in outcome.named_classes if label in names}


def _state(
    waiver: Waiver, findings: Sequence[GateFinding], readings: Mapping[str, Reading], today: date
) -> WaiverState:
    if today > waiver.expires:
        return WaiverState.EXPIRED
    if today < waiver.created:
        return WaiverState.PENDING
    if any(waiver.id in finding.waivers for finding in findings):
        return WaiverState.APPLIED
    about = [
        finding
        for finding in findings
        if waiver.finding in (finding.key, f"rule:{finding.rule}")
        or (finding.attack in readings and waiver.finding in _named(readings[finding.attack]))
    ]
    if any(finding.level.rank > waiver.up_to.rank for finding in about):
        return WaiverState.EXCEEDED
    open_ones = [finding for finding in about if finding.state is FindingState.FAILING]
    return WaiverState.PARTIAL if open_ones else WaiverState.UNUSED
