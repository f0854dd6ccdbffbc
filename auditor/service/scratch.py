"""A unit's folder, as the parent sees it: what it may read and write in there on behalf of the runner process."""

from __future__ import annotations

import tempfile
from pathlib import Path

from auditor.errors import RunnerFailure, StorageFailure


def unit_folder(scratch: Path) -> tempfile.TemporaryDirectory[str]:
    """A new folder for one unit's files, gone when the block ends."""
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=scratch, prefix="unit-")
    except OSError as error:
        raise StorageFailure(f"no folder for the unit's files could be made: {error.strerror}") from error


def inside(folder: Path, name: str) -> Path:
    """`folder / name`, where `name` is a plain file name: a child cannot make the parent read or write elsewhere."""
    if not name or name in (".", "..") or Path(name).name != name:
        raise RunnerFailure(f"'{name[:80]}' is not a plain file name")
    path = folder / name
    if path.is_symlink():
        raise RunnerFailure(f"the unit left a link, '{name}', instead of a file")
    return path
