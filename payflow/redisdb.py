"""The one Redis client. Whatever it holds may be lost at any moment; nothing here is the truth."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from payflow.errors import Transient

_silent_since = float("-inf")
_SILENT = "Redis is not answering. Try again shortly."


@cache
def client() -> redis.Redis:
    """Return this process's client. Its pool opens sockets lazily and notices a fork by itself."""
    return redis.Redis.from_url(
        settings.REDIS_URL,
        decode_responses=True,
        socket_timeout=settings.REDIS_TIMEOUT_SECONDS,
        socket_connect_timeout=settings.REDIS_TIMEOUT_SECONDS,
        health_check_interval=30,
        # A connection that Redis has closed meanwhile is worth another try. One that hangs is not: left to
        # itself the client would wait four times.
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    )


@contextmanager
def unavailable_is_transient() -> Iterator[None]:
    """Turn "Redis did not answer" into Transient, and remember it for `is_spared`."""
    global _silent_since
    try:
        yield
    except redis.RedisError as error:
        _silent_since = time.monotonic()
        raise Transient(_SILENT) from error


def is_spared() -> bool:
    """Say whether Redis has failed this process within the last REDIS_SPARED_SECONDS.

    What can do without it then does not ask: a request must not wait for a Redis that hangs at every step.
    """
    return time.monotonic() - _silent_since < settings.REDIS_SPARED_SECONDS


def ensure_not_spared() -> None:
    """Raise Transient where Redis is spared."""
    if is_spared():
        raise Transient(_SILENT)


def ping() -> None:
    """Raise Transient unless Redis answers."""
    with unavailable_is_transient():
        client().ping()
