"""Split inference through the command line: a cut layer, three attacks, and a report that judges them by the truth."""

import json
import shutil

import pytest
import yaml

from auditor.contracts.access import Access
from auditor.contracts.report import AuditReport
from auditor.contracts.scores import Measured

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
CODES = {"fail": 1, "inconclusive": 3}
DECODER = {"width": 16, "blocks": 1, "steps": 150, "batch": 16}
ATTACKS = [
    {"name": "inverse-network", "params": {"decoder": DECODER}},
    {"name": "rmle", "params": {"decoder": DECODER, "steps": 60}},
    {"name": "query-free", "params": {"width": 8, "shadow_steps": 30, "steps": 30}},
]
LAYER = "features.6"
"""The first pooling: 32 maps of 8x8 for an image of 3x16x16."""


@pytest.fixture(scope="module")
def folder(submission, tmp_path_factory):
    """The submission with a plan of its own: the three attacks, quick, with the judges of the other tests."""
    folder = tmp_path_factory.mktemp("split")
    for name in ("model.onnx", "model.safetensors", "private.npz", "heldout.npz", "public.npz"):
        shutil.copy(submission / name, folder / name)
    manifest = yaml.safe_load((submission / "auditor.yaml").read_text())
    overrides = {key: value for key, value in manifest["plan"]["overrides"].items() if key != "fisher"}
    manifest["plan"] |= {"attacks": ATTACKS, "priors": [], "overrides": overrides | {"fisher": {"enabled": False}}}
    (folder / "auditor.yaml").write_text(json.dumps(manifest))  # YAML too, and without anchors
    return folder


@pytest.fixture(scope="module")
def audited(house, folder):
    result = house(
        "submit", folder / "model.safetensors", "--split", LAYER, "-f", "json", "-o", f"html={folder}/r.html"
    )
    assert result.code in CODES.values(), result.err
    return result


@pytest.fixture(scope="module")
def report(audited):
    return AuditReport.model_validate_json(audited.out)


def test_the_three_attacks_are_judged_by_identity_and_by_the_images_themselves(report, audited):
    assert audited.code == CODES[report.verdict.verdict]
    assert report.target.split.layer == LAYER
    assert report.target.split.shape == (32, 8, 8)
    assert Access.SPLIT in report.target.access
    assert [outcome.key for outcome in report.attacks] == ["inverse-network", "rmle", "query-free"]
    for outcome in report.attacks:
        assert outcome.status == "completed", outcome.reason
        assert (outcome.access, outcome.prior) == (Access.SPLIT, "none")
        assert outcome.coverage.frac == 1
        for metric in ("both_agree", "control_both", "ceiling_both", "lift", "psnr", "ssim", "perceptual"):
            assert isinstance(outcome.score(metric), Measured), metric


def test_queries_are_those_of_the_device_alone(report):
    outcomes = {outcome.key: outcome for outcome in report.attacks}
    rows = outcomes["rmle"].coverage.samples_done
    assert outcomes["rmle"].forward_queries == outcomes["rmle"].backward_queries == 60 * rows
    assert outcomes["inverse-network"].forward_queries == 0
    assert outcomes["inverse-network"].shared_queries == DECODER["steps"] * DECODER["batch"]
    assert outcomes["query-free"].forward_queries == outcomes["query-free"].shared_queries == 0


def test_a_shallow_cut_gives_the_images_away_and_the_controls_stay_behind(report):
    for key in ("inverse-network", "rmle"):
        outcome = next(row for row in report.attacks if row.key == key)
        for baseline in ("control_psnr", "mean_image_psnr"):
            assert outcome.score("psnr").low > outcome.score(baseline).high + 2, key
        assert outcome.score("perceptual").high < outcome.score("control_perceptual").low
        assert outcome.moved
    assert report.attacks[1].score("psnr").value > report.attacks[0].score("psnr").value


def test_the_page_shows_the_scores_and_blurred_pairs(audited, folder):
    page = (folder / "r.html").read_text()
    assert "What passes at features.6" in page
    assert "PSNR" in page
    assert "private image, rebuilt as" in page
    assert 'id="reveal"' in page


def test_a_second_run_gives_the_same_bytes(house, folder, report):
    again = house("submit", folder / "model.safetensors", "--split", LAYER, "-f", "json", "-q", "--fresh")
    assert AuditReport.model_validate_json(again.out).attacks == report.attacks


def test_an_onnx_file_is_cut_by_its_value_names(house, folder, report):
    refused = house("submit", folder / "model.onnx", "--split", "no-such-layer", "-q")
    assert refused.code == 2
    names = refused.err.split("Possible: ")[1].split(". ")[0].split(", ")
    pooled = next(name for name in names if "pool" in name.lower())
    result = house("submit", folder / "model.onnx", "--split", pooled, "-f", "json", "-q")
    assert result.code in CODES.values(), result.err
    onnx = AuditReport.model_validate_json(result.out)
    assert onnx.target.split.shape == report.target.split.shape
    for one, other in zip(report.attacks[:2], onnx.attacks[:2], strict=True):
        assert one.score("psnr").value == pytest.approx(other.score("psnr").value, abs=1.0), one.key


def test_an_unknown_layer_is_refused_with_those_that_there_are(house, folder):
    result = house("submit", folder / "model.safetensors", "--split", "features.99", "-q")
    assert result.code == 2
    assert "features.6" in result.err
    assert "cannot cut at 'features.99'" in result.err


def test_no_cost_is_claimed_for_attacks_on_a_cut_model(house, folder):
    result = house("submit", folder / "model.safetensors", "--split", LAYER, "--budget", "20m", "-q")
    assert result.code == 2
    assert "not estimated" in result.err


def test_a_plan_without_a_cut_refuses_these_attacks(house, folder):
    result = house("submit", folder / "model.safetensors", "-q")
    assert result.code == 2
    assert "--split" in result.err
