"""L8: a person who can write to the database, but has no ledger key, adds or changes no entry unseen.

Each attack computes the chain anew, so every entry is sound but for its MAC. Both audits name it, its wallet
freezes, its money cannot be spent before that, and no receipt is issued over it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.conf import LazySettings

from ledger import incremental, monitor, selectors, settling
from ledger.audit import audit
from ledger.documents import LedgerEntry
from ledger.errors import StillBroken, Unreadable
from ledger.keys import entry_mac
from ledger.posting import post
from payflow import clock
from payflow.crypto.mac_keys import MacKeyring, read_mac_keys
from payflow.errors import Transient
from payflow.ids import new_id
from payflow.mongodb import collection
from payflow.signing import to_base64url
from tests.ledger.books import deposit, rehashed, rewrite
from tests.transfers.world import balance_of, person, play, row_of, start, status_of, wallet_id_of
from transfers import issuing, services, tasks
from transfers.documents import Transaction
from transfers.facts import StoredTransactions
from transfers.receipts import Reader
from transfers.states import Status
from wallets import services as wallet_services
from wallets.documents import Hold, Wallet

Document = dict[str, Any]
MILLION_MINOR = 100_000_000
OLD, NEW = (f"{name}:{to_base64url(bytes(range(n, n + 32)))}" for n, name in ((1, "old"), (101, "new")))


@pytest.fixture(autouse=True)
def _the_second_look_may_follow_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incremental, "MISSING_SECONDS_MIN", 0)


@pytest.fixture
def mallory() -> str:
    return person("mallory", balance_minor=100)


@pytest.fixture
def victim() -> str:
    return person("victim", balance_minor=50_000)


def head_of(user_id: str) -> Document:
    query = {"wallet_id": wallet_id_of(user_id)}
    return dict(collection(LedgerEntry).find_one(query, sort=[("sequence", -1)]))


def following(head: Document, *, operation: str, kind: str, amount: int, transaction: str | None) -> Document:
    """Return the entry that PayFlow would have written, with the MAC of the entry before it."""
    entry = {
        **head,
        "_id": operation,
        "sequence": head["sequence"] + 1,
        "kind": kind,
        "amount_minor": amount,
        "requested_minor": abs(amount),
        "balance_minor": head["balance_minor"] + amount,
        "contra": "clearing" if transaction else "external",
        "transaction_id": transaction,
        "created_at": clock.now(),
        "previous_hash": head["hash"],
    }
    return rehashed(entry)


def a_million(user_id: str) -> Document:
    operation = f"{new_id('op')}:deposit"
    return following(
        head_of(user_id), operation=operation, kind="DEPOSIT", amount=MILLION_MINOR, transaction=None
    )


def audited(user_id: str) -> tuple[set[tuple[str, int | None]], set[tuple[str, int | None]]]:
    """Return what the full and what the continuous audit say of a user's chain: (invariant, sequence)."""
    wallet_id = wallet_id_of(user_id)
    full = audit(transactions=StoredTransactions()).violations
    tasks.audit()
    open_ = monitor.latest().violations
    return (
        {(v.invariant, v.sequence) for v in full if v.wallet_id == wallet_id},
        {(v["invariant"], v["sequence"]) for v in open_ if v["wallet_id"] == wallet_id},
    )


def frozen() -> set[str]:
    return {wallet.id for wallet in Wallet.objects(status="FROZEN") if wallet.frozen_because == [Hold.AUDIT]}


# --- MACs that prove nothing ------------------------------------------------------------------------------


def _own_key(entry: Document, name: str) -> Document:
    own = read_mac_keys([f"{name}:{to_base64url(bytes(range(50, 82)))}"])
    return {**entry, **entry_mac(entry["hash"], own)._asdict()}


def _without(entry: Document) -> Document:
    return {name: value for name, value in entry.items() if name not in ("key_id", "mac")}


FORGERIES: dict[str, tuple[Callable[[Document], Document], str]] = {
    "the MAC of another entry": (lambda entry: entry, "does not fit"),
    "no MAC": (_without, "there is no MAC"),
    "an empty MAC": (lambda entry: {**entry, "mac": ""}, "there is no MAC"),
    "a number": (lambda entry: {**entry, "mac": 7}, "there is no MAC"),
    "no key": (lambda entry: {**entry, "key_id": None}, "there is no MAC"),
    "a key of one's own": (lambda entry: _own_key(entry, "mine"), "'mine', which is not known here"),
    "the name of a real key": (lambda entry: _own_key(entry, "development"), "does not fit"),
}


