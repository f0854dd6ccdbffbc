import pytest

from auditor.cli.audit import effective_policy
from auditor.cli.options import parse_duration, parse_outputs
from auditor.contracts.manifest import Manifest, ModelSpec
from auditor.contracts.policy import Policy, RiskLevel
from auditor.errors import InvalidInput


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200)])
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2d", "-1", "h", "1 hour"])
def test_bad_durations_are_refused(text):
    with pytest.raises(InvalidInput, match="timeout"):
        parse_duration(text)


def test_all_problems_of_the_outputs_are_reported_at_once(tmp_path):
    with pytest.raises(InvalidInput) as caught:
        parse_outputs(["json", "pdf=x.pdf", f"json={tmp_path}/missing/a.json"])
    assert len(caught.value.problems) == 3


def test_outputs(tmp_path):
    assert parse_outputs([f"json={tmp_path}/a=b.json"]) == [("json", tmp_path / "a=b.json")]


MANIFEST = Manifest(model=ModelSpec(name="m"), policy=Policy(name="team", fail_on=RiskLevel.MEDIUM))


def test_the_flag_wins_over_the_manifest_and_the_manifest_over_the_default():
    assert effective_policy(MANIFEST, None, None).fail_on is RiskLevel.MEDIUM
    assert effective_policy(MANIFEST, None, "critical").fail_on is RiskLevel.CRITICAL
    assert effective_policy(MANIFEST.model_copy(update={"policy": None}), None, None) == Policy()


def test_a_policy_file_wins_over_the_manifest(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("name: strict\nfail_on: low\n")
    assert effective_policy(MANIFEST, path, None).name == "strict"


def test_what_the_flag_changes_is_not_called_by_the_policys_name(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("name: strict\nfail_on: low\n")
    assert effective_policy(MANIFEST, None, "critical").name == "team@critical"
    assert effective_policy(MANIFEST, None, "medium").name == "team"
    assert effective_policy(MANIFEST, path, "high").name == "strict@high"


def test_an_unknown_level_lists_the_known_ones():
    with pytest.raises(InvalidInput, match="low, medium, high, critical"):
        effective_policy(MANIFEST, None, "hihg")
