"""What somebody writes into `transactions` moves no money: the saga acts on what the ledger proves.

Each attack is driven as recovery drives it, together with an honest transaction, which must come through.
Where the entries are what must show it, the forger is given the MAC that only PayFlow can make.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest
from django.conf import LazySettings

from ledger import selectors as ledger
from payflow import clock
from payflow.ids import new_id
from payflow.mongodb import collection
from tests.transfers import world
from tests.transfers.world import balance_of, row_of, start, status_of
from transfers import batches, issuing, notices, operations, recovery, saga, services
from transfers.documents import Notice, Transaction, TransferBatch
from transfers.issuing import LedgerDisagrees
from transfers.receipts import Reader
from transfers.states import Failure, Status

MUCH = 100_000_000
PATHS = {
    "INITIATED": ["INITIATED"],
    "DEBITED": ["INITIATED", "DEBITED"],
    "CREDITED": ["INITIATED", "DEBITED", "CREDITED"],
    "COMPLETED": ["INITIATED", "DEBITED", "CREDITED", "COMPLETED"],
    "REFUNDING": ["INITIATED", "DEBITED", "REFUNDING"],
    "FAILED": ["INITIATED", "FAILED"],
}
FAILURE = {"code": "x", "detail": "y", "refunded": False}


def standing(status: str, **also: Any) -> dict[str, Any]:
    """Return the fields of a transaction that stands somewhere and is due."""
    past = clock.after(clock.now(), -60)
    history = [{"status": step, "at": past, "reason": ""} for step in PATHS[status]]
    return {"status": status, "history": history, "due_at": past, **also}


def change(transaction_id: str, **fields: Any) -> None:
    """Change a transaction as somebody can who has no key."""
    assert collection(Transaction).update_one({"_id": transaction_id}, {"$set": fields}).modified_count == 1


def insert(like: str, status: str, *, has_mac: bool = True, **also: Any) -> str:
    """Insert a transaction that PayFlow has not written, made from one that it has; return its id."""
    row = {**row_of(like), "_id": new_id("txn"), **standing(status, **also)}
    collection(Transaction).insert_one(services.with_mac(row) if has_mac else row)
    return str(row["_id"])


def recover(*honest: str) -> None:
    """Let recovery find everything that has not ended, again and again."""
    past = {"$set": {"due_at": clock.after(clock.now(), -60)}}
    for _ in range(3):
        collection(Transaction).update_many({"due_at": {"$exists": True}}, past)
        recovery.recover_stalled()
    assert [status_of(id_) for id_ in honest] == [Status.COMPLETED] * len(honest)


def assert_set_aside(
    caplog: pytest.LogCaptureFixture, transaction_id: str, status: str, because: str = ""
) -> None:
    row = row_of(transaction_id)
    assert (row["status"], row["needs_attention"]) == (status, True)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    named = [record for record in errors if getattr(record, "transaction_id", "") == transaction_id]
    assert named
    assert all(because in record.reason for record in named)


ALONE = {
    "debited, the credit decided": ("DEBITED", {"settlement": "CREDIT"}),
    "debited, nothing decided": ("DEBITED", {}),
    "debited, the refund decided": ("DEBITED", {"settlement": "REFUND"}),
    "credited": ("CREDITED", {"settlement": "CREDIT"}),
    "completed": ("COMPLETED", {"settlement": "CREDIT"}),
    "refunding": ("REFUNDING", {"settlement": "REFUND", "failure": FAILURE}),
    "refunded": ("FAILED", {"settlement": "REFUND", "failure": {**FAILURE, "refunded": True}}),
    "declined": ("FAILED", {"failure": FAILURE}),
}


@pytest.mark.parametrize("has_mac", [True, False])
@pytest.mark.parametrize("name", ALONE)
def test_a_status_without_entries_moves_nothing_and_is_not_announced(
    alice: str, bob: str, name: str, has_mac: bool, caplog: pytest.LogCaptureFixture
) -> None:
    status, also = ALONE[name]
    honest = start(alice, bob, 100)
    forged = insert(honest, status, has_mac=has_mac, amount_minor=MUCH, **also)
    with world.listening() as ear:
        recover(honest)
        assert [id_ for id_ in ear.ids() if forged in id_] == []
    assert (balance_of(alice), balance_of(bob)) == (9_900, 100)
    assert ledger.find_entries([f"{forged}:{side}" for side in ("debit", "credit", "refund")]) == {}
    missing = "credit" if status in (Status.CREDITED, Status.COMPLETED) else "debit"
    assert_set_aside(caplog, forged, status, f"there is no {missing}" if has_mac else "the MAC does not fit")


CHANGED = {
    "a larger amount": {"amount_minor": MUCH},
    "a smaller amount": {"amount_minor": 1},
    "another currency": {"currency": "EUR"},
}


@pytest.mark.parametrize("has_mac", [True, False])
@pytest.mark.parametrize("settlement", ["CREDIT", None])
@pytest.mark.parametrize("name", CHANGED)
def test_what_was_changed_after_the_debit_is_not_credited(
    alice: str, bob: str, name: str, settlement: str | None, has_mac: bool, caplog: pytest.LogCaptureFixture
) -> None:
    honest, changed = start(alice, bob, 100), start(alice, bob, 50)
    saga.debit([changed])
    (world.order_otherwise if has_mac else change)(changed, settlement=settlement, **CHANGED[name])
    recover(honest)
    assert (balance_of(alice), balance_of(bob)) == (9_850, 100)
    assert_set_aside(caplog, changed, "DEBITED")


@pytest.mark.parametrize("has_mac", [True, False])
@pytest.mark.parametrize("name", CHANGED)
def test_what_was_changed_before_the_refund_is_not_refunded(
    alice: str, bob: str, name: str, has_mac: bool, caplog: pytest.LogCaptureFixture
) -> None:
    honest, changed = start(alice, bob, 100), start(alice, bob, 50)
    saga.debit([changed])
    act = world.order_otherwise if has_mac else change
    act(changed, **standing("REFUNDING", settlement="REFUND", failure=FAILURE), **CHANGED[name])
    recover(honest)
    assert (balance_of(alice), balance_of(bob)) == (9_850, 100)
    assert_set_aside(caplog, changed, "REFUNDING")


def test_a_completed_payment_that_is_set_back_is_not_refunded(
    alice: str, bob: str, caplog: pytest.LogCaptureFixture
) -> None:
    paid, honest = start(alice, bob, 5_000), start(alice, bob, 100)
    world.play(paid)
    change(paid, **standing("REFUNDING", settlement="REFUND", failure=FAILURE))
    recover(honest)
    assert (balance_of(alice), balance_of(bob)) == (4_900, 5_100)
    assert_set_aside(caplog, paid, "REFUNDING")


@pytest.mark.parametrize("settlement", ["CREDIT", None])
def test_a_refunded_payment_that_is_set_back_is_not_credited(
    alice: str, bob: str, settlement: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    refunded, honest = start(alice, bob, 5_000), start(alice, bob, 100)
    saga.debit([refunded])
    saga.refund([refunded], undecided_because=Failure("x", "y"))
    change(refunded, **standing("DEBITED", settlement=settlement, failure=None))
    recover(honest)
    assert (balance_of(alice), balance_of(bob)) == (9_900, 100)
    assert_set_aside(caplog, refunded, "DEBITED")


@pytest.mark.parametrize(
    ("status", "settlement"), [("DEBITED", "CREDIT"), ("DEBITED", None), ("REFUNDING", "REFUND")]
)
def test_a_declined_payment_that_is_set_on_moves_nothing(
    alice: str, bob: str, status: str, settlement: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    declined, honest = start(alice, bob, 900_000), start(alice, bob, 100)
    world.play(declined)
    change(declined, **standing(status, settlement=settlement, failure=FAILURE))
    recover(honest)
    assert (balance_of(alice), balance_of(bob)) == (9_900, 100)
    assert_set_aside(caplog, declined, status)


def test_the_chain_of_tasks_credits_no_forged_transaction(alice: str, bob: str) -> None:
    """What the saga is given by a message is proven like what recovery finds."""
    honest = start(alice, bob, 100)
    forged = insert(honest, "DEBITED", amount_minor=MUCH, settlement="CREDIT")
    step = saga.credit([*saga.debit([honest]), forged])
    assert step.credited == [honest]
    saga.complete([honest, forged])
    saga.refund([forged], undecided_because=Failure("x", "y"))
    assert (status_of(honest), status_of(forged)) == (Status.COMPLETED, Status.DEBITED)
    assert (balance_of(alice), balance_of(bob)) == (9_900, 100)


@pytest.mark.parametrize("act", [operations.retry, operations.refund])
def test_an_operator_makes_no_money_of_a_forged_transaction(alice: str, bob: str, act: Any) -> None:
    forged = insert(start(alice, bob, 100), "DEBITED", amount_minor=MUCH)
    act(transaction_id=forged, who="ops")
    assert (status_of(forged), row_of(forged)["needs_attention"]) == (Status.DEBITED, True)
    assert (balance_of(alice), balance_of(bob)) == (10_000, 0)


def test_a_flagged_transaction_waits_longer_each_time(alice: str, bob: str) -> None:
    """Recovery does not spin on it."""
    forged = insert(start(alice, bob, 100), "DEBITED", amount_minor=MUCH)
    waits = []
    for _ in range(4):
        change(forged, due_at=clock.after(clock.now(), -60))
        before = clock.now()
        recovery.recover_stalled()
        waits.append((row_of(forged)["due_at"] - before).total_seconds())
        assert recovery.recover_stalled().driven == 0
    assert waits == sorted(waits)
    assert waits[-1] > 2 * waits[0]


# --- What a transaction orders ------------------------------------------------------------------------------

ORDERS: dict[str, Any] = {
    "another amount": {"amount_minor": 5_000},
    "another receiver's wallet": {"receiver_wallet_id": "carl"},
    "another receiver": {"receiver_id": "f" * 24},
    "another sender": {"sender_id": "f" * 24},
    "another sender's wallet": {"sender_wallet_id": "carl"},
    "another time": {"initiated_at": clock.after(clock.now(), 3_600)},
    "another key": {"key_id": "mine"},
    "no MAC": {"mac": None},
    "an amount that is none": {"amount_minor": "much"},
    "a time that is none": {"initiated_at": "today"},
}


def orders(name: str) -> dict[str, Any]:
    """Return the changes; where they name Carl, a wallet of his that holds money."""
    changes = dict(ORDERS[name])
    for field, value in changes.items():
        if value == "carl":
            changes[field] = world.wallet_id_of(world.person("carl", balance_minor=1_000))
    return changes


@pytest.mark.parametrize("name", ["as it stands", *ORDERS])
def test_an_order_that_was_not_given_is_never_debited(
    alice: str, bob: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    honest = start(alice, bob, 100)
    changes = orders(name) if name in ORDERS else {}
    forged = insert(honest, "INITIATED", has_mac=False, **changes)
    with world.listening() as ear:
        recover(honest)
        assert [id_ for id_ in ear.ids() if forged in id_] == []
    assert ledger.find_entries([f"{forged}:debit"]) == {}
    assert (balance_of(alice), balance_of(bob)) == (9_900, 100)
    assert_set_aside(caplog, forged, "INITIATED")


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_that_was_changed_is_never_debited(
    alice: str, bob: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    honest, changed = start(alice, bob, 100), start(alice, bob, 50)
    change(changed, **orders(name))
    recover(honest)
    assert ledger.find_entries([f"{changed}:debit"]) == {}
    assert_set_aside(caplog, changed, "INITIATED")


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_that_was_changed_after_the_debit_goes_no_further(
    alice: str, bob: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    honest, changed = start(alice, bob, 100), start(alice, bob, 50)
    saga.debit([changed])
    change(changed, **orders(name))
    recover(honest)
    entries = ledger.find_entries([f"{changed}:{side}" for side in ("debit", "credit", "refund")])
    assert set(entries) == {f"{changed}:debit"}
    assert_set_aside(caplog, changed, "DEBITED")


@pytest.mark.parametrize("name", ["another receiver", "another sender", "another amount", "no MAC"])
def test_no_receipt_and_no_mail_tells_of_another_order(
    alice: str, bob: str, name: str, settings: LazySettings
) -> None:
    settings.NOTIFICATIONS_ENABLED = True
    changed, honest = start(alice, bob, 50), start(alice, bob, 100)
    world.play(changed, honest)
    change(changed, **orders(name))
    keys = settings.RECEIPT_SIGNING_KEYS
    with pytest.raises(LedgerDisagrees):
        issuing.issue_receipt(row=row_of(changed), reader=Reader.SENDER, keys=keys, issuer="x")
    notices.write_down(transactions_max=10)
    assert notices.write_down(transactions_max=10) == 0
    assert set(collection(Notice).distinct("transaction_id")) == {honest}


def plan_of(sender: str, receiver: str) -> dict[str, Any]:
    """Return a batch of two transfers that is planned and not written yet."""
    wishes = [services.TransferRequest(sender, receiver, None, 10, world.CURRENCY, "") for _ in range(2)]
    batch = batches.start_batch(sender_id=sender, wishes=wishes, key=None)
    collection(Transaction).delete_many({"batch_id": batch.row["_id"]})
    past = clock.after(clock.now(), -60)
    collection(TransferBatch).update_one({"_id": batch.row["_id"]}, {"$set": {"due_at": past}})
    return {**batch.row, "due_at": past}


def test_a_plan_that_was_interrupted_is_carried_out(alice: str, bob: str) -> None:
    plan_of(alice, bob)
    recover()
    assert (balance_of(alice), balance_of(bob)) == (9_980, 20)


def test_a_plan_that_was_changed_orders_nothing(alice: str, bob: str) -> None:
    plan = plan_of(alice, bob)
    changed = {"$set": {"items.0.amount_minor": 5_000}}
    collection(TransferBatch).update_one({"_id": plan["_id"]}, changed)
    recover()
    assert (balance_of(alice), balance_of(bob)) == (9_990, 10)


@pytest.mark.parametrize("has_mac", [True, False])
def test_a_plan_that_was_inserted_orders_nothing(alice: str, bob: str, has_mac: bool) -> None:
    plan = {**plan_of(bob, alice), "_id": new_id("bat"), "sender_id": alice}
    for item in plan["items"]:
        for side in ("sender", "receiver"):
            item[f"{side}_wallet_id"] = world.wallet_id_of(alice if side == "sender" else bob)
        if not has_mac:
            del item["key_id"], item["mac"]
    collection(TransferBatch).delete_many({})
    collection(TransferBatch).insert_one(plan)
    recover()
    assert collection(Transaction).count_documents({"needs_attention": True}) == 2
    assert (balance_of(alice), balance_of(bob)) == (10_000, 0)
