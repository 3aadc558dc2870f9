"""What the continuous audit has found broken, until staff have cleared it.

A finding is about a position in a wallet's chain, or about a transaction; its id says which, so that the same
break is written down, and told, once. What must stay true: the wallet is frozen before the finding is there,
because what has been found is not looked at again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any

from pymongo.errors import DuplicateKeyError

from ledger.documents import Finding
from ledger.verdict import Violation
from payflow import metrics
from payflow.mongodb import collection, unavailable_is_transient

logger = logging.getLogger(__name__)

OPEN_TRANSACTIONS_MAX = 100
# Stands in an invariant's place when the audit itself cannot go on.
AUDIT = "AUDIT"

Freeze = Callable[[str], None]


def report(violation: Violation, *, freeze: Freeze, now: datetime) -> bool:
    """Freeze the wallet that a violation names, and write it down; return whether it is news."""
    if violation.wallet_id is not None:
        freeze(violation.wallet_id)
    facts = {
        "invariant": violation.invariant,
        "detail": violation.detail,
        "wallet_id": violation.wallet_id,
        "sequence": violation.sequence,
        "transaction_id": violation.transaction_id,
    }
    parts = (violation.invariant, violation.wallet_id, violation.sequence, violation.transaction_id)
    id_ = ":".join(str(part) for part in parts if part is not None)
    try:
        collection(Finding).update_one(
            {"_id": id_, "is_open": False},
            {
                "$set": {"is_open": True, "found_at": now, **facts},
                "$unset": {"cleared_at": "", "cleared_by": ""},
            },
            upsert=True,
        )
    except DuplicateKeyError:
        return False  # it is open already
    metrics.LEDGER_VIOLATIONS.labels(violation.invariant).inc()
    logger.error("ledger invariant broken", extra={**facts, "frozen": violation.wallet_id is not None})
    return True


def broken_wallets(wallet_ids: Collection[str]) -> set[str]:
    """Return those of the wallets about which something is open."""
    query = {"is_open": True, "wallet_id": {"$in": list(wallet_ids)}}
    return {row["wallet_id"] for row in collection(Finding).find(query, {"wallet_id": 1})}


def broken_transactions(*, after: str) -> tuple[list[str], str]:
    """Return the next transactions about which something is open, and where to go on."""
    query = {"is_open": True, "wallet_id": None, "transaction_id": {"$type": "string"}, "_id": {"$gt": after}}
    found = collection(Finding).find(query, {"transaction_id": 1}).sort("_id", 1)
    rows = list(found.limit(OPEN_TRANSACTIONS_MAX))
    following = rows[-1]["_id"] if len(rows) == OPEN_TRANSACTIONS_MAX else ""
    return sorted({row["transaction_id"] for row in rows}), following


def list_open(*, limit: int) -> list[dict[str, Any]]:
    """Return what is open."""
    with unavailable_is_transient():
        return list(
            collection(Finding).find({"is_open": True}).sort({"is_open": 1, "wallet_id": 1}).limit(limit)
        )


def count_open() -> dict[str, int]:
    """Return how much is open of each invariant."""
    with unavailable_is_transient():
        rows = collection(Finding).aggregate(
            [{"$match": {"is_open": True}}, {"$group": {"_id": "$invariant", "count": {"$sum": 1}}}]
        )
        return {row["_id"]: row["count"] for row in rows}


def clear_wallet(wallet_id: str, *, by: str, now: datetime) -> int:
    """Close what is open about a wallet; return how much it was. `by` is who decided it."""
    return _clear({"wallet_id": wallet_id}, by, now)


def clear_transactions(transaction_ids: Collection[str], *, by: str, now: datetime) -> int:
    """Close what is open about transactions; return how much it was."""
    return _clear({"wallet_id": None, "transaction_id": {"$in": list(transaction_ids)}}, by, now)


def clear_audit(*, now: datetime) -> int:
    """Close what was open about the audit itself: it runs again."""
    return _clear({"invariant": AUDIT}, "the audit", now)


def clear_general(invariant: str, *, now: datetime) -> int:
    """Close what was open about no wallet and no transaction."""
    which = {"invariant": invariant, "wallet_id": None, "transaction_id": None}
    return _clear(which, "the audit", now)


def _clear(which: dict[str, Any], by: str, now: datetime) -> int:
    change = {"$set": {"is_open": False, "cleared_at": now, "cleared_by": by}}
    with unavailable_is_transient():
        count = collection(Finding).update_many({"is_open": True, **which}, change).modified_count
    if count:
        logger.warning("ledger findings cleared", extra={"by": by, "count": count, **which})
    return count
