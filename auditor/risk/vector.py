"""A one-line summary in the manner of CVSS vectors (method card E.4). It is not an official scheme."""

from __future__ import annotations

import re
from collections.abc import Sequence

from auditor.contracts.access import Access
from auditor.contracts.policy import RiskLevel, Verdict
from auditor.risk.evidence import AttackEvidence

_LETTER = {Access.WHITE_BOX: "W", Access.SPLIT: "P", Access.SCORE: "S", Access.LABEL: "L"}


def vector(evidence: Sequence[AttackEvidence], level: RiskLevel | None, verdict: Verdict) -> str:
    """`MI:1.0/AL:W/PR:vae/ATK:3/R:0.31[0.22,0.41]/W:0.62/D:X/U:X/LV:high`; X means not measured.

    The attack shown is the one with the highest lower bound. `D` (memorisation gap) and `U` (change of utility) are
    kept in the string so that it does not change its shape when they are measured.
    """
    graded = [item for item in evidence if item.lift is not None]
    parts = ["MI:1.0"]
    if graded:
        worst = max(graded, key=lambda item: (item.lift.low, item.lift.value) if item.lift else (0.0, 0.0))
        lift = worst.lift
        assert lift is not None  # noqa: S101
        w95 = "X" if worst.outcome.w95_high is None else f"{worst.outcome.w95_high:.2f}"
        prior = re.sub(r"[^A-Za-z0-9._-]", "_", worst.outcome.prior) or "X"
        n_attacks = sum(not item.outcome.is_control for item in graded)
        parts += [f"AL:{_LETTER[worst.outcome.access]}", f"PR:{prior}", f"ATK:{n_attacks}"]
        parts += [f"R:{lift.value:.2f}[{lift.low:.2f},{lift.high:.2f}]", f"W:{w95}"]
    else:
        parts += ["AL:X", "PR:X", "ATK:0", "R:X", "W:X"]
    parts += ["D:X", "U:X", f"LV:{level or verdict}"]
    return "/".join(parts)
