"""The gate's decision on one report: the evidence's own verdict, and what waivers and a baseline made of it."""

from __future__ import annotations

from datetime import date
from enum import StrEnum

from auditor.contracts.base import Contract
from auditor.contracts.policy import Policy, RiskLevel, Verdict
from auditor.contracts.repair import PairedDifference
from auditor.contracts.waiver import WaiverState, WaiverUse


class FindingState(StrEnum):
    """Whether a finding fails the gate."""

    FAILING = "failing"
    WAIVED = "waived"
    KNOWN = "known"
    """The baseline has it, and it did not grow beyond interval noise."""


class GateFinding(Contract):
    """What one attack shows, at or above the level on which the policy fails."""

    key: str
    """`attack:KEY`: what a waiver names."""
    attack: str
    rule: str
    """The rule of the policy that fired, e.g. `E3.3`."""
    level: RiskLevel
    message: str
    classes: tuple[str, ...] = ()
    """Classes that leak for certain under this attack."""
    state: FindingState = FindingState.FAILING
    waivers: tuple[str, ...] = ()
    """Ids of the waivers that cover it."""
    regression: str = ""
    """With a baseline: how it is worse than that; empty: it is not, or no baseline was given."""


class Approval(Contract):
    """Who approved an audit as the baseline of its model, and what of it they let through by that."""

    approver: str
    approved: date
    findings: dict[str, RiskLevel]
    """What failed the gate on that day, waivers aside, by key, and its level; the baseline excuses nothing else."""


class ExposedClass(Contract):
    """A class that the audit finds more often than its baseline does, beyond what another run would."""

    label: int
    name: str
    found_before: int
    """Pictures that evaluator and judge accept as this class, of all attacks that both audits have."""
    made_before: int
    found_now: int
    made_now: int
    attacks: tuple[str, ...]
    """Attacks that find it more often than in the baseline."""

    @property
    def told(self) -> str:
        """`person-003 (0 of 40, now 31 of 40)`."""
        return f"{self.name} ({self.found_before} of {self.made_before}, now {self.found_now} of {self.made_now})"


class BaselineComparison(Contract):
    """What the audit was compared with."""

    report_id: str
    model: str
    model_digest: str
    verdict: Verdict
    differences: tuple[PairedDifference, ...]
    """Baseline minus this audit, paired by class: an interval under 0 is a proven rise."""
    rises: tuple[str, ...] = ()
    """Attacks that find more than in the baseline beyond interval noise, whether that fails or not."""
    exposed: tuple[ExposedClass, ...] = ()
    """Classes that are found more often beyond noise, whether that fails or not; no mean need have risen."""
    approval: Approval | None = None
    """Of the one that a team approved on its server; None: a report was named."""
    notes: tuple[str, ...] = ()


class GateDecision(Contract):
    """What the exit code follows."""

    verdict: Verdict
    evidence: Verdict
    """The verdict without waivers and baseline."""
    level: RiskLevel | None
    """The level that the evidence shows; neither a waiver nor a baseline lowers it."""
    policy: Policy | None = None
    """That decided; None: the report's own."""
    findings: tuple[GateFinding, ...] = ()
    waivers: tuple[WaiverUse, ...] = ()
    """All waivers of this model that were given."""
    baseline: BaselineComparison | None = None
    missing: tuple[str, ...] = ()
    """What keeps the decision from a pass, where no finding does: a stored verdict, or what is neither waived nor known
    and not complete."""
    decided_on: date | None = None
    """The day (UTC) by which waivers expire; None: no waivers were given."""

    def having(self, state: FindingState) -> tuple[GateFinding, ...]:
        """The findings in one state."""
        return tuple(finding for finding in self.findings if finding.state is state)

    @property
    def words(self) -> str:
        """`fail`, `inconclusive`, `pass`, `pass with waivers`, `pass against the baseline`."""
        if self.verdict is not Verdict.PASS or self.evidence is Verdict.PASS:
            return str(self.verdict)
        by = [
            text
            for state, text in ((FindingState.WAIVED, "with waivers"), (FindingState.KNOWN, "against the baseline"))
            if self.having(state)
        ]
        return f"{self.verdict} {' and '.join(by)}"

    def waivers_in(self, state: WaiverState) -> tuple[WaiverUse, ...]:
        """The waivers of which this became."""
        return tuple(use for use in self.waivers if use.state is state)
