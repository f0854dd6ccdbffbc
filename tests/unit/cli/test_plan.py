"""`auditor plan`: what it prints without a model; with one, the dry run's own tests say what is measured."""

import json

import pytest
import typer
from typer.testing import CliRunner

from auditor.cli import plan as command
from auditor.contracts.access import Access
from auditor.contracts.cost import Cost
from auditor.contracts.estimate import AttackEstimate, PlanEstimate, Rate, Rates, StepEstimate
from auditor.contracts.plan import AuditPlan
from auditor.errors import InvalidInput
from auditor.service.plans import PRESETS

MANIFEST = """
version: 1
model: {name: m, n_classes: 7}
plan:
  preset: quick
  seed: 3
  samples_per_class: 4
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    app = typer.Typer()
    command.register(app)
    app.command("other")(lambda: None)  # two commands, so that `plan` keeps its name
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        result = CliRunner().invoke(app, ["plan", *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0
        return result.stdout

    return call


def test_a_preset_needs_no_manifest(run):
    text = run("--plan", "standard")
    assert text.splitlines()[0].startswith("plan standard, seed 0: at most 60 classes, 5 samples each")
    for spec in PRESETS["standard"].attacks:
        assert spec.key in text


def test_the_manifests_plan_is_resolved(run, tmp_path):
    (tmp_path / "auditor.yaml").write_text(MANIFEST)
    resolved = AuditPlan.model_validate_json(run("--json"))
    assert (resolved.name, resolved.seed, resolved.samples_per_class) == ("quick+custom", 3, 4)


def test_the_plan_alone_says_what_keeps_it_from_a_pass(run, tmp_path):
    """Without --explain too: a long audit that could never have passed is found out before it runs."""
    assert "cannot end in a pass" not in run("--plan", "quick")
    (tmp_path / "auditor.yaml").write_text(MANIFEST)
    assert "cannot end in a pass: 7 classes are attacked, and the policy asks for 20" in run().splitlines()


def test_explain_without_a_model_counts_but_does_not_time(run, tmp_path):
    (tmp_path / "auditor.yaml").write_text(MANIFEST)
    text = run("--explain")
    mirror = next(line for line in text.splitlines() if line.startswith("mirror-b"))
    assert f"{4 * 29 * 20:,}" in mirror
    assert f"{2000 + 7 * 4 * 29 * 20:,}" in mirror
    assert mirror.rstrip().endswith("-")
    assert "Name the model file" in text
    assert "cannot end in a pass: 7 classes" in text
    found = PlanEstimate.model_validate_json(run("--explain", "--json"))
    assert found.rates is None
    assert found.n_attacked == 7


def test_a_cut_model_has_a_dry_run_too(run):
    text = run("--plan", "quick", "--split", "layer2", "--explain")
    assert {"inverse-network", "rmle", "query-free"} <= {line.split()[0] for line in text.splitlines() if line}
    assert "ppa" not in text


def test_without_manifest_or_preset_there_is_nothing_to_show(run):
    with pytest.raises(InvalidInput, match=r"no auditor\.yaml"):
        run()


def test_a_broken_manifest_is_not_passed_over(run, tmp_path):
    (tmp_path / "auditor.yaml").write_text("version: 9\n")
    with pytest.raises(InvalidInput):
        run("--plan", "quick")


def test_all_problems_of_a_plan_come_at_once(run, tmp_path):
    attacks = [{"name": "pqa"}, {"name": "ppa", "params": {"steps": 0}}, {"name": "ppa"}]
    (tmp_path / "m.yaml").write_text(json.dumps({"model": {"name": "m"}, "plan": {"attacks": attacks}}))
    with pytest.raises(InvalidInput) as caught:
        run("-c", "m.yaml")
    text = "\n".join(caught.value.problems)
    for part in ("pqa", "steps", "key 'ppa'"):
        assert part in text


@pytest.mark.parametrize("budget", ["20 minutes", "2d"])
def test_a_bad_budget_names_its_option(run, budget):
    with pytest.raises(InvalidInput, match="--budget"):
        run("model.onnx", "--budget", budget)


def test_a_budget_needs_a_model(run):
    with pytest.raises(InvalidInput, match="needs a model"):
        run("--plan", "quick", "--budget", "20m")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.42, "0.4 s"),
        (99.4, "99 s"),
        (120, "2 min"),
        (3540, "59 min"),
        (3599, "1 h 00 min"),
        (11100, "3 h 05 min"),
    ],
)
def test_durations(seconds, text):
    assert command.duration(seconds) == text


def test_the_table_says_what_cannot_run_what_is_left_out_and_what_it_all_takes(capsys):
    rate = Rate(call_s=0, image_s=0.1, image_bytes=1)
    row = AttackEstimate(
        key="ppa",
        attack="ppa",
        access=Access.WHITE_BOX,
        prior="vae",
        cost=Cost(forward=1200, backward=1000, bound=True),
        per_class=20,
        seconds=90,
        memory_bytes=3 * 2**20,
    )
    idle = AttackEstimate(key="gmi", attack="gmi", access=Access.WHITE_BOX, runnable=False, reason="no critic")
    command.print_estimate(
        PlanEstimate(
            plan=PRESETS["quick"].model_copy(update={"left_out": ("mirror-b", "fisher")}),
            n_attacked=60,
            attacks=(row, idle),
            steps=(StepEstimate(name="evaluator", seconds=30),),
            rates=Rates(device="cpu, 2 threads", probe_s=4, forward=rate),
            obstacles=("too little",),
        )
    )
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("ppa ")).split() == [
        "ppa", "white-box", "vae", "<=20", "0", "<=1,200", "<=1,000", "3", "MiB", "90", "s",
    ]  # fmt: skip
    assert any(line.split() == ["total", "2", "min"] for line in lines)
    assert "cannot run: gmi (white-box): no critic" in lines
    assert "left out to fit the budget: mirror-b, fisher" in lines
    assert "cannot end in a pass: too little" in lines
