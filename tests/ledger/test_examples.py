"""The ledger by example: every entry of a deposit, a payment, a declined payment and a compensated payment.

Amounts are in cents. `external` is money entering or leaving PayFlow, `clearing` money between two wallets.
"""

from __future__ import annotations

import hashlib
import json

import pytest

from ledger.chain import Kind, Posting
from ledger.posting import post
from payflow import clock
from tests.ledger.books import assert_sound, stored

ALICE, BOB = "wal_alice", "wal_bob"
TXN = "txn_00000000000000000000000000000001"
HEADINGS = ("_id", "wallet_id", "sequence", "kind", "amount_minor", "balance_minor", "contra", "reason")


def book() -> list[tuple]:
    """Return every entry, Alice's first, as a row under HEADINGS."""
    return [tuple(entry[name] for name in HEADINGS) for entry in stored()]


@pytest.fixture
def _alice_has_100_00() -> None:
    post([Posting("key_1:deposit", ALICE, Kind.DEPOSIT, 10_000, "USD")])


@pytest.mark.usefixtures("_alice_has_100_00")
def test_a_deposit() -> None:
    """Money arrives from outside."""
    assert book() == [
        ("key_1:deposit", ALICE, 1, "DEPOSIT", 10_000, 10_000, "external", ""),
    ]
    assert_sound()


@pytest.mark.usefixtures("_alice_has_100_00")
def test_a_payment() -> None:
    """Alice pays Bob 30.00: out of her wallet into clearing, out of clearing into his."""
    post([Posting(f"{TXN}:debit", ALICE, Kind.DEBIT, 3_000, "USD", TXN)])
    assert book() == [
        ("key_1:deposit", ALICE, 1, "DEPOSIT", 10_000, 10_000, "external", ""),
        (f"{TXN}:debit", ALICE, 2, "DEBIT", -3_000, 7_000, "clearing", ""),
    ]
    # In between, the money is in flight: deposits 100.00 = balances 70.00 + in flight 30.00.
    assert assert_sound().sums["USD"].in_flight == 3_000

    post([Posting(f"{TXN}:credit", BOB, Kind.CREDIT, 3_000, "USD", TXN)])
    assert book() == [
        ("key_1:deposit", ALICE, 1, "DEPOSIT", 10_000, 10_000, "external", ""),
        (f"{TXN}:debit", ALICE, 2, "DEBIT", -3_000, 7_000, "clearing", ""),
        (f"{TXN}:credit", BOB, 1, "CREDIT", 3_000, 3_000, "clearing", ""),
    ]
    assert assert_sound().sums["USD"].in_flight == 0


@pytest.mark.usefixtures("_alice_has_100_00")
def test_a_declined_payment() -> None:
    """Alice wants to pay 900.00: the refusal is an entry too, so that it is decided once and for all."""
    post([Posting(f"{TXN}:debit", ALICE, Kind.DEBIT, 90_000, "USD", TXN)])
    assert book() == [
        ("key_1:deposit", ALICE, 1, "DEPOSIT", 10_000, 10_000, "external", ""),
        (f"{TXN}:debit", ALICE, 2, "DECLINED", 0, 10_000, "clearing", "insufficient_balance"),
    ]
    assert stored()[1]["requested_minor"] == 90_000
    assert_sound()


@pytest.mark.usefixtures("_alice_has_100_00")
def test_a_compensated_payment() -> None:
    """Bob's wallet cannot be credited: clearing gives the money back to Alice."""
    post([Posting(f"{TXN}:debit", ALICE, Kind.DEBIT, 3_000, "USD", TXN)])
    post([Posting(f"{TXN}:refund", ALICE, Kind.REFUND, 3_000, "USD", TXN)])
    assert book() == [
        ("key_1:deposit", ALICE, 1, "DEPOSIT", 10_000, 10_000, "external", ""),
        (f"{TXN}:debit", ALICE, 2, "DEBIT", -3_000, 7_000, "clearing", ""),
        (f"{TXN}:refund", ALICE, 3, "REFUND", 3_000, 10_000, "clearing", ""),
    ]
    assert assert_sound().sums["USD"].in_flight == 0


@pytest.mark.usefixtures("_alice_has_100_00")
def test_a_withdrawal() -> None:
    """Money leaves for outside; what is not there does not."""
    post([Posting("key_2:withdrawal", ALICE, Kind.WITHDRAWAL, 10_000, "USD")])
    post([Posting("key_3:withdrawal", ALICE, Kind.WITHDRAWAL, 1, "USD")])
    assert book() == [
        ("key_1:deposit", ALICE, 1, "DEPOSIT", 10_000, 10_000, "external", ""),
        ("key_2:withdrawal", ALICE, 2, "WITHDRAWAL", -10_000, 0, "external", ""),
        ("key_3:withdrawal", ALICE, 3, "DECLINED", 0, 0, "external", "insufficient_balance"),
    ]
    assert_sound()


@pytest.mark.usefixtures("_alice_has_100_00")
def test_the_hash_of_an_entry_can_be_recomputed_by_anyone() -> None:
    """SHA-256 over a JSON array of the content, the time in milliseconds, and the hash before."""
    post([Posting(f"{TXN}:debit", ALICE, Kind.DEBIT, 3_000, "USD", TXN)])
    first, second = stored()
    assert first["previous_hash"] == "0" * 64
    assert second["previous_hash"] == first["hash"]
    content = [
        f"{TXN}:debit", ALICE, 2, "DEBIT", -3_000, 7_000, 3_000, "USD", "clearing", TXN, "",
        clock.epoch_ms(second["created_at"]), first["hash"],
    ]  # fmt: skip
    canonical = json.dumps(content, separators=(",", ":"))
    assert second["hash"] == hashlib.sha256(canonical.encode()).hexdigest()
