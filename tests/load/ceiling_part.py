"""Measures what the engine takes at most: one client that does nothing but a transfer's writes, in batches.

No request, no message, no read, no event, and everything prepared before the clock starts: what PayFlow makes
of its batches is a share of this, and unlike a rate the share says little about the machine. The writes are
the saga's own, in its order, with its write concerns; what they leave passes the audit.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.conf import settings

from ledger import chain, selectors
from ledger.chain import Entry, Kind, Posting
from ledger.documents import LedgerEntry
from ledger.keys import ledger_keys
from ledger.posting import stored_entry
from payflow import clock
from payflow.ids import new_id
from payflow.mongodb import collection
from tests.load import windows
from transfers import services
from transfers.documents import Transaction
from transfers.moves import PASSED_THROUGH
from transfers.states import Settlement, Status

BATCH = 500
Row = dict[str, Any]


def engine_ceiling(sessions: Mapping[str, int], wallet_ids: list[str], *, count: int, times: int) -> Row:
    """Write `count` transfers down `times` times, from INITIATED to COMPLETED; return the middle rate."""
    heads = selectors.find_heads(wallet_ids)
    found = []
    for _ in range(times):
        batches = [_prepare(wallet_ids, heads) for _ in range(max(1, count // BATCH))]
        with windows.measured(sessions) as window:
            for batch in batches:
                _write(*batch)
        found.append(window.cost_of(len(batches) * BATCH))
    return windows.middle_cost(found)


def _prepare(wallet_ids: list[str], heads: dict[str, Entry]) -> tuple[list[Row], list[Row], list[Row]]:
    """Return a batch's transactions, their debits and their credits; extend the chains in `heads`."""
    now = clock.now()
    rows = [_initiated(*random.sample(wallet_ids, 2)) for _ in range(BATCH)]
    debits = [_posting(row, "debit", Kind.DEBIT, row["sender_wallet_id"]) for row in rows]
    credits_ = [_posting(row, "credit", Kind.CREDIT, row["receiver_wallet_id"]) for row in rows]
    return rows, _extend(heads, debits, now), _extend(heads, credits_, now)


def _initiated(sender_wallet: str, receiver_wallet: str) -> Row:
    terms = {
        "receiver_id": f"of {receiver_wallet}",
        "sender_wallet_id": sender_wallet,
        "receiver_wallet_id": receiver_wallet,
        "amount_minor": 1,
        "currency": settings.DEFAULT_CURRENCY,
        "description": "",
    }
    row = services.initiated(
        transaction_id=new_id("txn"),
        sender_id=f"of {sender_wallet}",
        terms=terms,
        at=clock.now(),
        correlation_id=new_id("req"),
    )
    return services.with_mac(row)


def _posting(row: Row, operation: str, kind: Kind, wallet_id: str) -> Posting:
    return Posting(f"{row['_id']}:{operation}", wallet_id, kind, 1, row["currency"], row["_id"])


def _extend(heads: dict[str, Entry], postings: list[Posting], now: datetime) -> list[Row]:
    by_wallet: dict[str, list[Posting]] = defaultdict(list)
    for posting in postings:
        by_wallet[posting.wallet_id].append(posting)
    entries: list[Entry] = []
    for wallet_id, group in by_wallet.items():
        chained = chain.extend(heads[wallet_id], group, now)
        heads[wallet_id] = chained[-1]
        entries += chained
    keys = ledger_keys()
    return [stored_entry(entry, keys) for entry in entries]


def _write(rows: list[Row], debits: list[Row], credits_: list[Row]) -> None:
    ids = [row["_id"] for row in rows]
    transactions, entries = collection(Transaction), collection(LedgerEntry)
    transactions.insert_many(rows, ordered=False)
    entries.insert_many(debits, ordered=False)
    _move(ids, Status.INITIATED, Status.DEBITED)
    undecided = {"_id": {"$in": ids}, "status": Status.DEBITED.value, "settlement": None}
    transactions.update_many(undecided, {"$set": {"settlement": Settlement.CREDIT.value}})
    entries.insert_many(credits_, ordered=False)
    _move(ids, Status.DEBITED, Status.CREDITED)
    _move(ids, Status.CREDITED, Status.COMPLETED, completed_at=clock.now())
    ended = {"_id": {"$in": ids}, "status": Status.COMPLETED.value}
    collection(Transaction, lasting=False).update_many(ended, {"$unset": {"due_at": ""}})


def _move(ids: list[str], leaving: Status, to: Status, **also: Any) -> None:
    step = {"status": to.value, "at": clock.now(), "reason": ""}
    target = collection(Transaction, lasting=to not in PASSED_THROUGH)
    change = {"$set": {"status": to.value, **also}, "$push": {"history": step}}
    target.update_many({"_id": {"$in": ids}, "status": leaving.value}, change)
