"""The one Redis client. Whatever it holds may be lost at any moment; nothing here is the truth.

Every connection that a request uses is of a class made by `budgeted`: the shared client's, the Django cache's
and the broker's (payflow/broker_transport.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from payflow import circuits
from payflow.errors import Transient

_SILENT = "Redis is not answering. Try again shortly."
# Each of the greetings that redis-py sends by itself would be one more thing to wait for.
PLAIN: dict[str, Any] = {"protocol": 2, "driver_info": None}


Connection = TypeVar("Connection")


class RedisAway(circuits.ServerAway, redis.TimeoutError):
    """A request does without Redis."""


@contextmanager
def unavailable_is_transient() -> Iterator[None]:
    """Turn "Redis did not answer", or does not count as there, into Transient."""
    try:
        yield
    except redis.RedisError as error:
        raise Transient(_SILENT) from error


def ping(seconds: float | None = None) -> None:
    """Raise Transient unless a new connection to Redis is answered in time, or within `seconds`."""
    seconds = seconds or settings.REDIS_TIMEOUT_SECONDS
    timeouts = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    with unavailable_is_transient():
        connection = redis.Redis.from_url(
            settings.REDIS_URL, **timeouts, retry=Retry(NoBackoff(), 0), **PLAIN
        )
        with connection:
            connection.ping()


SERVER = circuits.Server(
    name="redis",
    ping=ping,
    budget_seconds=lambda: settings.REDIS_REQUEST_SECONDS,
    pause_seconds=lambda: settings.REDIS_SPARED_SECONDS,
    refusal=lambda: RedisAway(_SILENT),
    # That a connection has ended is said by whoever knows whether it had ever been good.
    failures=(redis.TimeoutError,),
)


class _Budgeted:
    """Mixed into a connection class: what a request asks here comes out of its budget for Redis."""

    _has_answered = False
    _is_hurried = False

    def _connect(self) -> Any:
        mine: Any = self
        mine._has_answered = mine._is_hurried = False
        timeouts = mine._socket_connect_timeout, mine._socket_timeout
        with SERVER.errand() as left:
            if left is not None:
                mine._socket_connect_timeout = mine._socket_timeout = left
                mine._is_hurried = True
            try:
                return super()._connect()  # type: ignore[misc]
            except OSError:
                SERVER.failed()
                raise
            finally:
                mine._socket_connect_timeout, mine._socket_timeout = timeouts

    def send_packed_command(self, *args: Any, **named: Any) -> None:
        with SERVER.errand() as left, self._losing():
            self._hurry(left)
            super().send_packed_command(*args, **named)  # type: ignore[misc]

    def read_response(self, *args: Any, **named: Any) -> Any:
        try:
            with SERVER.errand(is_begun=True) as left, self._losing():
                self._hurry(left)
                answer = super().read_response(*args, **named)  # type: ignore[misc]
        except RedisAway:
            # The answer still comes, and is nobody's.
            self.disconnect()  # type: ignore[attr-defined]
            raise
        self._has_answered = True
        return answer

    @contextmanager
    def _losing(self) -> Iterator[None]:
        """Count Redis as away when a new connection breaks. An old one may have been closed meanwhile."""
        try:
            yield
        except redis.ConnectionError:
            if not self._has_answered:
                SERVER.failed()
            raise

    def _hurry(self, left_seconds: float | None) -> None:
        mine: Any = self
        if mine._sock is not None and (left_seconds is not None or self._is_hurried):
            mine._sock.settimeout(mine.socket_timeout if left_seconds is None else left_seconds)
            self._is_hurried = left_seconds is not None


@cache
def budgeted(connection_class: type[Connection]) -> type[Connection]:
    """Return a class of connections that keep to a request's budget."""
    return type(f"Budgeted{connection_class.__name__}", (_Budgeted, connection_class), {})


class Pool(redis.ConnectionPool):
    """A pool of such connections. It opens them lazily and notices a fork by itself."""

    def __init__(self, connection_class: type = redis.Connection, **named: Any) -> None:
        super().__init__(connection_class=budgeted(connection_class), **{**PLAIN, **named})


@cache
def client() -> redis.Redis:
    """Return this process's client."""
    pool = Pool.from_url(
        settings.REDIS_URL,
        decode_responses=True,
        socket_timeout=settings.REDIS_TIMEOUT_SECONDS,
        socket_connect_timeout=settings.REDIS_TIMEOUT_SECONDS,
        # A connection that Redis has closed meanwhile is worth another try. One that hangs is not: left to
        # itself the client would wait four times.
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    )
    return redis.Redis(connection_pool=pool)


def is_spared() -> bool:
    """Say whether Redis counts as away. What can do without it then does not ask."""
    return SERVER.is_away
