"""Overload: a count for each request that was refused, a log line when it begins and when it ends."""

from __future__ import annotations

import logging
import time

from payflow import metrics

logger = logging.getLogger(__name__)
# Overload is over when nothing was refused for so long.
QUIET_SECONDS = 5.0


class Overload:
    """What one process refuses. Only its event loop calls this."""

    def __init__(self) -> None:
        self._began_at: float | None = None
        self._last_at = 0.0
        self._refused = 0

    def count(self, reason: str, waiting: int) -> None:
        """Count a request that was refused because too many waited."""
        metrics.WEB_REFUSED.labels(reason).inc()
        self._last_at = time.monotonic()
        self._refused += 1
        if self._began_at is None:
            self._began_at = self._last_at
            logger.warning("overload began", extra={"reason": reason, "waiting": waiting})

    def look(self) -> None:
        """Note that it is over, where it is. Called about once a second."""
        if self._began_at is None or time.monotonic() - self._last_at < QUIET_SECONDS:
            return
        seconds = round(self._last_at - self._began_at, 1)
        logger.warning("overload ended", extra={"refused": self._refused, "seconds": seconds})
        self._began_at, self._refused = None, 0
