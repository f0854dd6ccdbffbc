"""The README and the other documents say what is true: commands, options, exit codes, presets, links, the manifest."""

import re
from pathlib import Path

import pytest
import typer
import yaml

from auditor.cli.main import app
from auditor.contracts.manifest import Manifest
from auditor.errors import ExitCode
from auditor.service.plans import PRESETS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = typer.main.get_command(app).commands


def fenced(language=""):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def command_lines(text):
    return re.findall(r"(?:^|run: )(auditor [^\n#|]+)", text, re.M)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_command_and_option_that_is_named_exists(path):
    text = path.read_text()
    for line in command_lines(text) + re.findall(r"`(auditor [^`]+)`", text):
        words = line.split()
        name = words[1]
        if name.startswith("-"):
            continue
        assert name in COMMANDS, line
        known = {
            option for parameter in COMMANDS[name].params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        for word in words[2:]:
            option = word.partition("=")[0]
            if re.match(r"^-{1,2}[a-z]", option):
                assert option in known | {"--help"}, line


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_every_path_in_the_map_exists():
    for path in re.findall(r"`((?:auditor|remediation|docs|migrations)/[A-Za-z_/.]+)`", README):
        assert (ROOT / path).exists(), path


def test_the_manifest_is_valid():
    (text,) = [block for block in fenced("yaml") if "model:" in block]
    manifest = Manifest.model_validate(yaml.safe_load(text))
    assert manifest.plan.preset == "standard"
    assert len(text.splitlines()) <= 10


def test_every_exit_code_is_in_the_table():
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.M)}
    assert documented == {int(code) for code in ExitCode}


def test_every_preset_is_in_the_table():
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", README, re.M))
    assert set(rows) == set(PRESETS)
    for name, size in rows.items():
        plan = PRESETS[name]
        assert size == f"{plan.n_classes or 'all'} \N{MULTIPLICATION SIGN} {plan.samples_per_class}"


def test_the_two_commands_are_verbs_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for verb in re.findall(r"^make (\w+)", README, re.M):
        assert re.search(rf"^{verb}:", makefile, re.M)


def test_help_names_every_exit_code():
    epilog = app.info.epilog
    for code in ExitCode:
        assert re.search(rf"\b{int(code)} ", epilog)


def test_nothing_here_names_a_machine_or_a_registry():
    for path in DOCS:
        assert not re.search(r"/(?:work|home|root)/|index-url", path.read_text()), path
