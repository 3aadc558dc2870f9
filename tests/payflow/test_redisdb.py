"""The Redis client: what a Redis that does not answer turns into."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
import redis
from django.conf import LazySettings, settings
from django.core.cache import caches

from payflow import redisdb
from payflow.errors import Transient
from payflow.rates import Rate
from tests.api.client import join


def test_a_redis_that_answers_is_not_spared() -> None:
    redisdb.ping()
    assert not redisdb.is_spared()


def test_a_redis_that_failed_is_spared_for_a_while(redis_down: None, settings: LazySettings) -> None:
    settings.REDIS_SPARED_SECONDS = 60.0
    with pytest.raises(Transient):
        redisdb.ping()
    assert redisdb.is_spared()
    settings.REDIS_SPARED_SECONDS = 0.0
    assert not redisdb.is_spared()


@pytest.fixture
def redis_hangs(settings: LazySettings) -> Iterator[list[socket.socket]]:
    """A Redis that takes connections and says nothing; yields those it has taken."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings.REDIS_URL = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        settings.REDIS_TIMEOUT_SECONDS, settings.REDIS_SPARED_SECONDS = 0.1, 60.0
        redisdb.client.cache_clear()

        def take() -> None:
            with suppress(OSError):
                while True:
                    taken.append(server.accept()[0])

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        yield taken
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    for connection in taken:
        connection.close()
    redisdb.client.cache_clear()


@pytest.mark.parametrize("timeout", ["socket_timeout", "socket_connect_timeout"])
def test_sessions_wait_for_redis_no_longer_than_all_else(timeout: str) -> None:
    pool = caches["default"]._cache.get_client().connection_pool
    assert pool.connection_kwargs[timeout] == settings.REDIS_TIMEOUT_SECONDS


def test_a_redis_that_hangs_is_waited_for_once(redis_hangs: list[socket.socket]) -> None:
    with pytest.raises(Transient):
        redisdb.ping()
    assert len(redis_hangs) == 1


@pytest.mark.parametrize("headers", [{}, {"Idempotency_Key": "dinner"}])
def test_a_payment_waits_for_a_redis_that_hangs_once(
    redis_hangs: list[socket.socket], settings: LazySettings, headers: dict[str, str]
) -> None:
    anna, bob = join("Anna", cents=100), join("Bob")
    settings.RATE_LIMITS = dict.fromkeys(settings.RATE_LIMITS, Rate(100, 60))
    response = anna.api.post_json("/transactions", {"receiver_id": bob.id, "amount": "1.00"}, **headers)
    assert response.status_code == 201
    assert len(redis_hangs) == 1


def test_a_connection_that_redis_has_closed_is_tried_anew() -> None:
    redisdb.ping()
    other = redis.Redis.from_url(settings.REDIS_URL)
    other.client_kill_filter(_type="normal", skipme=True)
    redisdb.ping()
    assert not redisdb.is_spared()
