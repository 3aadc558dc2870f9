"""The ASGI application that stands before Django.

Invariants:
- `GET /health/live` needs no thread and no server; the other probes have threads of their own.
- A thread is taken only for a request whose body is here and whose client is still there.
- What waits is bounded; beyond the bound a request is refused before any work is done for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from payflow import metrics
from payflow.api import measuring, problems
from payflow.front import answers
from payflow.front.bodies import BODY_TOO_SLOW, CLIENT_LEFT, Bodies
from payflow.front.callers import caller_of
from payflow.front.environ import environ_of, sketch_of
from payflow.front.errors import NotBegun
from payflow.front.lane import FAILED, WAITED_TOO_LONG, Answer, Lane, WSGIApplication
from payflow.front.overload import NotBegunCounts
from payflow.front.queue import FULL, Ticket
from payflow.front.streams import Streams

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PROBES = frozenset({b"/health", b"/health/live", b"/health/ready", b"/metrics"})
PROBE_THREADS = 2
PROBES_WAITING_MAX = 64
# How often the waiting are looked at: which clients have left, which requests have waited too long.
LOOK_EVERY_SECONDS = 0.1
LOOKS_PER_REPORT = 10
STREAMS = "streams"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How much one web process does at once, and lets wait."""

    threads: int
    waiting_max: int
    per_caller_max: int
    wait_seconds_max: float
    body_seconds_max: float


class Front:
    """Admits requests to `application`, in one process."""

    def __init__(self, application: WSGIApplication, shape: Shape) -> None:
        self.api = Lane(
            "api",
            application,
            threads=shape.threads,
            waiting_max=shape.waiting_max,
            per_caller_max=shape.per_caller_max,
            wait_seconds_max=shape.wait_seconds_max,
        )
        self.probes = Lane(
            "probes",
            application,
            threads=PROBE_THREADS,
            waiting_max=PROBES_WAITING_MAX,
            per_caller_max=PROBES_WAITING_MAX // 2,
            wait_seconds_max=shape.wait_seconds_max,
        )
        self._bodies = Bodies(shape.body_seconds_max)
        self._streams = Streams()
        self._not_begun = NotBegunCounts()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request, or the server's start and stop."""
        if scope["type"] == "lifespan":
            await receive()
            self.start()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self.stop()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)

    # --- The process --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the threads, and look at what waits from now on."""
        self.api.start()
        self.probes.start()
        self._spawn(self._look())

    def stop(self) -> None:
        """Stop them; every request has been answered."""
        for task in self._tasks:
            task.cancel()
        self.api.stop()
        self.probes.stop()
        self._streams.stop()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        # The loop itself keeps no task alive.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self) -> None:
        looks = 0
        while True:
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            looks += 1
            for lane in (self.api, self.probes):
                self._look_at(lane)
                if looks % LOOKS_PER_REPORT == 0:
                    metrics.WEB_WAITING.labels(lane.name).set(lane.queue.waiting)
            if looks % LOOKS_PER_REPORT == 0:
                self._not_begun.report()

    def _look_at(self, lane: Lane) -> None:
        if not lane.queue.waiting:
            return
        now = time.monotonic()
        for ticket in lane.queue.list_waiting():
            if now - ticket.entered_at > lane.wait_seconds_max:
                if lane.queue.withdraw(ticket):
                    ticket.settle(WAITED_TOO_LONG)
            elif not ticket.is_watched:
                ticket.is_watched = True
                self._spawn(_watch(ticket, lane))

    # --- A request ----------------------------------------------------------------------------------------

    async def _serve(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["raw_path"] == answers.LIVE.encode() and await _say_live(scope, send):
            return
        lane = self.probes if scope["raw_path"] in PROBES else self.api
        if lane.queue.is_full:
            await self._refuse(FULL, lane, scope, send)
            return
        try:
            answer = await self._admit(lane, environ_of(scope), receive)
        except NotBegun as error:
            await self._refuse(error.reason, lane, scope, send)
            return
        await _send(answer, send)
        if answer.rest:
            await self._streams.send(answer.rest, receive, send)

    async def _admit(self, lane: Lane, environ: dict[str, Any], receive: Receive) -> Answer:
        """Read the body, wait for a thread, return what the application answers. Raises NotBegun."""
        caller = caller_of(environ)
        held = await self._bodies.read(environ, caller, receive)
        try:
            ticket = Ticket(environ, caller, receive)
            if reason := lane.enter(ticket):
                raise NotBegun(reason)
            outcome = await ticket.outcome
        finally:
            self._bodies.release(caller, held)
        if outcome == FAILED:
            return answers.refuse(problems.InternalError, environ)
        if not isinstance(outcome, Answer):
            raise NotBegun(outcome)
        if outcome.rest and self._streams.is_full:
            await self._streams.close(outcome.rest)
            raise NotBegun(STREAMS)
        return outcome

    async def _refuse(self, reason: str, lane: Lane, scope: Message, send: Send) -> None:
        """Answer a request that is not begun, if its client is still there."""
        self._not_begun.count(reason)
        if reason == CLIENT_LEFT:
            return
        if reason == BODY_TOO_SLOW:
            answer = answers.refuse(problems.BodyTooSlow, sketch_of(scope))
        else:
            self._not_begun.note_overload(reason, lane.queue.waiting)
            answer = answers.refuse(problems.Overloaded, sketch_of(scope))
        self._not_begun.count_answer(scope["method"], answer.status)
        await _send(answer, send)


async def _say_live(scope: Message, send: Send) -> bool:
    """Answer whether this process is alive; return False where there is more to the request than that."""
    began, sketch = time.perf_counter(), sketch_of(scope)
    has_body = "CONTENT_LENGTH" in sketch or "HTTP_TRANSFER_ENCODING" in sketch
    if has_body or scope["query_string"] or scope["method"] not in ("GET", "HEAD"):
        return False
    await _send(answers.say_live(sketch), send)
    measuring.record("live", scope["method"], 200, began)
    return True


async def _send(answer: Answer, send: Send) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    more = answer.rest is not None
    await send({"type": "http.response.body", "body": answer.body, "more_body": more})


async def _watch(ticket: Ticket, lane: Lane) -> None:
    """Withdraw a ticket whose client leaves while it waits."""
    while (await ticket.receive())["type"] != "http.disconnect":
        pass
    if lane.queue.withdraw(ticket):
        ticket.settle(CLIENT_LEFT)
