"""Beat's scheduler: it publishes nothing to a queue that is long already.

Invariant: without a worker, beat leaves at most QUEUE_MESSAGES_MAX messages in each queue, however long that
lasts. No duty waits longer because of it: a message behind so many others would not be consumed earlier.
"""

from __future__ import annotations

import logging
from typing import Any

from celery.beat import ScheduleEntry, Scheduler

logger = logging.getLogger(__name__)
QUEUE_MESSAGES_MAX = 100


class BoundedScheduler(Scheduler):
    """Celery's own, without its file. Skips a duty while its queue is full; logs when that changes."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._full: set[str] = set()

    def apply_async(
        self, entry: ScheduleEntry, producer: Any = None, advance: bool = True, **named: Any
    ) -> Any:
        """Publish the entry's message, unless its queue is full. A broker that is away is Celery's to log."""
        if self._is_full(entry):
            return None if not advance else self.reserve(entry)
        return super().apply_async(entry, producer=producer, advance=advance, **named)

    def _is_full(self, entry: ScheduleEntry) -> bool:
        queue = self.app.amqp.router.route(entry.options, entry.task)["queue"].name
        # Declaring a queue creates nothing in Redis; the answer has the number of its messages.
        count = self.connection.default_channel.queue_declare(queue).message_count
        is_full = bool(count >= QUEUE_MESSAGES_MAX)
        if is_full != (queue in self._full):
            self._full ^= {queue}
            what = "queue is full; beat publishes nothing to it" if is_full else "queue has room again"
            logger.warning(what, extra={"queue": queue, "messages": count})
        return is_full
