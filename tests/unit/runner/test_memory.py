"""How much memory a runner process has by default."""

import os

import pytest

from auditor.bootstrap import runner_memory
from auditor.runner import memory
from auditor.settings import Settings

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.fixture
def group(tmp_path, monkeypatch):
    """The control group of this process, in a made-up tree."""
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "OWN_GROUP", tmp_path / "own")
    (tmp_path / "own").write_text("4:memory:/other\n0::/system.slice/auditor.service\n")
    folder = tmp_path / "groups" / "system.slice" / "auditor.service"
    folder.mkdir(parents=True)
    return folder


def test_it_is_nine_tenths_of_the_machine(group):
    assert memory.memory_here() == MACHINE * 9 // 10
    (group / "memory.max").write_text("max\n")
    assert memory.memory_here() == MACHINE * 9 // 10


@pytest.mark.parametrize(("place", "name"), [("", "memory.max"), ("..", "memory.max"), ("../..", "memory.max")])
def test_a_container_or_service_with_less_has_less(group, place, name):
    (group / "memory.max").write_text("max\n")
    (group / place / name).write_text(f"{1 << 30}\n")
    assert memory.memory_here() == (1 << 30) * 9 // 10


def test_so_has_one_of_the_older_kind(group, tmp_path):
    (tmp_path / "groups" / "memory").mkdir()
    (tmp_path / "groups" / "memory" / "memory.limit_in_bytes").write_text("1000000\n")
    assert memory.memory_here() == 900_000


@pytest.mark.parametrize(("given", "found"), [(None, MACHINE * 9 // 10), (0, 0), (5 << 30, 5 << 30)])
def test_a_setting_goes_first(group, tmp_path, given, found):
    assert runner_memory(Settings(home=tmp_path, runner_memory_bytes=given)) == found
