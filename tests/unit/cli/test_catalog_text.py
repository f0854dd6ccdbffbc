"""`auditor catalog`: what there is, with what every parameter may be."""

import json
from typing import Literal

import pytest
import typer
from pydantic import BaseModel, Field
from typer.testing import CliRunner

from auditor.attacks.catalog import ATTACKS
from auditor.attacks.split.catalog import SPLIT_ATTACKS
from auditor.cli import system
from auditor.cli.parameters import parameter_lines
from auditor.evaluation.catalog import EVALUATORS
from auditor.priors.catalog import PRIORS
from auditor.registry import Catalog
from remediation.defenses.catalog import DEFENSES


class Inner(BaseModel):
    width: int = Field(default=48, ge=4, le=64)


class Parameters(BaseModel):
    steps: int = Field(default=300, ge=1)
    share: float = Field(default=0.9, ge=0, lt=1)
    loss: Literal["auto", "poincare"] = "auto"
    flip: bool = True
    betas: tuple[float, float] = (0.9, 0.99)
    wanted: tuple[int, ...] = ()
    limit: int | None = Field(default=None, gt=0)
    must: float = Field(gt=0)
    inner: Inner = Field(default_factory=Inner)


class Entry:
    """An entry."""

    name = "entry"
    paper = "own"
    Config = Parameters


def test_one_line_says_default_and_range_or_choices():
    (row,) = Catalog("entry", (Entry,)).describe()
    assert list(parameter_lines(row["parameters"])) == [
        "steps = 300 (integer >= 1)",
        "share = 0.9 (number >= 0, < 1)",
        "loss = auto (auto | poincare)",
        "flip = true (true | false)",
        "betas = [0.9, 0.99] (2 values: number; number)",
        "wanted = [] (list of: integer)",
        "limit = none (integer > 0 | none)",
        "must = required (number > 0)",
        "inner.width = 48 (integer >= 4, <= 64)",
    ]


@pytest.fixture(scope="module")
def listed():
    app = typer.Typer()
    system.register(app)
    return CliRunner().invoke(app, ["catalog"]).stdout.splitlines()


@pytest.mark.parametrize("catalog", [ATTACKS, SPLIT_ATTACKS, EVALUATORS, PRIORS, DEFENSES], ids=lambda c: c.kind)
def test_every_parameter_of_every_entry_has_a_line_that_says_what_it_may_be(catalog, listed):
    for row in catalog.describe():
        start = next(i for i, line in enumerate(listed) if line.endswith(f"  {row['summary']}"))
        lines = list(parameter_lines(row["parameters"]))
        assert [line.strip() for line in listed[start + 2 :][: len(lines)]] == lines
        assert {line.partition(" = ")[0].partition(".")[0] for line in lines} == set(row["parameters"])
        assert not [line for line in lines if "anything" in line or line.endswith("()")], row["name"]


def test_a_section_of_parameters_is_spelt_out_in_json_too():
    """A reference to definitions that are not there tells nobody anything."""
    assert "$ref" not in json.dumps([*SPLIT_ATTACKS.describe(), *DEFENSES.describe()])
