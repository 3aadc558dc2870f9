"""A wallet whose newest entry is none takes no posting, and stops nobody else."""

from __future__ import annotations

from typing import Any

import pytest
from bson.datetime_ms import DatetimeMS

from ledger import selectors
from ledger.documents import LedgerEntry
from ledger.errors import Unreadable
from ledger.posting import post
from payflow.mongodb import collection
from tests.ledger.books import deposit, wallet_id


def break_head(wallet: str, change: dict[str, Any]) -> None:
    collection(LedgerEntry).update_one({"wallet_id": wallet}, change)


BREAKS: list[dict[str, Any]] = [
    {"$set": {"kind": "X"}},
    {"$unset": {"hash": ""}},
    {"$unset": {"sequence": ""}},
    {"$set": {"balance_minor": "10"}},
    {"$set": {"sequence": 2**63 - 1}},
    {"$set": {"created_at": DatetimeMS(10**15)}},
    {"$set": {"balance_minor": 1_000_000}},
    {"$set": {"mac": "0" * 64}},
    {"$unset": {"mac": "", "key_id": ""}},
    {"$set": {"key_id": "another"}},
]


@pytest.mark.parametrize("change", BREAKS, ids=str)
@pytest.mark.parametrize("with_heads", [True, False])
def test_a_broken_head_stops_its_wallet_and_nobody_else(change: dict[str, Any], with_heads: bool) -> None:
    broken, sound, fresh = wallet_id(), wallet_id(), wallet_id()
    post([deposit(broken, 100), deposit(sound, 100)])
    break_head(broken, change)
    count = collection(LedgerEntry).count_documents({})
    heads = selectors.read_heads([broken, sound, fresh]) if with_heads else None
    mine = [deposit(wallet, 1) for wallet in (broken, sound, fresh)]
    assert post(mine, heads=heads).keys() == {wish.operation_id for wish in mine[1:]}
    assert collection(LedgerEntry).count_documents({}) == count + 2
    assert post([deposit(broken, 1)]) == {}
    with pytest.raises(Unreadable):
        selectors.find_head(wallet_id=broken)


def test_an_operation_whose_entry_is_broken_is_not_posted_again() -> None:
    broken, sound = wallet_id(), wallet_id()
    mine = deposit(broken, 100)
    post([mine])
    break_head(broken, {"$set": {"kind": "X"}})
    other = deposit(sound, 1)
    assert post([mine, other]).keys() == {other.operation_id}
    with pytest.raises(Unreadable):
        selectors.find_entry(operation_id=mine.operation_id)