@pytest.mark.parametrize("name", FORGERIES)
@pytest.mark.parametrize("is_seen_before", [True, False])
def test_a_deposit_that_was_written_into_the_database_is_found(
    mallory: str, victim: str, name: str, is_seen_before: bool
) -> None:
    if is_seen_before:
        tasks.audit()
    forge, reason = FORGERIES[name]
    collection(LedgerEntry).insert_one(forge(a_million(mallory)))
    assert audited(mallory) == ({("L8", 2)}, {("L8", 2)})
    (violation,) = monitor.latest().violations
    assert reason in violation["detail"]
    assert monitor.latest().status == "VIOLATED"
    assert frozen() == {wallet_id_of(mallory)}
    paid = start(victim, person("other"), 5)
    play(paid)
    assert status_of(paid) is Status.COMPLETED


@pytest.mark.parametrize("name", FORGERIES)
def test_its_money_cannot_be_spent_before_the_audit_comes(mallory: str, victim: str, name: str) -> None:
    forge, _ = FORGERIES[name]
    collection(LedgerEntry).insert_one(forge(a_million(mallory)))
    count = collection(LedgerEntry).count_documents({})
    with pytest.raises(Transient):
        wallet_services.withdraw(user_id=mallory, currency="USD", amount_minor=1_000, key=None)
    out = start(mallory, victim, 1_000)
    play(out)
    assert status_of(out) is Status.INITIATED
    with pytest.raises(Unreadable):
        selectors.find_head(wallet_id=wallet_id_of(mallory))
    assert collection(LedgerEntry).count_documents({}) == count
    assert balance_of(victim) == 50_000


def test_a_changed_head_cannot_be_spent_even_if_its_hash_was_left(mallory: str) -> None:
    """The MAC fits the hash, but the hash no longer covers the balance."""
    rewrite(head_of(mallory)["_id"], balance_minor=MILLION_MINOR)
    with pytest.raises(Transient):
        wallet_services.withdraw(user_id=mallory, currency="USD", amount_minor=1_000, key=None)


# --- A transaction, with its entries ----------------------------------------------------------------------


def steal(victim: str, mallory: str, amount: int) -> str:
    """Insert a COMPLETED transaction with a debit and a credit that match.

    It has a good MAC, so that what is found is the entries.
    """
    id_ = new_id("txn")
    honest = row_of(start(victim, mallory, amount))
    collection(Transaction).delete_one({"_id": honest["_id"]})
    now = clock.now()
    history = [
        {"status": s, "at": now, "reason": ""} for s in ("INITIATED", "DEBITED", "CREDITED", "COMPLETED")
    ]
    row = {**honest, "_id": id_, "status": "COMPLETED", "settlement": "CREDIT", "completed_at": now}
    row.pop("due_at", None)
    collection(Transaction).insert_one(services.with_mac({**row, "history": history}))
    for user, kind, signed in ((victim, "DEBIT", -amount), (mallory, "CREDIT", amount)):
        operation = f"{id_}:{kind.lower()}"
        entry = following(head_of(user), operation=operation, kind=kind, amount=signed, transaction=id_)
        collection(LedgerEntry).insert_one(entry)
    return id_


def test_a_transaction_that_was_written_into_the_database_is_found(mallory: str, victim: str) -> None:
    tasks.audit()
    steal(victim, mallory, 50_000)
    verdict = audit(transactions=StoredTransactions())
    assert {(v.invariant, v.wallet_id, v.sequence) for v in verdict.violations} == {
        ("L8", wallet_id_of(user), 2) for user in (victim, mallory)
    }
    tasks.audit()
    open_ = monitor.latest().violations
    assert {(v["invariant"], v["wallet_id"]) for v in open_} == {
        ("L8", wallet_id_of(user)) for user in (victim, mallory)
    }
    assert frozen() == {wallet_id_of(victim), wallet_id_of(mallory)}


@pytest.mark.parametrize("reader", list(Reader))
def test_it_has_no_receipt(settings: LazySettings, mallory: str, victim: str, reader: Reader) -> None:
    id_ = steal(victim, mallory, 50_000)
    with pytest.raises(issuing.LedgerDisagrees, match="the MAC does not fit"):
        issuing.issue_receipt(
            row=row_of(id_), reader=reader, keys=settings.RECEIPT_SIGNING_KEYS, issuer="payflow"
        )


def test_no_receipt_is_issued_while_the_readers_own_chain_ends_in_a_forged_entry(
    settings: LazySettings, mallory: str, victim: str
) -> None:
    """The transaction's entries are genuine; the head that the receipt would vouch for is not."""
    paid = start(mallory, victim, 50)
    play(paid)
    collection(LedgerEntry).insert_one(a_million(mallory))
    keys = settings.RECEIPT_SIGNING_KEYS
    with pytest.raises(issuing.LedgerDisagrees):
        issuing.issue_receipt(row=row_of(paid), reader=Reader.SENDER, keys=keys, issuer="payflow")
    assert issuing.issue_receipt(row=row_of(paid), reader=Reader.RECEIVER, keys=keys, issuer="payflow")


