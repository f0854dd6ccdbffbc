"""The whole loop through the command line, on a tiny submission: submit, read, gate, repair, compare."""

import json
import shutil

import numpy as np
import onnx
import pytest
import yaml

from auditor.contracts.jobs import JobKind
from auditor.contracts.repair import RepairReport
from auditor.contracts.report import AuditReport

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
CODES = {"fail": 1, "inconclusive": 3}
"""So small a plan can prove a leak, but never pass."""
PARITY, PICTURES = 1e-4, 2
"""Score-level attacks see the same scores; along a gradient rounding may tip a picture or two."""


@pytest.fixture(scope="session")
def report(audited) -> AuditReport:
    assert audited.code in CODES.values(), audited.err
    return AuditReport.model_validate_json(audited.out)


def test_stdout_is_the_report_alone_and_progress_is_on_stderr(audited):
    assert json.loads(audited.out)["schema_version"] == 1
    assert "prepare" in audited.err
    assert "\x1b[" not in audited.out + audited.err


def test_the_exit_code_is_the_verdict(audited, report):
    assert audited.code == CODES[report.verdict.verdict]


def test_every_attack_of_the_plan_and_the_control_are_in_the_report(report):
    assert [outcome.key for outcome in report.attacks] == ["ppa", "ppa-averaged", "mirror-b", "control/vae"]
    for outcome in report.attacks:
        assert outcome.status == "completed", outcome.reason
        assert outcome.coverage.frac == 1
        assert outcome.forward_queries > 0
        assert len(outcome.per_class) == 22
        assert outcome.score("both_agree").kind == "measured"
        assert outcome.score("control_both").kind == "measured"


def test_queries_of_score_attacks_are_forward_only(report):
    outcomes = {outcome.key: outcome for outcome in report.attacks}
    assert outcomes["mirror-b"].backward_queries == 0
    assert outcomes["ppa"].backward_queries > 0


def test_evaluator_and_judge_are_on_their_cards(report):
    assert report.evaluator.independent
    assert report.evaluator.architecture != "small-cnn"
    assert report.judge.training_data_digest != report.evaluator.training_data_digest
    assert report.overlap.checked
    assert report.overlap.copies == 0
    assert report.overlap.cropped == 64


def test_layer_scores_cover_every_parameter(report):
    assert report.fisher.verdict in ("informative", "uninformative")
    assert sum(unit.n_parameters for unit in report.fisher.units) == report.target.n_parameters
    for unit in report.fisher.units:
        assert set(unit.classification_share) == {"relative", "sum", "density"}


def test_the_page_is_one_file_that_asks_for_nothing(audited, submission):
    page = (submission / "report.html").read_text()
    assert audited.code in CODES.values()
    assert "data:image/png;base64," in page
    assert "http-equiv" in page
    assert "<script" not in page
    assert 'src="http' not in page


def test_the_same_audit_is_found_again(house, submission, report):
    again = house("submit", submission / "model.onnx", "-f", "json", "-q")
    assert "stored already" in again.err
    stored = AuditReport.model_validate_json(again.out)
    assert (stored.id, stored.attacks, stored.verdict) == (report.id, report.attacks, report.verdict)


def test_a_second_run_gives_the_same_bytes(house, submission, report):
    again = house("submit", submission / "model.onnx", "-f", "json", "-q", "--fresh")
    second = AuditReport.model_validate_json(again.out)
    for one, other in zip(report.attacks, second.attacks, strict=True):
        assert one == other
    assert (second.id, second.verdict, second.fisher) == (report.id, report.verdict, report.fisher)


def test_safetensors_give_the_same_verdict_and_scores_as_onnx(house, submission, report, tmp_path):
    result = house("submit", submission / "model.safetensors", "-c", submission / "auditor.yaml", "-f", "json", "-q")
    bare = AuditReport.model_validate_json(result.out)
    assert (bare.verdict.verdict, bare.verdict.level) == (report.verdict.verdict, report.verdict.level)
    assert bare.target.architecture == "small-cnn"
    for one, other in zip(report.attacks, bare.attacks, strict=True):
        assert one.forward_queries == other.forward_queries
        tolerance = PARITY if one.access == "score" else PICTURES / one.coverage.samples_done
        for metric in ("evaluator_top1", "judge_top1", "both_agree", "evaluator_top5", "judge_top5"):
            assert one.score(metric).value == pytest.approx(other.score(metric).value, abs=tolerance), one.key
        assert one.end_confidence == pytest.approx(other.end_confidence, abs=max(tolerance, 1e-3))


