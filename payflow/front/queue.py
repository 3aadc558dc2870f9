"""Requests that wait for a thread: bounded, and shared out fairly among callers.

Invariants:
- Never more than `waiting_max` requests wait beyond the threads that are idle, and never more than
  `per_caller_max` of one caller. While requests take long, fewer may wait: as many as are likely to be begun
  within `wait_seconds`.
- Callers take turns: one with many requests waiting delays another by one request, not by many.
- A ticket leaves the queue once: it is begun by a thread, or withdrawn, never both.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Any

FULL = "queue_full"
SHARE_USED_UP = "caller_share"
_LATEST_WEIGHS = 0.1
_WAITING_PER_THREAD_MIN = 4


class Ticket:
    """A request that waits, or runs; made and awaited in the event loop."""

    __slots__ = ("_loop", "caller", "entered_at", "environ", "is_waiting", "is_watched", "outcome", "receive")

    def __init__(self, environ: dict[str, Any], caller: str, receive: Callable[[], Awaitable[Any]]) -> None:
        self._loop = asyncio.get_running_loop()
        self.environ = environ
        self.caller = caller
        self.receive = receive
        self.outcome: asyncio.Future[Any] = self._loop.create_future()
        self.entered_at = time.monotonic()
        self.is_waiting = False
        self.is_watched = False

    def settle(self, outcome: Any) -> None:
        """Give it its outcome, from any thread."""
        self._loop.call_soon_threadsafe(self._settle, outcome)

    def _settle(self, outcome: Any) -> None:
        # The server cancels a request whose process ends.
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class FairQueue:
    """The tickets of each caller in their order, the callers in turn. Safe to use from several threads."""

    def __init__(self, *, threads: int, waiting_max: int, per_caller_max: int, wait_seconds: float) -> None:
        self._threads = threads
        self._waiting_max = waiting_max
        self._per_caller_max = per_caller_max
        self._wait_seconds = wait_seconds
        # How long a request takes, as an average in which the latest counts most.
        self._work_seconds = 0.0
        self._idle = threads
        self._count = 0
        self._by_caller: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Return how many requests wait for a thread that is not there yet."""
        return max(0, self._count - self._idle)

    @property
    def is_full(self) -> bool:
        """Return whether nothing more may wait."""
        return self._count - self._idle >= self._limit

    @property
    def _limit(self) -> int:
        """Return how many may wait now: a few for each thread, however long requests take."""
        in_time = self._wait_seconds * self._threads / self._work_seconds if self._work_seconds else math.inf
        return int(min(self._waiting_max, max(in_time, _WAITING_PER_THREAD_MIN * self._threads)))

    @property
    def _share(self) -> int:
        """Return how many of one caller may wait now."""
        limit = self._limit
        share = limit if limit == self._waiting_max else limit * 3 // 4
        return max(1, min(self._per_caller_max, share))

    def enter(self, ticket: Ticket) -> str | None:
        """Let a ticket wait; return the reason where it may not."""
        with self._lock:
            if self.is_full:
                return FULL
            own = self._by_caller.get(ticket.caller)
            if own is None:
                own = self._by_caller[ticket.caller] = deque()
            elif len(own) >= self._share and self._count >= self._idle:
                return SHARE_USED_UP
            own.append(ticket)
            ticket.is_waiting = True
            self._count += 1
            return None

    def take(self) -> Ticket | None:
        """Return the next ticket, or None. The thread that takes one is busy until `done`."""
        with self._lock:
            if not self._by_caller:
                return None
            caller, own = self._by_caller.popitem(last=False)
            ticket = own.popleft()
            if own:
                # Behind the others.
                self._by_caller[caller] = own
            ticket.is_waiting = False
            self._count -= 1
            self._idle -= 1
            return ticket

    def done(self, seconds: float) -> None:
        """Note that a thread is idle again, after it has worked for so long."""
        with self._lock:
            self._idle += 1
            self._work_seconds += (seconds - self._work_seconds) * _LATEST_WEIGHS

    def withdraw(self, ticket: Ticket) -> bool:
        """Take a ticket out; return False where it has been begun, or withdrawn, already."""
        with self._lock:
            if not ticket.is_waiting:
                return False
            own = self._by_caller[ticket.caller]
            own.remove(ticket)
            if not own:
                del self._by_caller[ticket.caller]
            ticket.is_waiting = False
            self._count -= 1
            return True

    def list_waiting(self) -> list[Ticket]:
        """Return every ticket that waits."""
        with self._lock:
            return [ticket for own in self._by_caller.values() for ticket in own]
