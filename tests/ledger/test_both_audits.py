"""The continuous audit and the full one give the same answer on the same ledger, after a round at the latest.

One table for each invariant: what is done to a sound ledger, and where it must show. Each is done twice: to
what the continuous audit has verified already, and before it has looked at anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from bson import ObjectId
from django.conf import LazySettings

from ledger import incremental, monitor
from ledger.audit import audit
from ledger.documents import LedgerEntry
from ledger.verdict import VIOLATIONS_KEPT_MAX
from payflow import clock
from payflow.ids import new_id
from payflow.mongodb import collection
from tests.ledger.books import rehashed, rewrite, with_mac
from tests.transfers.world import balance_of, order_otherwise, person, play, start, wallet_id_of
from transfers import saga, services, tasks
from transfers.documents import Transaction
from transfers.facts import StoredTransactions
from wallets import services as wallets

# A missing tail counts when a later tick misses it as well; and a round may have begun before the deed.
TICKS_IN_A_ROUND = 3
TICKS_MAX = 20


class World:
    """One of everything: completed, declined, refunded, under way; a deposit and a withdrawal."""

    def __init__(self) -> None:
        self.anna, self.bob, self.carl = (person(name, balance_minor=10_000) for name in "abc")
        self.completed = [start(self.anna, self.bob, amount) for amount in (1_000, 700, 300)]
        self.declined = start(self.anna, self.bob, 1_000_000)
        play(*self.completed, self.declined)
        self.refunded = start(self.anna, self.carl, 40)
        saga.debit([self.refunded])
        wallets.freeze_wallets(user_id=self.carl)
        saga.refund(saga.credit([self.refunded]).refused)
        wallets.unfreeze_wallets(user_id=self.carl)
        self.debited = start(self.bob, self.anna, 30)
        saga.debit([self.debited])
        self.initiated = start(self.bob, self.anna, 20)
        wallets.withdraw(user_id=self.anna, currency="USD", amount_minor=50, key=None)

    def chain(self) -> list[dict[str, Any]]:
        wallet = wallet_id_of(self.anna)
        return list(collection(LedgerEntry).find({"wallet_id": wallet}).sort("sequence", 1))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(incremental, "MISSING_SECONDS_MIN", 0)
    return World()


def change(transaction_id: str, **changes: Any) -> None:
    """Change a transaction, and its MAC with it: what other invariants find is tested without L8's help."""
    tamper(transaction_id, **changes)
    order_otherwise(transaction_id)


def tamper(transaction_id: str, **changes: Any) -> None:
    """Change a transaction as somebody without the ledger's key can."""
    done = collection(Transaction).update_one({"_id": transaction_id}, {"$set": changes})
    assert done.modified_count == 1


def drop(*entry_ids: str) -> None:
    assert collection(LedgerEntry).delete_many({"_id": {"$in": entry_ids}}).deleted_count == len(entry_ids)


def cut(wallet_id: str) -> None:
    """Remove the newest entry of a chain."""
    head = collection(LedgerEntry).find_one({"wallet_id": wallet_id}, sort=[("sequence", -1)])
    drop(head["_id"])


def append(wallet_id: str, **changes: Any) -> None:
    """Add an entry that follows the newest one as it should, but for the changes."""
    entries = collection(LedgerEntry)
    head = entries.find_one({"wallet_id": wallet_id}, sort=[("sequence", -1)])
    entry = {
        **head,
        "_id": f"{new_id('op')}:deposit",
        "kind": "DEPOSIT",
        "sequence": head["sequence"] + 1,
        "amount_minor": 5,
        "requested_minor": 5,
        "balance_minor": head["balance_minor"] + 5,
        "contra": "external",
        "transaction_id": None,
        "reason": "",
        "created_at": clock.now(),
        "previous_hash": head["hash"],
        **changes,
    }
    entries.insert_one({**with_mac(rehashed(entry)), **({"mac": changes["mac"]} if "mac" in changes else {})})


def copy_transaction(transaction_id: str, *, is_ours: bool = True, **changes: Any) -> None:
    """Insert a transaction like another one; with `is_ours` with the MAC that only PayFlow can make."""
    row = {**collection(Transaction).find_one({"_id": transaction_id}), "_id": new_id("txn"), **changes}
    row.pop("idempotency_key", None)
    # What has an id that is no text cannot have a MAC either.
    has_mac = is_ours and isinstance(row["_id"], str)
    collection(Transaction).insert_one(services.with_mac(row) if has_mac else row)


def swap_the_parties(world: World) -> None:
    row = collection(Transaction).find_one({"_id": world.completed[0]})
    tamper(world.completed[0], sender_id=row["receiver_id"], receiver_id=row["sender_id"])


def without_a_mac(world: World) -> None:
    collection(Transaction).update_one({"_id": world.completed[0]}, {"$unset": {"key_id": "", "mac": ""}})


def with_the_mac_of_another(world: World) -> None:
    other = collection(Transaction).find_one({"_id": world.completed[1]})
    tamper(world.completed[0], mac=other["mac"])


