"""Small pieces of GitHub-flavoured Markdown, with every name from outside escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_ACTIVE = re.compile(r"([\\`*_\[|~])")
_BLOCK_START = re.compile(r"^(\d*)([#+>-](?!\d)|(?<=\d)[.)](?=\s|$))")


def plain(text: object) -> str:
    """`text` as it reads, whatever it contains: one line, no markup, no HTML, no link."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;")
    line = _ACTIVE.sub(r"\\\1", line)
    line = _BLOCK_START.sub(r"\1\\\2", line)
    return line.replace("@", "@\u200b").replace("://", ":\u200b//")


def bullets(lines: Iterable[str]) -> list[str]:
    """A list of escaped lines."""
    return [f"- {plain(line)}" for line in lines]


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, numeric_from: int = 1) -> list[str]:
    """A table; columns from `numeric_from` on are right-aligned."""
    rule = ["---" if index < numeric_from else "---:" for index in range(len(head))]
    body = [f"| {' | '.join(plain(cell) for cell in row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", f"| {' | '.join(rule)} |", *body]


def folded(summary: str, lines: Iterable[str]) -> list[str]:
    """A section that opens on demand."""
    return [f"<details><summary>{summary}</summary>", "", *lines, "", "</details>"]
