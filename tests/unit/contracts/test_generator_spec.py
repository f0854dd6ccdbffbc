"""`data.generator` in auditor.yaml: one file or two, what each input is fed, and every mistake with its line."""

import re
from pathlib import Path

import pytest
import yaml

from auditor.contracts.manifest import DataSection, GeneratorInput, GeneratorSpec, Manifest, ModelSpec
from auditor.contracts.manifest_file import read_manifest, write_manifest
from auditor.errors import InvalidInput

TWO = GeneratorSpec(
    mapping=Path("m.onnx"),
    synthesis=Path("s.onnx"),
    space="p",
    inputs={
        "psi": GeneratorInput(kind="constant", value=0.7),
        "noise": GeneratorInput(kind="noise"),
        "c": GeneratorInput(kind="constant", value=(1.0, 0.0)),
    },
    channels=3,
    height=64,
    width=64,
)


def test_two_files_and_their_inputs_are_written_and_read_back(tmp_path):
    manifest = Manifest(model=ModelSpec(name="m"), data=DataSection(generator=TWO))
    write_manifest(manifest, tmp_path / "auditor.yaml")
    assert read_manifest(tmp_path / "auditor.yaml") == manifest
    assert TWO.files == {"generator.onnx": Path("s.onnx"), "generator-mapping.onnx": Path("m.onnx")}
    one = GeneratorSpec(path=Path("g.onnx"), channels=1, height=8, width=8)
    assert one.files == {"generator.onnx": Path("g.onnx")}


def test_every_mistake_comes_at_once_with_its_line(tmp_path):
    path = tmp_path / "auditor.yaml"
    path.write_text(
        "model: {name: m}\n"
        "data:\n"
        "  generator:\n"
        "    mapping: m.onnx\n"
        "    channels: 3\n"
        "    height: 64\n"
        "    spaec: p\n"
        "    inputs:\n"
        "      psi: {knd: constant}\n"
        "      c: {kind: label}\n"
        "      z: {kind: uniform, low: 1, high: 0}\n"
    )
    with pytest.raises(InvalidInput) as caught:
        read_manifest(path)
    text = "\n".join(caught.value.problems)
    assert "auditor.yaml:7: data.generator.spaec: unknown key; did you mean 'space'?" in text
    assert "auditor.yaml:9: data.generator.inputs.psi.knd: unknown key; did you mean 'kind'?" in text
    assert "auditor.yaml:10: data.generator.inputs.c.kind:" in text
    assert "auditor.yaml:11: data.generator.inputs.z: `high` must be above `low`" in text
    assert "data.generator.width: is missing" in text


def test_the_manifests_of_the_user_guide_are_valid():
    guide = Path(__file__).resolve().parents[3] / "docs" / "generators.md"
    blocks = re.findall(r"^```yaml\n(.*?)^```", guide.read_text(), re.M | re.S)
    assert len(blocks) == 3
    for block in blocks:
        Manifest.model_validate(yaml.safe_load(block) | {"model": {"name": "m"}})


def test_half_a_generator_is_none(tmp_path):
    path = tmp_path / "auditor.yaml"
    path.write_text(
        "model: {name: m}\ndata:\n  generator: {mapping: m.onnx, channels: 3, height: 64, width: 64}\n",
        encoding="utf-8",
    )
    with pytest.raises(InvalidInput, match="or both `mapping` and `synthesis`"):
        read_manifest(path)
