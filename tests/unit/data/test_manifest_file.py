"""auditor.yaml: what is written can be read, and everything wrong with a file is said at once."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from auditor.contracts.manifest import (
    DataSection,
    DataSpec,
    GeneratorSpec,
    InputSpec,
    JudgeSpec,
    Manifest,
    ModelSpec,
    PlanSection,
    RepairBudget,
)
from auditor.contracts.manifest_file import read_contract, read_manifest, write_manifest
from auditor.contracts.plan import AttackSpec, PriorSpec
from auditor.contracts.policy import Policy, RiskLevel, Thresholds
from auditor.errors import InvalidInput, StorageFailure

SMALL = Manifest(model=ModelSpec(name="faces"))
FULL = Manifest(
    model=ModelSpec(
        name="faces-v2",
        architecture="small-cnn",
        input=InputSpec(channels=3, height=32, width=48, low=-1.0, mean=(0.5, 0.4, 0.3), std=(1.0, 2.0, 3.0)),
        n_classes=7,
        weights_published=True,
    ),
    data=DataSection(
        private=DataSpec(path=Path("a b/private"), class_map={"no": 0, "01": 1, "Zoë": 2}, max_per_class=60),
        heldout=DataSpec(path=Path("heldout.npz"), images_key="x", labels_key="y"),
        public=DataSpec(path=Path("../public"), labels_key=None),
        generator=GeneratorSpec(path=Path("g.onnx"), channels=1, height=28, width=28),
        judge=JudgeSpec(path=Path("j.onnx"), input=InputSpec(channels=3, height=112, width=112)),
    ),
    plan=PlanSection(
        preset="deep",
        seed=3,
        attacks=(AttackSpec(name="ppa", params={"steps": 7, "crop": [0.5, 1.0]}), AttackSpec(name="gmi", label="g")),
        priors=(PriorSpec(name="vae"),),
        overrides={"n_bootstrap": 500},
    ),
    policy=Policy(name="ours", fail_on=RiskLevel.MEDIUM, thresholds=Thresholds(high_lift=0.25)),
    repair=RepairBudget(max_accuracy_loss=0.1, params={"epochs": 3}),
)


def problems_of(path: Path, text: str, contract=Manifest) -> tuple[str, ...]:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInput) as caught:
        read_contract(path, contract)
    return caught.value.problems


@pytest.mark.parametrize("manifest", [SMALL, FULL], ids=["small", "full"])
def test_what_is_written_reads_back_equal(tmp_path, manifest):
    path = tmp_path / "auditor.yaml"
    write_manifest(manifest, path)
    assert read_manifest(path) == manifest
    assert sorted(tmp_path.iterdir()) == [path]


def test_every_commented_default_or_example_is_valid(tmp_path):
    """A person who takes the `#` away must get a manifest that reads."""
    path = tmp_path / "auditor.yaml"
    write_manifest(Manifest(model=ModelSpec(name="x"), data=DataSection(private=DataSpec(path=Path("p")))), path)
    lines = path.read_text().splitlines()
    head = next(index for index, line in enumerate(lines) if line.startswith("version"))
    opened = [line.replace("# ", "", 1) if line.lstrip().startswith("# ") else line for line in lines[head:]]
    path.write_text("\n".join(opened))
    manifest = read_manifest(path)
    assert manifest.data.generator is not None
    assert manifest.policy is not None


def test_every_problem_is_reported_with_its_line(tmp_path):
    problems = problems_of(
        tmp_path / "auditor.yaml",
        "modl: 3\n"
        "model:\n"
        "  name: a b\n"
        "  n_classes: many\n"
        "  n_classes: 3\n"
        "  input: {channels: 3, height: 32, width: 32, std: [0, 1]}\n"
        "data:\n"
        "  private: {pth: x}\n"
        "plan:\n"
        "  presset: quick\n"
        "  attacks:\n"
        "    - name: ppa\n"
        "    - params: {}\n",
    )
    text = "\n".join(problems)
    assert "auditor.yaml:1: modl: unknown key; did you mean 'model'?" in problems
    assert "auditor.yaml:3: model.name:" in text
    assert "auditor.yaml:4: model.n_classes:" in text
    assert "auditor.yaml:5: model.n_classes: stands twice, first on line 4" in problems
    assert "`std` has 2 values for 3 channels" in text
    assert "auditor.yaml:8: data.private.pth: unknown key; did you mean 'path'?" in problems
    assert "auditor.yaml:8: data.private.path: is missing" in text
    assert "auditor.yaml:10: plan.presset: unknown key; did you mean 'preset'?" in problems
    assert "auditor.yaml:13: plan.attacks.1.name: is missing" in text
    assert len(problems) == 9
    lines = [int(problem.split(":")[1]) for problem in problems]
    assert lines == sorted(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x [1]\nb: *x\n", "anchors and aliases"),
        ("a: [1\nb", "not valid YAML"),
        ("[" * 20_000, "nested too deeply"),
        ("- 1", "must be a mapping"),
        ("? [a]\n: 3", "a key must be plain text"),
        ("a: !!python/object/apply:os.system [echo]", "not valid YAML"),
        ("a: 2020-99-99", "not valid YAML"),
        ("\x00", "not valid YAML"),
        ("", "model: is missing"),
        ("model:\n", "model: is missing"),
        ("model: faces", "must be a mapping"),
    ],
)
def test_broken_files_are_explained(tmp_path, text, said):
    assert said in "\n".join(problems_of(tmp_path / "auditor.yaml", text))


def test_every_alias_is_named_with_its_line_and_what_to_do(tmp_path):
    """It is YAML all right, and a file that said otherwise would send its author looking for a typing error."""
    path = tmp_path / "auditor.yaml"
    path.write_text("model: {name: x}\ndata:\n  private: &p {path: a}\n  heldout: *p\n  public:\n    <<: *p\n")
    with pytest.raises(InvalidInput, match="gigabytes") as caught:
        read_manifest(path)
    assert [problem.split(" stands for")[0] for problem in caught.value.problems] == [
        "auditor.yaml:4: '*p'",
        "auditor.yaml:6: '*p'",
    ]
    assert "not valid YAML" not in str(caught.value)
    assert "Write the values out" in caught.value.remedy
    path.write_text("model: &unused {name: x}\n")
    assert read_manifest(path) == Manifest(model=ModelSpec(name="x"))


def test_empty_sections_are_the_default(tmp_path):
    path = tmp_path / "auditor.yaml"
    path.write_text("model: {name: x}\ndata:\nplan:\n")
    assert read_manifest(path) == Manifest(model=ModelSpec(name="x"))


def test_keys_are_the_text_they_are_written_as(tmp_path):
    path = tmp_path / "auditor.yaml"
    path.write_text("model: {name: x}\ndata: {private: {path: p, class_map: {0: 0, no: 1, 007: 2, 1.0: 3}}}\n")
    private = read_manifest(path).data.private
    assert private is not None
    assert private.class_map == {"0": 0, "no": 1, "007": 2, "1.0": 3}


def test_files_that_are_not_a_manifest(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be read") as caught:
        read_manifest(tmp_path / "missing.yaml")
    assert "auditor init" in caught.value.remedy
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_manifest(tmp_path)
    binary = tmp_path / "model.onnx"
    binary.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InvalidInput, match="not UTF-8"):
        read_manifest(binary)
    binary.write_bytes(b" " * (2 << 20))
    with pytest.raises(InvalidInput, match="larger than"):
        read_manifest(binary)


def test_a_policy_with_a_typo(tmp_path):
    problems = problems_of(tmp_path / "p.yaml", "fail_on: hihg\nthresholds: {high_lfit: 0.2}\n", Policy)
    assert "did you mean 'high_lift'?" in "\n".join(problems)
    assert "fail_on" in problems[0]


def test_a_folder_that_is_not_there_leaves_nothing(tmp_path):
    with pytest.raises(StorageFailure):
        write_manifest(SMALL, tmp_path / "missing" / "auditor.yaml")


def test_the_file_is_plain_yaml(tmp_path):
    write_manifest(FULL, tmp_path / "auditor.yaml")
    plain = yaml.safe_load((tmp_path / "auditor.yaml").read_text(encoding="utf-8"))
    assert plain["model"]["name"] == "faces-v2"


def test_reading_a_manifest_needs_no_torch():
    code = "import sys, auditor.contracts.manifest_file; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603