# --- Entries that are genuine elsewhere -------------------------------------------------------------------


def test_a_genuine_entry_proves_nothing_in_another_wallet(mallory: str, victim: str) -> None:
    entry = head_of(victim)
    moved = {**entry, "_id": f"{new_id('op')}:deposit", "wallet_id": wallet_id_of(mallory), "sequence": 2}
    follows = {"previous_hash": head_of(mallory)["hash"], "balance_minor": 100 + entry["amount_minor"]}
    collection(LedgerEntry).insert_one(rehashed({**moved, **follows}))
    assert audited(mallory) == ({("L8", 2)}, {("L8", 2)})


def test_a_genuine_mac_proves_nothing_with_another_hash_or_key(
    settings: LazySettings, mallory: str, victim: str
) -> None:
    settings.LEDGER_KEYS = MacKeyring((*settings.LEDGER_KEYS.keys, *read_mac_keys([OLD]).keys))
    mine, theirs = head_of(mallory), head_of(victim)
    rewrite(mine["_id"], mac=theirs["mac"])
    rewrite(theirs["_id"], key_id="old")
    assert audited(mallory) == ({("L8", 1)}, {("L8", 1)})
    assert audited(victim) == ({("L8", 1)}, {("L8", 1)})


def test_a_chain_that_was_computed_anew_is_found_at_every_entry(mallory: str) -> None:
    wallet_services.deposit(user_id=mallory, currency="USD", amount_minor=7, key=None)
    entries = list(collection(LedgerEntry).find({"wallet_id": wallet_id_of(mallory)}).sort("sequence", 1))
    previous_hash = entries[0]["previous_hash"]
    for entry in entries:
        more = {"balance_minor": entry["balance_minor"] + 1_000, "previous_hash": previous_hash}
        if entry["sequence"] == 1:
            more |= {name: entry[name] + 1_000 for name in ("amount_minor", "requested_minor")}
        forged = rehashed({**entry, **more})
        previous_hash = forged["hash"]
        collection(LedgerEntry).replace_one({"_id": entry["_id"]}, forged)
    assert audited(mallory) == ({("L8", 1), ("L8", 2)}, {("L8", 1)})


def test_staff_cannot_accept_a_forged_entry(mallory: str) -> None:
    collection(LedgerEntry).insert_one(a_million(mallory))
    tasks.audit()
    with pytest.raises(StillBroken, match="L8"):
        settling.settle_wallet(wallet_id_of(mallory), by="sam", accept=True)
    collection(LedgerEntry).delete_one({"wallet_id": wallet_id_of(mallory), "sequence": 2})
    assert settling.settle_wallet(wallet_id_of(mallory), by="sam", accept=False) == 1
    assert monitor.latest().status == "CLEAN"


# --- Changing the keys ------------------------------------------------------------------------------------


def test_a_new_key_makes_macs_and_the_old_one_still_verifies(settings: LazySettings) -> None:
    settings.LEDGER_KEYS = read_mac_keys([OLD])
    alice = person("alice", balance_minor=100)
    tasks.audit()
    # First every process learns the new key, then one after the other uses it.
    for ring, writes_with in (([OLD, NEW], "old"), ([NEW, OLD], "new"), ([OLD, NEW], "old")):
        settings.LEDGER_KEYS = read_mac_keys(ring)
        wallet_services.deposit(user_id=alice, currency="USD", amount_minor=1, key=None)
        assert head_of(alice)["key_id"] == writes_with
    assert audited(alice) == (set(), set())
    assert monitor.latest().status == "CLEAN"
    assert balance_of(alice) == 103


def test_a_key_that_was_removed_makes_its_entries_violations_that_name_it(settings: LazySettings) -> None:
    settings.LEDGER_KEYS = read_mac_keys([OLD])
    alice = person("alice", balance_minor=100)
    settings.LEDGER_KEYS = read_mac_keys([NEW, OLD])
    wallet_services.deposit(user_id=alice, currency="USD", amount_minor=1, key=None)
    settings.LEDGER_KEYS = read_mac_keys([NEW])
    verdict = audit(transactions=StoredTransactions())
    assert [(v.invariant, v.sequence, v.detail) for v in verdict.violations] == [
        ("L8", 1, "the MAC names the key 'old', which is not known here")
    ]
    # What the new key has written is still extended.
    assert post([deposit(wallet_id_of(alice), 1)])
    settings.LEDGER_KEYS = read_mac_keys([NEW, OLD])
    assert audit(transactions=StoredTransactions()).is_clean
