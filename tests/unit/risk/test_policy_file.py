"""Policies from YAML: everything refused at once, nothing guessed."""

from __future__ import annotations

import pytest

from auditor.contracts.access import Access
from auditor.contracts.policy import DEFAULT_ACCESS_WEIGHTS, Policy, RiskLevel
from auditor.errors import InvalidInput
from auditor.risk.policy_file import parse_policy, read_policy


def problems(text):
    with pytest.raises(InvalidInput) as caught:
        parse_policy(text, where="p.yaml")
    assert "docs/policy.md" in caught.value.remedy
    return caught.value.problems


def test_what_is_left_out_keeps_its_default():
    policy = parse_policy("fail_on: medium\nthresholds:\n  high_lift: 0.2\n")
    assert policy.fail_on is RiskLevel.MEDIUM
    assert policy.thresholds.high_lift == 0.2
    assert policy.thresholds.critical_lift == Policy().thresholds.critical_lift


def test_partial_access_weights_are_completed():
    policy = parse_policy("access_weights: {label: 0.3}\n")
    assert policy.access_weights == DEFAULT_ACCESS_WEIGHTS | {Access.LABEL: 0.3}


def test_every_problem_at_once_with_a_suggestion():
    found = problems("fail_onn: high\nthresholds: {hihg_lift: 0.2, min_attacks: 0}\ndeployment_access: everything\n")
    assert len(found) == 4
    text = "\n".join(found)
    assert "p.yaml: fail_onn: unknown key. Did you mean 'fail_on'?" in text
    assert "thresholds.hihg_lift: unknown key. Did you mean 'high_lift'?" in text
    assert "thresholds.min_attacks" in text
    assert "deployment_access" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "found nothing"),
        ("- a\n", "found a list"),
        ("fail_on: [high\n", "not YAML (line"),
        ("fail_on: critical\nfail_on: high\n", "'fail_on' is given twice"),
        ("thresholds: {min_attacks: 1, min_attacks: 2}\n", "'min_attacks' is given twice"),
        ("thresholds: &t {min_attacks: 1}\naccess_weights: *t\n", "aliases are not supported"),
        ("name: !!python/object/apply:os.system [id]\n", "not YAML"),
        ("thresholds: {high_lift: 0.6}\n", "`clear_lift` <= `high_lift` <= `critical_lift`"),
        ("thresholds: {min_classes: 80}\n", "min_classes_low"),
        ("thresholds: {high_lift: .nan}\n", "high_lift"),
        ("access_weights: {white-box: 0}\n", "access_weights"),
        ("access_weights: {white-box: 1.5}\n", "access_weights"),
        ("access_weights: {root: 1}\n", "access_weights"),
        ("fail_on: High\n", "fail_on"),
        ("version: 2\n", "version"),
    ],
)
def test_refused(text, said):
    assert said in "\n".join(problems(text))


def test_files(tmp_path):
    path = tmp_path / "policy.yaml"
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_policy(path)
    path.write_text("fail_on: critical\n")
    assert read_policy(path).fail_on is RiskLevel.CRITICAL
    path.write_bytes(b"#" * (2 << 20))
    with pytest.raises(InvalidInput, match="larger than"):
        read_policy(path)