def compute_anew(world: World, entry: dict[str, Any], **changes: Any) -> None:
    """Change an entry and make every hash after it fit."""
    rewrite(entry["_id"], rehash=True, **changes)
    for before, after in pairwise(world.chain()):
        if before["sequence"] >= entry["sequence"]:
            stored = collection(LedgerEntry).find_one({"_id": before["_id"]})
            rewrite(after["_id"], rehash=True, previous_hash=stored["hash"])


def forget_when_it_is_due(world: World) -> None:
    collection(Transaction).update_one({"_id": world.initiated}, {"$unset": {"due_at": ""}})


def delete_a_transaction(world: World) -> None:
    collection(Transaction).delete_one({"_id": world.completed[0]})


def without_the_index(_: World) -> None:
    collection(LedgerEntry).drop_index("wallet_id_1_sequence_1")


def restored_with_newer_transactions(world: World) -> None:
    """Every entry of the newest transactions is gone, as from a dump that is older than theirs."""
    ids = [f"{id_}:{side}" for id_ in world.completed[1:] for side in ("debit", "credit")]
    wallets_ = collection(LedgerEntry).distinct("wallet_id", {"_id": {"$in": ids}})
    for wallet_id in wallets_:
        entries = list(collection(LedgerEntry).find({"wallet_id": wallet_id}).sort("sequence", 1))
        first = next(i for i, entry in enumerate(entries) if entry["_id"] in ids)
        drop(*[entry["_id"] for entry in entries[first:]])


Deed = Callable[[World], None]
DEEDS: dict[str, dict[str, Deed]] = {
    "L1": {
        "an amount": lambda w: rewrite(f"{w.completed[0]}:debit", amount_minor=-999),
        "a hash": lambda w: rewrite(f"{w.completed[0]}:debit", hash="0" * 64),
        "a reason, with its hash": lambda w: rewrite(f"{w.completed[0]}:debit", rehash=True, reason="x"),
        "a time before the one before": lambda w: rewrite(
            f"{w.completed[0]}:debit", rehash=True, created_at=datetime(2020, 1, 1, tzinfo=UTC)
        ),
        "no entry at all": lambda w: rewrite(f"{w.completed[0]}:debit", balance_minor="many"),
        "an entry is gone": lambda w: drop(f"{w.declined}:debit"),
        "a wallet of its own": lambda w: rewrite(f"{w.completed[0]}:debit", wallet_id=17),
        "the tail is gone": lambda w: cut(wallet_id_of(w.anna)),
        "the index is gone": without_the_index,
    },
    "L2": {
        "overdrawn": lambda w: append(
            wallet_id_of(w.carl),
            _id=f"{new_id('op')}:withdrawal",
            kind="WITHDRAWAL",
            amount_minor=-20_000,
            requested_minor=20_000,
            balance_minor=balance_of(w.carl) - 20_000,
        )
    },
    "L3": {
        "an id that says something else": lambda w: append(wallet_id_of(w.carl), _id="a:withdrawal"),
        "a kind that fits no id": lambda w: compute_anew(w, w.chain()[1], kind="WITHDRAWAL"),
    },
    "L4": {
        "settled twice": lambda w: append(
            wallet_id_of(w.anna),
            _id=f"{w.completed[0]}:refund",
            kind="REFUND",
            amount_minor=1_000,
            requested_minor=1_000,
            balance_minor=balance_of(w.anna) + 1_000,
            contra="clearing",
            transaction_id=w.completed[0],
        ),
        "settled otherwise than decided": lambda w: change(w.completed[0], settlement="REFUND"),
    },
    "L5": {
        "clearing said to be outside": lambda w: compute_anew(w, w.chain()[1], contra="external"),
        "money from clearing that nobody paid in": lambda w: append(
            wallet_id_of(w.carl), _id="txn_x:credit", kind="CREDIT", contra="clearing", transaction_id="txn_x"
        ),
    },
    "L6": {
        "a balance that came from nowhere": lambda w: append(
            wallet_id_of(w.carl), balance_minor=balance_of(w.carl) + 500
        ),
        "a wallet emptied": lambda w: drop(*[e["_id"] for e in w.chain()]),
    },
    "L7": {
        "transactions newer than entries": restored_with_newer_transactions,
        "completed without any entry": lambda w: copy_transaction(w.completed[0]),
        "debited without any entry": lambda w: copy_transaction(w.debited),
        "declined without any entry": lambda w: copy_transaction(w.declined),
        "refunded without any entry": lambda w: copy_transaction(w.refunded),
        "an id that is no text": lambda w: copy_transaction(w.completed[0], _id=ObjectId()),
        "an id of another kind": lambda w: copy_transaction(w.completed[0], _id="zzz"),
        "a transaction is gone": delete_a_transaction,
        "failed without a refund": lambda w: change(w.refunded, failure={"refunded": False}),
        "failed after a credit": lambda w: change(w.completed[0], status="FAILED"),
        "of another amount": lambda w: change(w.completed[0], amount_minor=1),
        "of another wallet": lambda w: change(w.completed[0], receiver_wallet_id=wallet_id_of(w.carl)),
        "under way without a due time": forget_when_it_is_due,
        "due in the far future": lambda w: change(w.debited, due_at=clock.now() + timedelta(days=99)),
        "due at no time": lambda w: change(w.debited, due_at="soon"),
        "of a status that does not exist": lambda w: change(w.completed[0], status=["COMPLETED"]),
    },
    "L8": {
        "a deposit that PayFlow has not written": lambda w: append(wallet_id_of(w.carl), mac="0" * 64),
        "an entry without a MAC": lambda w: rewrite(f"{w.completed[0]}:debit", mac=""),
        "a key that nobody has": lambda w: rewrite(f"{w.completed[0]}:debit", key_id="mine"),
        "a transaction that PayFlow has not written": lambda w: copy_transaction(w.initiated, is_ours=False),
        "a transaction for another receiver": lambda w: tamper(
            w.initiated, receiver_wallet_id=wallet_id_of(w.carl)
        ),
        "a transaction with its parties swapped": swap_the_parties,
        "a transaction of another sender": lambda w: tamper(w.completed[0], sender_id=w.carl),
        "a transaction of another amount": lambda w: tamper(w.initiated, amount_minor=21),
        "a transaction in another currency": lambda w: tamper(w.initiated, currency="EUR"),
        "a transaction that expires later": lambda w: tamper(
            w.initiated, initiated_at=clock.now() + timedelta(days=1)
        ),
        "a transaction begun at no time": lambda w: tamper(w.initiated, initiated_at="today"),
        "a transaction without a MAC": without_a_mac,
        "a transaction with another's MAC": with_the_mac_of_another,
        "a transaction under a key that nobody has": lambda w: tamper(w.completed[0], key_id="mine"),
    },
}  # fmt: skip
CASES = [(invariant, name) for invariant, deeds in DEEDS.items() for name in deeds]


