"""Requests that are not begun: counts for the metrics, a log line when overload begins and when it ends."""

from __future__ import annotations

import logging
import time
from collections import Counter

from payflow import metrics
from payflow.api import measuring

logger = logging.getLogger(__name__)
# Overload is over when nothing was refused for so long.
QUIET_SECONDS = 5.0
_NOT_BEGUN = "<not begun>"


class NotBegunCounts:
    """What one process did not begin. Only its event loop calls this.

    The metrics are updated once a second: in a storm they would cost as much as the refusals.
    """

    def __init__(self) -> None:
        self._reasons: Counter[str] = Counter()
        self._answers: Counter[tuple[str, int]] = Counter()
        self._began_at: float | None = None
        self._last_at = 0.0
        self._refused = 0

    def count(self, reason: str) -> None:
        """Count a request by the reason why it was not begun."""
        self._reasons[reason] += 1

    def count_answer(self, method: str, status: int) -> None:
        """Count what such a request was answered."""
        self._answers[method, status] += 1

    def note_overload(self, reason: str, waiting: int) -> None:
        """Note that a request was refused because of overload."""
        self._last_at = time.monotonic()
        self._refused += 1
        if self._began_at is None:
            self._began_at = self._last_at
            logger.warning("overload began", extra={"reason": reason, "waiting": waiting})

    def report(self) -> None:
        """Update the metrics; note that overload is over, where it is. Called about once a second."""
        for reason, count in self._reasons.items():
            metrics.WEB_REFUSED.labels(reason).inc(count)
        for (method, status), count in self._answers.items():
            measuring.count(_NOT_BEGUN, method, status, count)
        self._reasons.clear()
        self._answers.clear()
        if self._began_at is None or time.monotonic() - self._last_at < QUIET_SECONDS:
            return
        seconds = round(self._last_at - self._began_at, 1)
        logger.warning("overload ended", extra={"refused": self._refused, "seconds": seconds})
        self._began_at, self._refused = None, 0
