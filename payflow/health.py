"""Health: is this process alive, can it serve, is everything it depends on there."""

from __future__ import annotations

from collections.abc import Callable

from payflow import mongodb, redisdb
from payflow.errors import Transient

DEPENDENCIES: dict[str, Callable[[], None]] = {"mongodb": mongodb.ping, "redis": redisdb.ping}


def check() -> dict[str, str]:
    """Return "up" or "down" for each dependency."""
    verdicts = {}
    for name, ping in DEPENDENCIES.items():
        try:
            ping()
            verdicts[name] = "up"
        except Transient:
            verdicts[name] = "down"
    return verdicts