@pytest.fixture(autouse=True)
def _the_index_is_back() -> Iterator[None]:
    yield
    collection(LedgerEntry).delete_many({})
    LedgerEntry.ensure_indexes()


def full() -> set[str]:
    """Return the invariants that the full audit finds broken."""
    return {violation.invariant for violation in audit(transactions=StoredTransactions()).violations}


def continuous() -> set[str]:
    """Return the invariants that the continuous audit finds broken, after a round."""
    for _ in range(TICKS_IN_A_ROUND):
        tasks.audit()
    return set(monitor.latest().counts)


# Nobody has seen it, and no transaction names it.
UNSEEN = {"the tail is gone"}


@pytest.mark.parametrize("is_verified", [True, False], ids=["verified", "new"])
@pytest.mark.parametrize(("invariant", "name"), CASES)
def test_both_audits_answer_alike(world: World, invariant: str, name: str, is_verified: bool) -> None:
    if is_verified:
        assert continuous() == full() == set()
    DEEDS[invariant][name](world)
    answers = {"full": full(), "continuous": continuous()}
    is_found = is_verified or name not in UNSEEN
    assert {who: bool(found) for who, found in answers.items()} == {"full": is_found, "continuous": is_found}
    assert monitor.latest().status == ("VIOLATED" if is_found else "CLEAN")


FORGED = [name for name in DEEDS["L8"] if name.startswith("a transaction")]


@pytest.mark.parametrize("name", FORGED)
def test_both_audits_name_a_transaction_that_is_not_ours(world: World, name: str) -> None:
    before = {row["_id"]: row for row in collection(Transaction).find()}
    assert continuous() == full() == set()
    DEEDS["L8"][name](world)
    (forged,) = [row["_id"] for row in collection(Transaction).find() if before.get(row["_id"]) != row]
    verdict = audit(transactions=StoredTransactions())
    named = {(v.invariant, v.wallet_id, v.transaction_id) for v in verdict.violations}
    continuous()
    found = {(v["invariant"], v["wallet_id"], v["transaction_id"]) for v in monitor.latest().violations}
    assert ("L8", None, forged) in named & found


def test_what_was_repaired_is_clean_for_both(world: World) -> None:
    forget_when_it_is_due(world)
    assert continuous() == full() == {"L7"}
    change(world.initiated, due_at=clock.now())
    assert continuous() == full() == set()


def test_a_round_over_transactions_takes_its_time_and_ends(world: World, settings: LazySettings) -> None:
    settings.AUDIT_TRANSACTIONS_MAX = 2
    tasks.audit()
    first = monitor.latest().rounds["transactions"]
    assert (first.visited, first.ended_at) == (2, None)
    copy_transaction(world.completed[0], _id="txn_0")
    ticks = 1
    while not monitor.latest().counts:
        tasks.audit()
        ticks += 1
        assert ticks < TICKS_MAX
    assert ticks > 3
    assert monitor.latest().rounds["transactions"].ended_at is not None


def test_hundreds_are_all_found_and_all_forgiven(world: World) -> None:
    for _ in range(VIOLATIONS_KEPT_MAX + 20):
        copy_transaction(world.completed[0])
    for _ in range(TICKS_IN_A_ROUND):
        tasks.audit()
    assert monitor.latest().counts == {"L7": VIOLATIONS_KEPT_MAX + 20}
    collection(Transaction).delete_many({"_id": {"$gt": world.initiated}})
    assert continuous() == full() == set()
