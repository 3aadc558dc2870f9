"""The audit finds whatever is wrong, names it, and finds nothing where nothing is wrong."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from bson.decimal128 import Decimal128

from ledger import reading
from ledger.chain import Kind
from ledger.documents import LedgerEntry
from ledger.posting import post
from ledger.verdict import VIOLATIONS_KEPT_MAX
from payflow.ids import new_id
from payflow.mongodb import collection
from tests.ledger.books import Books, assert_sound, deposit, leg, make_old, rewrite, stored, wallet_id
from tests.ledger.story import Story, broken, found


def test_finds_nothing_in_an_empty_ledger() -> None:
    verdict = assert_sound(Books())
    assert (verdict.entries, verdict.wallets, verdict.transactions) == (0, 0, 0)


def test_finds_nothing_in_a_clean_history(story: Story) -> None:
    verdict = story.audit(expect_settled=True)
    assert verdict.is_clean
    assert verdict.violations == []
    assert (verdict.entries, verdict.wallets, verdict.transactions, verdict.in_flight) == (7, 2, 3, 0)
    sums = verdict.sums["USD"]
    assert (sums.deposits, sums.withdrawals, sums.balances) == (50_000, 500, 49_500)
    assert (sums.clearing, sums.in_flight) == (0, 0)


def test_counts_money_in_flight(story: Story) -> None:
    waiting = story.books.initiate(story.alice, story.bob, 700)
    story.books.debit(waiting)
    verdict = story.audit()
    assert verdict.is_clean
    assert (verdict.in_flight, verdict.sums["USD"].in_flight, verdict.sums["USD"].clearing) == (1, 700, -700)


def test_keeps_currencies_apart(story: Story) -> None:
    carol, dave = wallet_id(), wallet_id()
    post([deposit(carol, 900, currency="JPY")])
    story.books.pay(carol, dave, 400, "JPY")
    verdict = story.audit()
    assert verdict.is_clean
    assert {currency: sums.balances for currency, sums in verdict.sums.items()} == {"JPY": 900, "USD": 49_500}


def test_unsettled_transactions_are_violations_where_none_is_expected(story: Story) -> None:
    waiting = story.books.initiate(story.alice, story.bob, 700)
    verdict = story.audit(expect_settled=True)
    assert [(v.invariant, v.transaction_id) for v in verdict.violations] == [("L7", waiting)]


# --- Chains -----------------------------------------------------------------------------------------------

TAMPERING: dict[str, tuple[dict[str, Any], set[str]]] = {
    "amount changed": ({"amount_minor": -2_999}, {"L1"}),
    "balance changed": ({"balance_minor": 47_001}, {"L1"}),
    "amount and balance changed": ({"amount_minor": -1, "balance_minor": 49_999}, {"L1"}),
    "requested amount changed": ({"requested_minor": 1}, {"L1"}),
    "hash replaced": ({"hash": "0" * 64}, {"L1"}),
    "previous hash replaced": ({"previous_hash": "f" * 64}, {"L1"}),
    "kind changed": ({"kind": "REFUND"}, {"L1", "L3"}),
    "currency changed": ({"currency": "EUR"}, {"L1"}),
    "contra changed": ({"contra": "external"}, {"L1", "L5"}),
    "reason changed": ({"reason": "because"}, {"L1"}),
    "made older": ({"created_at": datetime(2020, 1, 1, tzinfo=UTC)}, {"L1"}),
    "another transaction's": ({"transaction_id": new_id("txn")}, {"L1", "L3"}),
    "negative balance": ({"balance_minor": -1}, {"L1", "L2"}),
    "beyond the largest amount": ({"requested_minor": 10**16, "amount_minor": -(10**16)}, {"L1"}),
}


@pytest.mark.parametrize(("changes", "invariants"), TAMPERING.values(), ids=TAMPERING.keys())
def test_finds_a_changed_entry_and_names_it(
    story: Story, changes: dict[str, Any], invariants: set[str]
) -> None:
    rewrite(f"{story.paid}:debit", **changes)
    assert {(name, story.alice, 2) for name in invariants} <= found(story.audit())


@pytest.mark.parametrize(("changes", "invariants"), TAMPERING.values(), ids=TAMPERING.keys())
def test_finds_a_changed_entry_when_only_its_wallet_is_audited(
    story: Story, changes: dict[str, Any], invariants: set[str]
) -> None:
    rewrite(f"{story.paid}:debit", **changes)
    assert {(name, story.alice, 2) for name in invariants} <= found(story.audit(wallet_id=story.alice))


# What still shows when the forger recomputes every hash from here to the end of the chain.
FORGED: dict[str, tuple[dict[str, Any], str]] = {
    "amount changed": ({"amount_minor": -2_999}, "L1"),
    "balance changed": ({"balance_minor": 47_001}, "L1"),
    "amount beside what was asked for": ({"amount_minor": -1, "balance_minor": 49_999}, "L1"),
    "sign changed": ({"amount_minor": 3_000, "balance_minor": 53_000}, "L1"),
    "amount of nothing": ({"amount_minor": 0, "requested_minor": 0, "balance_minor": 50_000}, "L1"),
    "beyond the largest amount": ({"requested_minor": 10**16, "amount_minor": -(10**16)}, "L1"),
    "declined but moved": ({"kind": "DECLINED"}, "L1"),
    "previous hash replaced": ({"previous_hash": "f" * 64}, "L1"),
    "currency changed": ({"currency": "EUR"}, "L1"),
    "made older": ({"created_at": datetime(2020, 1, 1, tzinfo=UTC)}, "L1"),
    "overdrawn": ({"amount_minor": -60_000, "requested_minor": 60_000, "balance_minor": -10_000}, "L2"),
    "kind changed": ({"kind": "WITHDRAWAL"}, "L3"),
    "another transaction's": ({"transaction_id": new_id("txn")}, "L3"),
    "no transaction's": ({"transaction_id": None, "contra": "external"}, "L3"),
    "contra changed": ({"contra": "external"}, "L5"),
}


@pytest.mark.parametrize(("changes", "invariant"), FORGED.values(), ids=FORGED.keys())
def test_finds_a_forgery_whose_hashes_all_fit(story: Story, changes: dict[str, Any], invariant: str) -> None:
    rewrite(f"{story.paid}:debit", rehash=True, **changes)
    links = [entry for entry in stored() if entry["wallet_id"] == story.alice][1:]
    for before, after in pairwise(links):
        rewrite(after["_id"], rehash=True, previous_hash=stored_hash(before["_id"]))
    verdict = story.audit()
    assert (invariant, story.alice, 2) in found(verdict)
    assert not any("hash does not cover" in violation.detail for violation in verdict.violations)


def stored_hash(entry_id: str) -> str:
    return next(entry["hash"] for entry in stored() if entry["_id"] == entry_id)


def test_a_forged_hash_breaks_the_chain_at_the_next_entry(story: Story) -> None:
    rewrite(f"{story.paid}:debit", rehash=True, reason="forged")
    assert found(story.audit()) == {("L1", story.alice, 3)}


def test_finds_a_deleted_entry(story: Story) -> None:
    collection(LedgerEntry).delete_one({"_id": f"{story.declined}:debit"})
    verdict = story.audit()
    assert found(verdict) == {("L1", story.alice, 4), ("L7", None, None)}
    assert "sequence 3 should be" in str(verdict.violations[0])


def test_finds_the_first_entry_deleted(story: Story) -> None:
    collection(LedgerEntry).delete_one({"_id": "first:deposit"})
    assert ("L1", story.alice, 2) in found(story.audit())


def test_finds_a_deleted_newest_entry_of_a_transaction(story: Story) -> None:
    collection(LedgerEntry).delete_one({"_id": f"{story.refunded}:refund"})
    verdict = story.audit(expect_settled=True)
    assert "L7" in broken(verdict)
    assert any("FAILED without a refund" in violation.detail for violation in verdict.violations)


def test_finds_an_inserted_entry(story: Story) -> None:
    newest = stored()[-1]
    collection(LedgerEntry).insert_one({**newest, "_id": "extra:deposit", "sequence": newest["sequence"] + 1})
    assert ("L1", newest["wallet_id"], newest["sequence"] + 1) in found(story.audit())


def test_finds_two_swapped_entries(story: Story) -> None:
    entries = collection(LedgerEntry)
    second, third = (
        entry for entry in stored() if entry["wallet_id"] == story.alice and 2 <= entry["sequence"] <= 3
    )
    rewrite(second["_id"], sequence=99)
    rewrite(third["_id"], sequence=2)
    rewrite(second["_id"], sequence=3)
    assert entries.count_documents({"wallet_id": story.alice}) == 5
    assert {("L1", story.alice, 2), ("L1", story.alice, 3)} <= found(story.audit())


def test_finds_an_overdraft_that_is_consistent_in_itself(story: Story) -> None:
    rewrite(
        f"{story.paid}:debit",
        rehash=True,
        amount_minor=-60_000,
        requested_minor=60_000,
        balance_minor=-10_000,
    )
    assert ("L2", story.alice, 2) in found(story.audit())


def test_finds_a_missing_unique_index() -> None:
    post([deposit(wallet_id(), 1)])
    entries = collection(LedgerEntry)
    entries.drop_index("wallet_id_1_sequence_1")
    try:
        assert "unique index" in str(Books().audit().violations[0])
    finally:
        entries.create_index([("wallet_id", 1), ("sequence", 1)], unique=True)


# --- Documents that are no entries ------------------------------------------------------------------------

MALFORMED: dict[str, dict[str, Any]] = {
    "no fields": {},
    "text for an amount": {"amount_minor": "100"},
    "float for an amount": {"amount_minor": 100.0},
    "true for an amount": {"amount_minor": True},
    "decimal for a balance": {"balance_minor": Decimal128("5")},
    "null currency": {"currency": None},
    "unknown kind": {"kind": "GIFT"},
    "list for a kind": {"kind": ["DEBIT"]},
    "number for a transaction": {"transaction_id": 5},
    "text for a time": {"created_at": "yesterday"},
    "additional field": {"note": "hello"},
    "null wallet": {"wallet_id": None},
    "object for a wallet": {"wallet_id": {"a": 1}},
}


@pytest.mark.parametrize("changes", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_document_that_is_no_entry_is_a_violation_not_a_crash(
    story: Story, changes: dict[str, Any]
) -> None:
    id_ = f"{story.paid}:debit"
    if changes:
        rewrite(id_, **changes)
    else:
        collection(LedgerEntry).replace_one({"_id": id_}, {"wallet_id": story.alice, "sequence": 2})
    verdict = story.audit()
    wallet = str(changes.get("wallet_id", story.alice))
    assert ("L1", wallet, 2) in found(verdict)
    assert ("L1", story.alice, 2) in found(story.audit(wallet_id=story.alice)) or "wallet_id" in changes


def test_an_id_that_is_no_text_is_a_violation(story: Story) -> None:
    entry = stored()[-1]
    collection(LedgerEntry).insert_one({**entry, "_id": 7, "sequence": entry["sequence"] + 1})
    assert ("L1", entry["wallet_id"], entry["sequence"] + 1) in found(story.audit())


def test_a_date_beyond_pythons_is_a_violation(story: Story) -> None:
    collection(LedgerEntry).update_one(
        {"_id": f"{story.paid}:debit"}, [{"$set": {"created_at": {"$toDate": 10**15}}}]
    )
    assert ("L1", story.alice, 2) in found(story.audit())


# --- Many, live, large ------------------------------------------------------------------------------------


def test_counts_every_violation_and_keeps_the_first(story: Story) -> None:
    lost = VIOLATIONS_KEPT_MAX + 20
    post([leg(Kind.DEBIT, new_id("txn"), story.alice, 1) for _ in range(lost)])
    verdict = story.audit()
    assert (verdict.violations_count, len(verdict.violations)) == (lost, VIOLATIONS_KEPT_MAX)


def test_raises_no_false_alarm_while_money_moves() -> None:
    books, wallets = Books(), [wallet_id() for _ in range(6)]
    post([deposit(wallet, 10_000) for wallet in wallets])
    stop = threading.Event()

    def transfer(number: int) -> None:
        while not stop.is_set():
            number += 1
            sender, receiver = wallets[number % 6], wallets[(number * 5 + 1) % 6]
            if sender != receiver:
                id_ = books.initiate(sender, receiver, 7)
                if books.debit(id_).kind is Kind.DEBIT:
                    (books.credit if number % 3 else books.refund)(id_)

    movers = [threading.Thread(target=transfer, args=(number,)) for number in (0, 2)]
    for mover in movers:
        mover.start()
    try:
        verdicts = [books.audit() for _ in range(12)]
        verdicts += [books.audit(wallet_id=wallets[0]) for _ in range(4)]
    finally:
        stop.set()
        for mover in movers:
            mover.join()
    assert [str(v) for verdict in verdicts for v in verdict.violations] == []
    assert verdicts[11].entries > verdicts[0].entries
    assert books.audit(expect_settled=True).is_clean


def test_sums_of_moving_money_are_those_before_it_moved(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Money that moves between the two readings must not look like money lost."""
    for wallet in (story.alice, story.bob):
        make_old(wallet)
    reads = reading.Reader.stream
    late = story.books.initiate(story.alice, story.bob, 100)

    def stream(self: reading.Reader, query: Any, **options: Any) -> Any:
        if "_id" in query:
            story.books.debit(late)
        return reads(self, query, **options)

    monkeypatch.setattr(reading.Reader, "stream", stream)
    verdict = story.audit()
    assert not {"L5", "L6"} & broken(verdict)
    assert verdict.sums_until is not None
    assert verdict.sums["USD"].in_flight == 0


