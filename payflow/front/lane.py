"""A lane: threads that run the WSGI application, and the bounded queue before them."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from payflow import metrics
from payflow.front.queue import FairQueue, Ticket

logger = logging.getLogger(__name__)
WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Headers = list[tuple[bytes, bytes]]
WAITED_TOO_LONG = "waited_too_long"
FAILED = "failed"
# As much of a streamed answer is made before the first byte leaves, and then at a time.
STREAM_BYTES = 262_144


@dataclass(frozen=True, slots=True)
class Answer:
    """What the application answers; `rest` makes the parts that follow `body`."""

    status: int
    headers: Headers
    body: bytes
    rest: Rest | None = None


class Rest:
    """The parts of a streamed answer that are not made yet. Each runs in the request's own context."""

    def __init__(
        self, parts: Iterator[bytes], close: Callable[[], None], context: contextvars.Context
    ) -> None:
        self._parts, self._close, self._context = parts, close, context

    def make(self) -> bytes:
        """Return about STREAM_BYTES more; nothing at the end."""
        return self._context.run(_gather, self._parts)

    def close(self) -> None:
        """Let the application clean up."""
        self._context.run(self._close)


class Lane:
    """One pool of threads with its queue. A request is begun within `wait_seconds_max`, or never."""

    def __init__(
        self,
        name: str,
        application: WSGIApplication,
        *,
        threads: int,
        waiting_max: int,
        per_caller_max: int,
        wait_seconds_max: float,
    ) -> None:
        self.name = name
        self.wait_seconds_max = wait_seconds_max
        self.queue = FairQueue(
            threads=threads,
            waiting_max=waiting_max,
            per_caller_max=per_caller_max,
            # Less than is allowed: an estimate is no promise.
            wait_seconds=wait_seconds_max * 0.6,
        )
        self._application = application
        self._threads = threads
        # One entry for each ticket that entered; more than there are tickets where some were withdrawn.
        self._entered: SimpleQueue[bool] = SimpleQueue()
        self._observe_wait = metrics.WEB_WAIT_SECONDS.labels(name).observe

    def start(self) -> None:
        """Start the threads."""
        for number in range(1, self._threads + 1):
            threading.Thread(target=self._work, name=f"{self.name}-{number}", daemon=True).start()

    def stop(self) -> None:
        """Let each thread end once it is idle."""
        for _ in range(self._threads):
            self._entered.put(False)

    def enter(self, ticket: Ticket) -> str | None:
        """Let a ticket wait for a thread; return the reason where it may not."""
        reason = self.queue.enter(ticket)
        if reason is None:
            self._entered.put(True)
        return reason

    def _work(self) -> None:
        while self._entered.get():
            ticket = self.queue.take()
            if ticket is None:
                continue
            began = time.monotonic()
            try:
                outcome = self._run(ticket)
            except Exception:
                logger.exception("the application failed")
                outcome = FAILED
            finally:
                self.queue.done(time.monotonic() - began)
            ticket.settle(outcome)

    def _run(self, ticket: Ticket) -> Answer | str:
        waited = time.monotonic() - ticket.entered_at
        self._observe_wait(waited)
        if waited > self.wait_seconds_max:
            return WAITED_TOO_LONG
        context = contextvars.Context()
        return context.run(_answer, self._application, ticket.environ, context)


def _answer(application: WSGIApplication, environ: dict[str, Any], context: contextvars.Context) -> Answer:
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], error: Any = None) -> None:
        started[:] = [status, headers]

    response = application(environ, start_response)
    close = getattr(response, "close", lambda: None)
    parts = iter(response)
    is_handed_on = False
    try:
        is_stream = getattr(response, "streaming", False)
        body = _gather(parts) if is_stream else b"".join(parts)
        status, headers = started
        is_handed_on = is_stream and len(body) >= STREAM_BYTES
        rest = Rest(parts, close, context) if is_handed_on else None
        return Answer(int(status[:3]), _encoded(headers), body, rest)
    finally:
        if not is_handed_on:
            close()


def _gather(parts: Iterator[bytes]) -> bytes:
    gathered, size = [], 0
    for part in parts:
        gathered.append(part)
        size += len(part)
        if size >= STREAM_BYTES:
            break
    return b"".join(gathered)


def _encoded(headers: list[tuple[str, str]]) -> Headers:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