def test_stored_reports_can_be_listed_read_and_gated_offline(house, report, tmp_path):
    rows = house("list", "-f", "json").json()
    assert any(row["verdict"] == report.verdict.verdict for row in rows)
    path = tmp_path / "report.json"
    assert house("report", report.id[:12], "-f", "json", "-o", path).code == 0
    gate = house("gate", path)
    assert gate.code == CODES[report.verdict.verdict]
    assert house("convert", path, "-f", "markdown").out.startswith("#")


def test_a_target_without_public_data_is_inconclusive_and_says_what_is_missing(house, submission, tmp_path):
    for name in ("model.onnx", "private.npz"):
        shutil.copy(submission / name, tmp_path / name)
    manifest = yaml.safe_load((submission / "auditor.yaml").read_text())
    manifest["data"] = {"private": {"path": "private.npz"}}
    (tmp_path / "auditor.yaml").write_text(yaml.safe_dump(manifest))
    result = house("submit", tmp_path / "model.onnx", "-f", "json", "-q")
    assert result.code == 3, result.err
    report = AuditReport.model_validate_json(result.out)
    assert "public" in " ".join(report.verdict.needs)
    assert report.judge.kind == "not_measured"
    assert {outcome.prior for outcome in report.attacks} == {"pixel"}
    assert report.fisher.verdict in ("informative", "uninformative")


@pytest.fixture(scope="session")
def repaired(house, report, tmp_path_factory):
    path = tmp_path_factory.mktemp("repaired") / "repaired.onnx"
    result = house("remediate", report.id, "-f", "json", "--model-out", path)
    assert result.code in CODES.values(), result.err
    return RepairReport.model_validate_json(result.out), path


def test_a_repair_tries_three_boundaries_and_proves_what_was_frozen(repaired):
    repair, _ = repaired
    assert len(repair.candidates) >= 3
    for candidate in repair.candidates:
        assert candidate.freeze.digest_before == candidate.freeze.digest_after != ""
        assert candidate.freeze.boundary < candidate.freeze.n_units
        assert {"ppa", "ppa-averaged", "adaptive-averaged"} <= set(candidate.lift)


def test_a_repair_compares_before_and_after_class_by_class(repaired, report):
    repair, _ = repaired
    assert repair.before_report_id == report.id
    assert repair.after_report_id is not None
    assert any(row.attack == "adaptive-averaged" for row in repair.adaptive_differences)
    assert repair.utility_before is not None
    assert repair.utility_after is not None
    assert {row.attack for row in repair.differences} >= {"ppa", "mirror-b"}
    assert repair.verdict_after is not None


def test_the_repaired_model_comes_back_as_it_was_submitted(repaired, submission):
    repair, path = repaired
    assert repair.model_format == "onnx"
    assert repair.parity_max_abs_error < 1e-3
    before, after = onnx.load(submission / "model.onnx"), onnx.load(path)
    assert before.graph.input[0].type == after.graph.input[0].type
    assert [o.name for o in before.graph.output] == [o.name for o in after.graph.output]


def test_a_repair_is_listed_with_its_kind(house, repaired):
    assert any(row["kind"] == JobKind.REPAIR for row in house("list", "-f", "json").json())


def test_a_repaired_model_that_was_built_anew_still_meets_who_knows_its_defense(house, repaired, submission, tmp_path):
    """In half precision, which leaves no tensor as the repair wrote it."""
    model = onnx.load(repaired[1])
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16).astype(np.float32), tensor.name))
    onnx.save(model, tmp_path / "half.onnx")
    manifest = yaml.safe_load((submission / "auditor.yaml").read_text())
    manifest["plan"]["attacks"] = [manifest["plan"]["attacks"][0] | {"label": "own"}]
    manifest["data"] = {role: {"path": str(submission / f"{role}.npz")} for role in manifest["data"]}
    (tmp_path / "auditor.yaml").write_text(yaml.safe_dump(manifest))
    result = house("submit", tmp_path / "half.onnx", "-f", "json", "-q")
    assert result.code in CODES.values(), result.err
    audit = AuditReport.model_validate_json(result.out)
    assert [origin.is_alike for origin in audit.plan.repairs] == [True]
    assert {"own", "adaptive-averaged", "adaptive-erased"} <= {outcome.key for outcome in audit.attacks}
    assert any("answers like the outcome of repair" in finding.message for finding in audit.findings)
    assert audit.plan.withheld is not None
