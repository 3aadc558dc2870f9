"""The Redis client: what a Redis that does not answer turns into."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
import redis
from celery import Celery
from django.conf import LazySettings, settings
from django.core.cache import caches
from kombu.exceptions import OperationalError

from payflow import circuits, redisdb
from payflow.rates import Rate
from payflow.stack.drill.proxy import Fault, Proxy
from tests.api.client import join


def test_a_redis_that_answers_is_not_spared() -> None:
    redisdb.ping()
    assert not redisdb.is_spared()


def test_a_redis_that_failed_is_spared(redis_down: None) -> None:
    with pytest.raises(redis.ConnectionError):
        redisdb.client().ping()
    assert redisdb.is_spared()
    with circuits.request_budgets() as accounts:
        with pytest.raises(redisdb.RedisAway):
            redisdb.client().ping()
        assert accounts["redis"].errands == 0


@pytest.fixture
def redis_hangs(settings: LazySettings) -> Iterator[list[socket.socket]]:
    """A Redis that takes connections and says nothing; yields those it has taken."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings.REDIS_URL = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        settings.REDIS_TIMEOUT_SECONDS, settings.REDIS_SPARED_SECONDS = 10.0, 60.0
        settings.REDIS_REQUEST_SECONDS = 0.1
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


def asked(connections: list[socket.socket]) -> list[bytes]:
    """Return what came on each connection, but for those that only pinged."""
    for connection in connections:
        connection.setblocking(False)
    heard = []
    for connection in connections:
        with suppress(BlockingIOError):
            heard.append(connection.recv(65_536))
    return [text for text in heard if b"PING" not in text]


@pytest.mark.parametrize("headers", [{}, {"Idempotency_Key": "dinner"}])
def test_a_payment_waits_for_a_redis_that_hangs_once(
    redis_hangs: list[socket.socket], settings: LazySettings, headers: dict[str, str]
) -> None:
    anna, bob = join("Anna", cents=100), join("Bob")
    settings.RATE_LIMITS = dict.fromkeys(settings.RATE_LIMITS, Rate(100, 60))
    for _ in range(3):
        response = anna.api.post_json("/transactions", {"receiver_id": bob.id, "amount": "0.10"}, **headers)
        assert response.status_code == 201
    assert len(asked(redis_hangs)) == 1


def test_a_connection_that_redis_has_closed_is_tried_again() -> None:
    with circuits.request_budgets():
        redisdb.client().ping()
        other = redis.Redis.from_url(settings.REDIS_URL)
        other.client_kill_filter(_type="normal", skipme=True)
        redisdb.client().ping()
    assert not redisdb.is_spared()


def test_a_redis_that_resets_every_connection_counts_as_away(
    redis_proxy: Proxy, settings: LazySettings
) -> None:
    settings.REDIS_SPARED_SECONDS = 60.0
    redis_proxy.set(Fault(resets=True))
    with circuits.request_budgets(), pytest.raises(redis.RedisError):
        redisdb.client().ping()
    assert redisdb.is_spared()


def test_an_answer_that_comes_too_late_is_given_to_no_later_question(
    redis_proxy: Proxy, settings: LazySettings
) -> None:
    client = redisdb.client()
    client.set("late", "the late one")
    client.set("next", "the next one")
    settings.REDIS_REQUEST_SECONDS = 0.2
    redis_proxy.set(Fault(delay_seconds=1.0))
    with circuits.request_budgets():
        for _ in range(3):
            with pytest.raises(redis.TimeoutError):
                client.get("late")
    settings.REDIS_REQUEST_SECONDS = 20.0
    redisdb.SERVER.answers()
    with circuits.request_budgets():
        assert client.get("next") == "the next one"


def test_outside_of_a_request_redis_is_given_its_time(redis_proxy: Proxy, settings: LazySettings) -> None:
    settings.REDIS_REQUEST_SECONDS, settings.REDIS_TIMEOUT_SECONDS = 0.05, 30.0
    redisdb.client.cache_clear()
    redis_proxy.set(Fault(delay_seconds=0.3))
    assert redisdb.client().ping()
    with circuits.request_budgets(), pytest.raises(redis.TimeoutError):
        redisdb.client().ping()
    assert redisdb.is_spared()
    assert redisdb.client().ping()


def test_publishing_keeps_to_the_budget_of_its_request(redis_proxy: Proxy, settings: LazySettings) -> None:
    app = Celery("test", broker=settings.REDIS_URL, set_as_current=False)
    app.conf.task_publish_retry = False
    app.send_task("nothing.listens")
    settings.REDIS_REQUEST_SECONDS = 0.2
    redis_proxy.set(Fault(is_silent=True))
    with circuits.request_budgets() as accounts:
        with pytest.raises((OperationalError, redis.RedisError)):
            app.send_task("nothing.listens")
        assert redisdb.is_spared()
        assert accounts["redis"].spent_seconds < 5, "the broker's own time limit is ten seconds"
        errands = accounts["redis"].errands
        with pytest.raises((OperationalError, redis.RedisError)):
            app.send_task("nothing.listens")
        assert accounts["redis"].errands == errands
    redis_proxy.clear()
    redisdb.SERVER.answers()
    with circuits.request_budgets():
        app.send_task("nothing.listens")
    app.close()


def test_the_admin_s_sessions_keep_to_the_budget() -> None:
    pool = caches["default"]._cache.get_client().connection_pool
    assert pool.connection_class is redisdb.budgeted(redis.Connection)
