"""The real stack over HTTP while its processes die: what was answered happens once, and the ledger agrees."""

from __future__ import annotations

import signal

import pytest
import requests

from payflow import crashpoints
from payflow.crashpoints import Action
from payflow.stack.stack import Stack
from tests.chaos.people import Person, eventually

pytestmark = pytest.mark.usefixtures("audited")


@pytest.mark.parametrize(
    "point", ["saga.debit_posted", "saga.debited", "saga.credit_decided", "saga.credit_posted"]
)
def test_a_worker_killed_between_debit_and_credit_changes_nothing_in_the_end(
    point: str, stack: Stack, alice: Person, bob: Person
) -> None:
    """Whoever reaches the point kills the worker's whole process group, itself included, with SIGKILL."""
    before = stack.supervisor.restarts("saga")
    crashpoints.arm(stack.data_dir, point, Action.KILL_GROUP)
    transaction = alice.pay(bob, "25.00")
    eventually(lambda: stack.supervisor.restarts("saga"), lambda restarts: restarts > before)
    assert [hit.point for hit in crashpoints.hits(stack.data_dir)].count(point) == 1
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


@pytest.mark.parametrize(
    "point", ["batch.planned", "batch.written", "batch.decided", "start.inserted", "start.pushed"]
)
def test_a_web_server_killed_in_the_middle_of_a_batch_leaves_no_half_of_it(
    point: str, stack: Stack, alice: Person, bob: Person
) -> None:
    """Nobody repeats the request before recovery has finished it; the repeat finds it done."""
    crashpoints.arm(stack.data_dir, point, Action.KILL_PROCESS)
    transfers = [{"receiver_id": bob.id, "amount": "1.00", "reference": f"r{n}"} for n in range(40)]
    with pytest.raises(requests.RequestException):
        alice.post("/transactions/batch", {"transfers": transfers}, key="k")
    assert [hit.point for hit in crashpoints.hits(stack.data_dir)].count(point) == 1
    eventually(bob.balance, lambda balance: balance == "40.00")
    repeated = eventually(
        lambda: alice.post("/transactions/batch", {"transfers": transfers}, key="k"),
        lambda answer: answer.status_code == 201,
    )
    assert repeated.headers["Idempotent-Replayed"] == "true"
    for result in repeated.json()["results"]:
        assert alice.wait_for_end(result["transaction"]["id"])["status"] == "COMPLETED"
    assert alice.get(f"/transactions/batch/{repeated.json()['id']}")["finished"] is True
    assert (alice.balance(), bob.balance()) == ("60.00", "40.00")


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
