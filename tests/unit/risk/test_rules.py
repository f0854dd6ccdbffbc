"""Stored verdicts are judged anew when the number of the rules goes up, so no rule may change without it."""

import hashlib
from pathlib import Path

from auditor import proportions
from auditor.contracts import outcome, policy, report, scores
from auditor.risk import rules

CODE = "7629368e524ec567"
"""Of the rules of this number."""


def digest_of_the_rules():
    """Of every file that decides what a verdict is, and of the contracts without which a report is no evidence."""
    files = sorted(path for path in Path(rules.__file__).parent.glob("*.py") if path.name != "rules.py")
    files += [Path(module.__file__) for module in (policy, proportions, report, outcome, scores)]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:16]


def test_the_number_goes_with_the_code():
    assert digest_of_the_rules() == CODE, (
        "the code of the rules has changed: raise RULES in auditor/risk/rules.py unless no verdict can come out "
        "otherwise and every stored report can still be read, and write the new digest here"
    )
