"""Health: is this process alive, can it serve, is everything it depends on there, does the work get done.

Dependencies decide whether requests should come here (503 if one is down). Reports, which apps register,
say what else an operator should know; they make the status "degraded", and requests still come.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from payflow import mongodb, redisdb
from payflow.errors import Transient

DEPENDENCIES: dict[str, Callable[[], None]] = {"mongodb": mongodb.ping, "redis": redisdb.ping}


@dataclass(frozen=True, slots=True)
class Report:
    """What one part of the system says of itself."""

    is_well: bool
    facts: dict[str, Any]


REPORTS: dict[str, Callable[[], Report]] = {}


def check() -> dict[str, str]:
    """Return "up" or "down" for each dependency. All are asked at once, so the slowest sets the time."""
    with ThreadPoolExecutor(max_workers=len(DEPENDENCIES)) as pool:
        return dict(zip(DEPENDENCIES, pool.map(_verdict, DEPENDENCIES.values()), strict=True))


def _verdict(ping: Callable[[], None]) -> str:
    try:
        ping()
    except Transient:
        return "down"
    return "up"


def reports() -> dict[str, Report]:
    """Return each part's report; one that cannot be made now is left out."""
    made = {}
    for name, report in REPORTS.items():
        try:
            made[name] = report()
        except Transient:
            continue
    return made
