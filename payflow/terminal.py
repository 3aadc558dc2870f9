"""What commands print for people (plain ASCII, in columns), and how they read numbers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from payflow.text import is_visible, read_number


def whole_number(minimum: int, maximum: int) -> Callable[[str], int]:
    """Return the argparse type of a whole number in plain ASCII digits."""

    def read(given: str) -> int:
        number = read_number(given, minimum=minimum, maximum=maximum)
        if number is None:
            raise argparse.ArgumentTypeError(f"a whole number from {minimum} to {maximum}")
        return number

    return read


def visible_line(length_max: int) -> Callable[[str], str]:
    """Return the argparse type of one line of visible text, without blanks around it."""

    def read(given: str) -> str:
        line = given.strip()
        if len(line) > length_max or not is_visible(line):
            raise argparse.ArgumentTypeError(f"one line of 1 to {length_max} visible characters")
        return line

    return read


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
