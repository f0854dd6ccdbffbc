"""docs/practice.md: what is promised there is held by tests that exist."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "practice.md").read_text()
KEPT, _, OPEN = TEXT.partition("## Not kept yet")
ROWS = [line for line in KEPT.splitlines() if line.startswith("| ") and not line.startswith("| promise |")]
NAMED = sorted(set(re.findall(r"`(tests/[^`]+)`", TEXT)))


def names_in(path):
    """`test_a` and `TestB::test_c` of a file."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        inner = node.body if isinstance(node, ast.ClassDef) else []
        found |= {f"{node.name}::{part.name}" for part in inner if isinstance(part, ast.FunctionDef)}
        found |= {node.name} if isinstance(node, ast.FunctionDef) else set()
    return found


def test_every_promise_names_its_tests():
    assert len(ROWS) > 50
    for row in ROWS:
        assert re.fullmatch(r"\| [A-Z\"].*\. \| `tests/\S+::test_\w+`(, `tests/\S+::test_\w+`)* \|", row), row


@pytest.mark.parametrize("name", NAMED)
def test_every_test_that_is_named_exists(name):
    path, _, test = name.partition("::")
    assert (ROOT / path).is_file(), path
    assert test in names_in(ROOT / path)


def test_what_is_not_kept_is_said():
    assert len(re.findall(r"^- ", OPEN, re.M)) >= 1
    assert "tests/" not in OPEN


@pytest.mark.parametrize(
    ("library", "vulnerable"),
    [
        ("torch", "2.9.1"),  # the weights-only unpickler, CVE-2025-32434 and CVE-2026-24747
        ("onnx", "1.20.1"),  # links and attributes of external data, CVE-2026-27489, -34445, -28500
    ],
)
def test_libraries_with_known_holes_cannot_be_installed(library, vulnerable):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (floor,) = [need for need in map(Requirement, project["dependencies"]) if need.name == library]
    assert vulnerable not in floor.specifier
