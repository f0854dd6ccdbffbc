"""How much memory a runner process may have when nothing else is set."""

from __future__ import annotations

import os
from pathlib import Path

GROUPS, OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Where Linux tells what control groups are allowed, and of which one this process is."""


def memory_here() -> int:
    """Bytes: nine tenths of what this machine has or, where that is less, its container or service may use."""
    lines = _text(OWN_GROUP).splitlines()
    group = GROUPS / next((line[3:].lstrip("/") for line in lines if line.startswith("0::")), "")
    places = [folder / "memory.max" for folder in (group, *group.parents)]
    places.append(GROUPS / "memory" / "memory.limit_in_bytes")  # of version 1
    limits = [int(text) for place in places if (text := _text(place).strip()).isdigit()]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits]) * 9 // 10


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
