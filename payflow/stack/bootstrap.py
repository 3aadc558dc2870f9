"""Prepares a machine that has Python and nothing else: `python3 payflow/stack/bootstrap.py [--load]`.

Standard library only, and this file alone must parse under a Python that is too old, to be able to say so.
Every part is skipped when nothing changed since it last succeeded, so that a second run takes no time.
"""

from __future__ import annotations

import sys
from pathlib import Path

PYTHON_MIN = (3, 11)


def check_python(version: tuple) -> str | None:
    """The sentence for a Python that is too old, else None."""
    if tuple(version[:2]) >= PYTHON_MIN:
        return None
    return (
        "PayFlow needs Python {}.{} or newer and {} is {}.{}: install a newer one and name it, as in "
        "`make PYTHON=python3.12 run`.".format(*PYTHON_MIN, sys.executable, *version[:2])
    )


def main() -> int:
    """Refuses a Python that is too old, then installs what is missing; returns the exit status."""
    too_old = check_python(sys.version_info)
    if too_old:
        sys.stderr.write(too_old + "\n")
        return 1
    # Run as a file, this folder heads the path and its modules could hide the standard library's.
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)
    from payflow.stack import installation  # noqa: PLC0415 - its syntax needs the Python just checked

    return installation.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