def test_memory_does_not_grow_with_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than two batches of entries are alive at once, whatever the ledger holds."""
    monkeypatch.setattr(reading, "BATCH_ENTRIES", 50)
    alive = most = 0

    class Counted(dict[str, Any]):
        def __init__(self, *args: Any) -> None:
            nonlocal alive, most
            super().__init__(*args)
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    lenient = reading.LENIENT.with_options(document_class=Counted)
    monkeypatch.setattr(reading, "LENIENT", lenient)
    books, peaks = Books(), []
    wallets = [wallet_id() for _ in range(20)]
    post([deposit(wallet, 10**6) for wallet in wallets])
    for _ in range(3):
        for round_ in range(4):
            pairs = [(wallets[i], wallets[(i + round_ + 1) % 20]) for i in range(20)]
            ids = [books.initiate(sender, receiver, 10) for sender, receiver in pairs]
            facts = [books.facts[id_] for id_ in ids]
            post([leg(Kind.DEBIT, fact.id, fact.sender_wallet_id, 10) for fact in facts])
            post([leg(Kind.CREDIT, fact.id, fact.receiver_wallet_id, 10) for fact in facts])
            for id_ in ids:
                books.move(id_, "COMPLETED", settlement="CREDIT")
        most = 0
        assert_sound(books)
        peaks.append(most)
    assert peaks[0] > 0
    assert max(peaks) <= 4 * 50 + 20
