"""What commands print for people: plain ASCII, in columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any


def ascii_only(text: str) -> str:
    """Return `text` as a terminal can take it, in one line: what is stored may hold anything."""
    return text.encode("unicode_escape").decode("ascii")


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Yield the lines of a table, or one that says there is nothing."""
    lines = [[ascii_only(str(cell)) for cell in row] for row in rows]
    if not lines:
        yield "  none"
        return
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    for line in (heads, *lines):
        cells = (f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
        yield "  " + "  ".join(cells).rstrip()
