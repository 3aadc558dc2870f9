"""The real stack over HTTP while something it needs is away: what still works, what says so, what returns."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import redis
import requests

from payflow.stack.stack import Stack
from tests.chaos.people import Person, eventually

pytestmark = pytest.mark.usefixtures("audited")
# For some ticks of every duty.
REFUSED_SECONDS = 6.0
NEEDS_MONGODB = ["/wallets", "/wallets/me", "/wallets/me/history", "/transactions", "/transactions/txn_1"]


@contextmanager
def away(pid: int) -> Iterator[None]:
    """A process that hangs: connections to it stay open and nothing answers."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def redis_hangs(stack: Stack) -> Iterator[None]:
    assert stack.redis is not None
    with away(stack.redis.pid):
        yield


@contextmanager
def redis_dies(stack: Stack) -> Iterator[None]:
    assert stack.redis is not None
    stack.redis.kill()
    try:
        yield
    finally:
        stack.heal()


@contextmanager
def mongodb_hangs(stack: Stack) -> Iterator[None]:
    assert stack.mongo is not None
    with away(stack.mongo.pid):
        yield


@contextmanager
def mongodb_dies(stack: Stack) -> Iterator[None]:
    assert stack.mongo is not None
    stack.mongo.kill()
    try:
        yield
    finally:
        stack.heal()


def is_healthy(stack: Stack) -> bool:
    return requests.get(f"{stack.base_url}/health", timeout=30).json()["status"] == "ok"


def says_come_back(answer: requests.Response) -> bool:
    return (
        answer.status_code == 503
        and int(answer.headers["Retry-After"]) > 0
        and answer.json()["code"] == "service_unavailable"
    )


@pytest.mark.parametrize("gone", [redis_hangs, redis_dies])
def test_without_redis_money_is_accepted_and_moves_when_it_is_back(
    gone: Callable, stack: Stack, alice: Person, bob: Person
) -> None:
    with gone(stack):
        sent = alice.post("/transactions", {"receiver_id": bob.id, "amount": "10.00"}, key="dinner")
        assert (sent.status_code, sent.json()["status"]) == (201, "INITIATED")
        again = alice.post("/transactions", {"receiver_id": bob.id, "amount": "10.00"}, key="dinner")
        assert (again.json(), again.headers["Idempotent-Replayed"]) == (sent.json(), "true")
        assert alice.post("/wallets/me/deposit", {"amount": "1.00"}).status_code == 201
        assert alice.post("/wallets/me/withdraw", {"amount": "1.00"}).status_code == 201
        assert alice.balance() == "100.00"
        assert alice.get(f"/transactions/{sent.json()['id']}")["status"] == "INITIATED"
        assert says_come_back(alice.post("/auth/login", alice.credentials))
        health = requests.get(f"{stack.base_url}/health", timeout=30)
        assert (health.status_code, health.json()["dependencies"]["redis"]) == (503, "down")
    assert alice.wait_for_end(sent.json()["id"])["status"] == "COMPLETED"
    assert eventually(lambda: alice.post("/auth/login", alice.credentials).status_code, lambda s: s == 200)
    eventually(lambda: is_healthy(stack), bool)


@pytest.mark.parametrize("gone", [mongodb_hangs, mongodb_dies])
def test_without_mongodb_everything_says_when_to_come_back_and_does(
    gone: Callable, stack: Stack, alice: Person, bob: Person
) -> None:
    with gone(stack):
        for path in NEEDS_MONGODB:
            answer = requests.get(f"{stack.base_url}{path}", headers=alice.headers, timeout=30)
            assert says_come_back(answer), (path, answer.text)
        assert says_come_back(alice.post("/transactions", {"receiver_id": bob.id, "amount": "1.00"}))
        assert says_come_back(alice.post("/wallets/me/deposit", {"amount": "1.00"}))
        assert says_come_back(alice.post("/auth/login", alice.credentials))
        assert requests.get(f"{stack.base_url}/health", timeout=30).status_code == 503
        assert requests.get(f"{stack.base_url}/health/live", timeout=30).status_code == 200
    eventually(lambda: is_healthy(stack), bool)
    # The other web process may find out a second later.
    paid = eventually(
        lambda: alice.post("/transactions", {"receiver_id": bob.id, "amount": "1.00"}, "back"),
        lambda answer: answer.status_code != 503,
    )
    assert alice.wait_for_end(paid.json()["id"])["status"] == "COMPLETED"


def test_without_a_worker_nothing_is_lost_and_health_says_so(
    stack: Stack, alice: Person, bob: Person
) -> None:
    eventually(lambda: is_healthy(stack), bool)
    stack.supervisor.kill("saga", signal.SIGSTOP)
    try:
        transaction = alice.pay(bob, "10.00")
        health = eventually(
            lambda: requests.get(f"{stack.base_url}/health", timeout=30).json(),
            lambda seen: seen["status"] == "degraded",
        )
        assert health["saga"]["status"] == "stalled"
        assert requests.get(f"{stack.base_url}/health/ready", timeout=30).status_code == 200
    finally:
        stack.supervisor.kill("saga", signal.SIGCONT)
    assert alice.wait_for_end(transaction)["status"] == "COMPLETED"
    eventually(lambda: is_healthy(stack), bool)


def test_a_redis_that_refuses_writes_ends_no_worker(stack: Stack, alice: Person, bob: Person) -> None:
    """As one does whose disk or memory is full. A worker that ends too often stops the whole stack."""
    assert stack.redis is not None
    names = ("saga", "webhooks", "beat")
    before = {name: stack.supervisor.restarts(name) for name in names}
    with redis.Redis.from_url(stack.redis.url) as client:
        client.config_set("min-replicas-to-write", 1)
        try:
            with pytest.raises(redis.ResponseError, match="NOREPLICAS"):
                client.set("key", "value")
            transaction = alice.pay(bob, "5.00")
            time.sleep(REFUSED_SECONDS)
        finally:
            client.config_set("min-replicas-to-write", 0)
    assert alice.wait_for_end(transaction)["status"] == "COMPLETED"
    assert {name: stack.supervisor.restarts(name) for name in names} == before
