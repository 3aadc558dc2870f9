"""Named places where a test or a drill lets a process die, as if its machine had lost power.

Off unless PAYFLOW_CRASH_AT names one: then the first process to reach it kills its whole process group with
SIGKILL. A marker file, written first, makes it happen once, so that the restarted process gets through.
Never in production.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

_ARMED = (
    ""
    if os.environ.get("PAYFLOW_ENV", "production") == "production"
    else os.environ.get("PAYFLOW_CRASH_AT", "")
)


def crash_point(name: str) -> None:
    """Die here if this point is armed and has not been hit before."""
    if name == _ARMED:
        _die_once(name)


def _die_once(name: str) -> None:
    marker = Path(os.environ.get("PAYFLOW_DATA_DIR", ".payflow")) / f"crashed-at-{name}"
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return
    os.killpg(os.getpgrp(), signal.SIGKILL)
