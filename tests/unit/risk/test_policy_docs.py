"""docs/policy.md lists every key with its real default, and its example is a valid policy."""

from __future__ import annotations

import re
from pathlib import Path

from auditor.contracts.policy import Policy, Thresholds
from auditor.risk.policy_file import parse_policy

TEXT = (Path(__file__).parents[3] / "docs" / "policy.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `(\w+)` \| `?([^|`]+)`? \|", TEXT, re.M))


def test_every_threshold_with_its_default():
    for name, value in Thresholds().model_dump().items():
        assert float(ROWS[name]) == value, name


def test_every_key():
    assert set(Policy.model_fields) - {"thresholds"} | set(Thresholds.model_fields) == set(ROWS)
    assert ROWS["fail_on"] == Policy().fail_on
    assert ROWS["access_weights"].strip() == ", ".join(str(w) for w in Policy().access_weights.values())


def test_the_example_is_a_policy():
    example = re.search(r"```yaml\n(.*?)```", TEXT, re.S)[1]
    assert parse_policy(example).name == "our-policy"


def test_it_never_promises_safety():
    for name in ("policy.md", "reading-a-report.md"):
        text = (Path(__file__).parents[3] / "docs" / name).read_text(encoding="utf-8")
        assert not re.search(r"\bsafe\b", text, re.I), name
