"""The one error of the stack: a sentence a stranger can act on."""

from pathlib import Path


class StackError(Exception):
    """Says in one sentence what is wrong and what to do; shown to the user without a traceback."""


def tail(log: Path, lines_max: int = 12, bytes_max: int = 16_384) -> str:
    """The end of a log, indented, to stand under the sentence that names the log."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - bytes_max))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line for line in text.splitlines() if line.strip()][-lines_max:]
    return "".join(f"\n    {line}" for line in lines)
