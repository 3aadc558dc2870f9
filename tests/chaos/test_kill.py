"""The real stack over HTTP while its processes die: what was answered happens once, and the ledger agrees."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from payflow.stack.stack import Stack

CRASH_POINT = "saga.debited"
ENDS_WITHIN_SECONDS = 90
TERMINAL = {"COMPLETED", "FAILED"}


class Person:
    """A client of the API."""

    def __init__(self, base_url: str, name: str, deposit: str | None = None) -> None:
        self.base_url = base_url
        body = {
            "name": name,
            "email": f"{name}-{uuid.uuid4().hex}@example.com",
            "password": "violet-kettle-42",
        }
        answer = requests.post(f"{base_url}/auth/register", json=body, timeout=30)
        assert answer.status_code == 201, answer.text
        self.id = answer.json()["user"]["id"]
        self.headers = {"Authorization": f"Bearer {answer.json()['access']}"}
        if deposit:
            assert self.post("/wallets/me/deposit", {"amount": deposit}).status_code == 201

    def get(self, path: str) -> Any:
        answer = requests.get(f"{self.base_url}{path}", headers=self.headers, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: dict, key: str | None = None) -> requests.Response:
        headers = self.headers | ({"Idempotency-Key": key} if key else {})
        return requests.post(f"{self.base_url}{path}", json=body, headers=headers, timeout=30)

    def pay(self, receiver: Person, amount: str, key: str | None = None) -> str:
        answer = self.post("/transactions", {"receiver_id": receiver.id, "amount": amount}, key)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def balance(self) -> str:
        return self.get("/wallets/me")["balance"]

    def wait_for_end(self, transaction_id: str) -> dict:
        return _eventually(
            lambda: self.get(f"/transactions/{transaction_id}"), lambda seen: seen["status"] in TERMINAL
        )


def _eventually(read: Callable[[], Any], is_there: Callable[[Any], bool]) -> Any:
    """Read until it is there; fail with what was read last."""
    deadline = time.monotonic() + ENDS_WITHIN_SECONDS
    seen = None
    while time.monotonic() < deadline:
        try:
            seen = read()
        except (requests.RequestException, AssertionError) as error:
            seen = error
        else:
            if is_there(seen):
                return seen
        time.sleep(0.1)
    raise AssertionError(f"not within {ENDS_WITHIN_SECONDS} s; last seen: {seen}")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("stack")
    with Stack.on_free_ports(
        folder, {"PAYFLOW_CRASH_AT": CRASH_POINT, "SAGA_STALLED_AFTER_SECONDS": "2"}
    ) as running:
        yield running


@pytest.fixture
def alice(stack: Stack) -> Person:
    return Person(stack.base_url, "alice", deposit="100.00")


@pytest.fixture
def bob(stack: Stack) -> Person:
    return Person(stack.base_url, "bob")


@pytest.fixture(autouse=True)
def _audited(stack: Stack) -> Iterator[None]:
    yield
    stack.manage("audit", "--expect-settled")


def test_a_worker_killed_between_debit_and_credit_changes_nothing_in_the_end(
    stack: Stack, alice: Person, bob: Person
) -> None:
    """The first debit that the saga worker finishes kills its whole process group with SIGKILL."""
    transaction = alice.pay(bob, "25.00")
    _eventually(lambda: (stack.data_dir / f"crashed-at-{CRASH_POINT}").exists(), bool)
    _eventually(lambda: stack.supervisor.restarts("saga"), lambda restarts: restarts >= 1)
    ended = alice.wait_for_end(transaction)
    assert [move["status"] for move in ended["history"]] == ["INITIATED", "DEBITED", "CREDITED", "COMPLETED"]
    assert (alice.balance(), bob.balance()) == ("75.00", "25.00")


def test_workers_killed_again_and_again_lose_and_double_nothing(
    stack: Stack, alice: Person, bob: Person
) -> None:
    transactions = []
    for burst in range(3):
        transactions += [alice.pay(bob, "1.00", key=f"{burst}-{n}") for n in range(10)]
        stack.supervisor.kill("saga", signal.SIGKILL)
    # A client that never saw its answers repeats every request.
    repeated = [alice.pay(bob, "1.00", key=f"{burst}-{n}") for burst in range(3) for n in range(10)]
    assert repeated == transactions
    assert {alice.wait_for_end(t)["status"] for t in transactions} == {"COMPLETED"}
    assert (alice.balance(), bob.balance()) == ("70.00", "30.00")


def test_a_killed_web_server_comes_back_and_keeps_what_it_answered(
    stack: Stack, alice: Person, bob: Person
) -> None:
    transaction = alice.pay(bob, "5.00")
    stack.supervisor.kill("web", signal.SIGKILL)
    assert alice.wait_for_end(transaction)["status"] == "COMPLETED"
    assert alice.balance() == "95.00"


def test_an_emptied_redis_loses_no_transaction(stack: Stack, alice: Person, bob: Person) -> None:
    assert stack.redis is not None
    transactions = [alice.pay(bob, "1.00", key=f"k{n}") for n in range(10)]
    stack.redis.kill()
    for file in (stack.data_dir / "redis").glob("*.aof"):
        file.unlink()
    stack.heal()
    assert {alice.wait_for_end(t)["status"] for t in transactions} == {"COMPLETED"}
    assert [alice.pay(bob, "1.00", key=f"k{n}") for n in range(10)] == transactions
    assert (alice.balance(), bob.balance()) == ("90.00", "10.00")


def test_a_killed_database_keeps_what_it_acknowledged(stack: Stack, alice: Person, bob: Person) -> None:
    assert stack.mongo is not None
    transactions = [alice.pay(bob, "1.00") for _ in range(10)]
    stack.mongo.kill()
    stack.heal()
    assert {alice.wait_for_end(t)["status"] for t in transactions} == {"COMPLETED"}
    assert (alice.balance(), bob.balance()) == ("90.00", "10.00")
