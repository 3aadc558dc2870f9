"""Listening to events: live on the bus, or from a place in the stream and on from there.

What must stay true: from the stream, no event is left out and none comes twice, also when Redis goes away in
between: the last entry read says where to go on. Live, what is told while Redis is away is missed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from payflow.events import CHANNEL, STREAM, STREAM_FIELD

START = "0-0"
STREAM_ID = re.compile(r"[0-9]{1,15}(-[0-9]{1,15})?", re.ASCII)
ENTRIES_MAX = 200
PAUSE_SECONDS_MAX = 5.0
# A restarted Redis that still reads its files refuses with one of these; others are mistakes.
_AWAY = (redis.ConnectionError, redis.TimeoutError)
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Heard:
    """A message as it was told, and its place in the stream unless it was heard live."""

    message: str
    stream_id: str | None = None


def live(say: Say) -> Iterator[Heard]:
    """Yield what is told from now on, without end. `say` hears how the connection fares."""
    client, failures = _client(), 0
    while True:
        pubsub = client.pubsub(ignore_subscribe_messages=True)
        try:
            pubsub.subscribe(CHANNEL)
            pubsub.get_message(timeout=_wait_seconds())  # the confirmation
            if failures:
                say("Redis answers again. What was told meanwhile was missed; the stream may have it.")
            failures = 0
            while True:
                found = pubsub.get_message(timeout=_wait_seconds())
                if found is not None and found["type"] == "message":
                    yield Heard(found["data"])
        except _AWAY:
            failures += 1
            _pause(failures, say)
        finally:
            pubsub.close()


def since(stream_id: str, say: Say) -> Iterator[Heard]:
    """Yield what the stream holds after `stream_id`, then what is added to it, without end."""
    client, last, failures = _client(), stream_id, 0
    is_checked = stream_id == START
    while True:
        try:
            if not is_checked:
                _warn_of_gap(client, last, say)
                is_checked = True
            wait_ms = round(_wait_seconds() * 1000)
            found: Any = client.xread({STREAM: last}, count=ENTRIES_MAX, block=wait_ms)
        except _AWAY:
            failures += 1
            _pause(failures, say)
            continue
        if failures:
            say("Redis answers again.")
        failures = 0
        for _, entries in found:
            for last, fields in entries:
                yield Heard(fields.get(STREAM_FIELD, ""), last)


def pause_seconds(failures: int) -> float:
    """Return how long to leave Redis alone after so many failures in a row: doubling, capped."""
    return min(PAUSE_SECONDS_MAX, 0.1 * 2 ** min(failures, 10))


def _pause(failures: int, say: Say) -> None:
    if failures == 1:
        say("Redis is not answering; trying again.")
    time.sleep(pause_seconds(failures))


def _wait_seconds() -> float:
    """Less than the client's own time limit: silence is no failure."""
    return min(1.0, settings.REDIS_TIMEOUT_SECONDS / 2)


def _client() -> redis.Redis:
    """Not the shared client: one that connects again by itself would hide that something was missed."""
    return redis.Redis.from_url(
        settings.REDIS_URL,
        decode_responses=True,
        socket_timeout=settings.REDIS_TIMEOUT_SECONDS,
        socket_connect_timeout=settings.REDIS_TIMEOUT_SECONDS,
        health_check_interval=10,
        retry=Retry(NoBackoff(), 0),
    )


def _warn_of_gap(client: redis.Redis, stream_id: str, say: Say) -> None:
    first: Any = client.xrange(STREAM, count=1)
    if first and _order(first[0][0]) > _order(stream_id):
        say(f"The stream begins at {first[0][0]}: older events are no longer kept.")


def _order(stream_id: str) -> tuple[int, int]:
    milliseconds, _, number = stream_id.partition("-")
    return int(milliseconds), int(number or 0)
