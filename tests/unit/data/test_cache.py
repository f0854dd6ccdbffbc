"""The content cache: one build per content, nothing half-built, damage repaired."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from auditor.data.cache import ContentCache
from auditor.errors import StorageFailure


class Builder:
    def __init__(self):
        self.calls = 0

    def __call__(self, folder: Path, unfinished: Path) -> None:
        self.calls += 1
        (folder / "deep").mkdir()
        (folder / "deep" / "weights.bin").write_bytes(b"w" * 1000)
        (folder / "card.json").write_text("{}")


@pytest.fixture
def cache(tmp_path):
    return ContentCache(tmp_path / "cache")


def test_the_second_time_nothing_is_built(cache):
    build = Builder()
    path, hit = cache.load_or_build("prior", {"data": "abc", "config": {"steps": 3}}, build)
    assert (hit, (path / "deep" / "weights.bin").stat().st_size) == (False, 1000)
    assert cache.load_or_build("prior", {"config": {"steps": 3}, "data": "abc"}, build) == (path, True)
    assert build.calls == 1


@pytest.mark.parametrize(("kind", "parts"), [("prior", {"data": "abd"}), ("judge", {"data": "abc"}), ("prior", {})])
def test_another_content_is_another_entry(cache, kind, parts):
    build = Builder()
    first, _ = cache.load_or_build("prior", {"data": "abc"}, build)
    second, hit = cache.load_or_build(kind, parts, build)
    assert (hit, build.calls) == (False, 2)
    assert first != second


def test_another_code_is_another_entry(cache, monkeypatch):
    first, _ = cache.load_or_build("prior", {"data": "abc"}, Builder())
    monkeypatch.setattr("auditor.data.cache.code_digest", lambda: "other")
    second, hit = cache.load_or_build("prior", {"data": "abc"}, Builder())
    assert not hit
    assert first != second


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "complete.json").unlink(),
        lambda path: (path / "complete.json").write_text("{"),
        lambda path: (path / "deep" / "weights.bin").write_bytes(b"w" * 999 + b"x"),
        lambda path: (path / "card.json").unlink(),
        lambda path: (path / "stranger.txt").write_text("x"),
    ],
    ids=["no seal", "broken seal", "changed", "missing", "added"],
)
def test_damaged_entries_are_built_again(cache, damage):
    path, _ = cache.load_or_build("prior", {"data": "abc"}, Builder())
    damage(path)
    build = Builder()
    again, hit = cache.load_or_build("prior", {"data": "abc"}, build)
    assert (again, hit, build.calls) == (path, False, 1)
    assert cache.load_or_build("prior", {"data": "abc"}, build)[1]
    assert not (path / "stranger.txt").exists()


def test_a_failed_build_leaves_nothing(cache):
    def fail(folder: Path, unfinished: Path) -> None:
        (folder / "half.bin").write_bytes(b"x")
        raise RuntimeError("training diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        cache.load_or_build("prior", {}, fail)
    assert [path for path in (cache.root / "prior").iterdir() if path.suffix != ".lock"] == []


def test_what_a_killed_process_left_is_cleared(cache):
    path, _ = cache.load_or_build("prior", {}, Builder())
    draft = path.parent / f".{path.name}.draft"
    path.rename(draft)
    (draft / "complete.json").unlink()
    again, hit = cache.load_or_build("prior", {}, Builder())
    assert (again, hit) == (path, False)
    assert not draft.exists()


def test_threads_share_one_build(cache):
    build = Builder()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: cache.load_or_build("prior", {"data": "abc"}, build), range(8)))
    assert build.calls == 1
    assert sorted(hit for _, hit in results) == [False] + [True] * 7


def _build_in_process(root: Path, log: Path) -> None:
    def build(folder: Path, _unfinished: Path) -> None:
        with log.open("a") as handle:
            handle.write("built\n")
        (folder / "x").write_text("x")

    ContentCache(root).load_or_build("prior", {"data": "abc"}, build)


def test_processes_share_one_build(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_build_in_process, args=(tmp_path / "c", tmp_path / "log")) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert (tmp_path / "log").read_text() == "built\n"


def test_a_full_disk_is_said(cache):
    def full(_folder: Path, _unfinished: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageFailure, match="disk is full"):
        cache.load_or_build("prior", {}, full)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageFailure):
        ContentCache(tmp_path / "file").load_or_build("prior", {}, Builder())


def test_checkpoints_outlive_a_failure_and_go_when_the_entry_is_whole(tmp_path: Path):
    cache, seen = ContentCache(tmp_path), []

    def build(folder: Path, unfinished: Path) -> None:
        seen.append(sorted(path.name for path in unfinished.iterdir()))
        (unfinished / "step.pt").write_text("half")
        if len(seen) == 1:
            raise KeyboardInterrupt
        (folder / "weights").write_text("whole")

    with pytest.raises(KeyboardInterrupt):
        cache.load_or_build("prior", {}, build)
    path, _ = cache.load_or_build("prior", {}, build)
    assert seen == [[], ["step.pt"]]
    assert sorted(found.name for found in path.iterdir()) == ["complete.json", "weights"]
    assert not list(tmp_path.rglob("step.pt"))


def test_what_builds_left_that_never_ended_is_forgotten_in_its_time_too(cache):
    def stopped(folder: Path, unfinished: Path) -> None:
        (unfinished / "step.pt").write_text("learned so far")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.load_or_build("evaluator", {"data": "abc"}, stopped)
    (cache.root / "evaluator" / ".killed.draft").mkdir()
    (cache.root / "evaluator" / ".killed.draft" / "half.bin").write_text("learned so far")
    whole, _ = cache.load_or_build("evaluator", {}, Builder())
    made = datetime.now(UTC)
    assert cache.forget("evaluator", made - timedelta(days=1)) == 0
    os.utime(whole, (0, 0))
    assert cache.forget("evaluator", made - timedelta(days=1)) == 1
    assert cache.forget("evaluator", made + timedelta(days=1)) == 2
    assert {path.suffix for path in (cache.root / "evaluator").iterdir()} == {".lock"}


def test_what_is_being_built_is_not_forgotten_and_nobody_waits_for_it(cache):
    found = []

    def build(folder: Path, unfinished: Path) -> None:
        (unfinished / "step.pt").write_text("learned so far")
        found.append(cache.forget("evaluator", datetime.now(UTC) + timedelta(days=1)))
        (folder / "weights").write_text((unfinished / "step.pt").read_text())

    cache.load_or_build("evaluator", {}, build)
    assert found == [0]
