"""Places: each delivery gets its number among those of its subscription, 1, 2, 3 ..., before it is tried.

Invariants: no number is left out and none is given twice, however many workers number at once and wherever
one dies; of one transaction's events the earlier have the lower numbers. A number once given stays.

How: the first free number is read, then a page of rows that have none, and the page gets consecutive numbers
from that one on by one ordered command. MongoDB applies it in order and stops at the first number that the
unique index refuses, so what has been applied is always a beginning of it. A row that another worker has
numbered in the meantime is skipped, and leaves no gap: all rows before the next one have numbers, different
ones, and none below the first number of the page; so as many numbers as were passed over are taken.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from bson.int64 import Int64
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from payflow import clock
from payflow.crashpoints import crash_point
from payflow.errors import Transient
from payflow.mongodb import DUPLICATE_KEY_CODE, collection, unavailable_is_transient
from webhooks import refill
from webhooks.documents import Delivery, DeliveryStatus, Subscription
from webhooks.fanout import RANK, event_type_of, transaction_of

# Others who number at the same time take numbers, too; nobody is passed by more often than this.
COLLISIONS_MAX = 1_000
Row = dict[str, Any]


def place(*, subscription_id: str, limit: int) -> int:
    """Give up to `limit` deliveries their numbers and make them due; return how many were looked at.

    Raises Transient when MongoDB does not answer, or others were always quicker.
    """
    for _ in range(COLLISIONS_MAX):
        if not _unplaced(subscription_id, 1):
            return 0
        # Before the rows are read: a row without a number then can only get one above this.
        number = last_sequence(subscription_id=subscription_id) + 1
        if _was_released(subscription_id):
            refill.take_over_rest(subscription_id=subscription_id)
        rows = _unplaced(subscription_id, limit)
        if _number(in_order(rows), number):
            crash_point("sequencing.placed")
            return len(rows)
    raise Transient("The deliveries are being placed by others. Try again shortly.")


def _number(rows: list[Row], first: int) -> bool:
    """Number rows from `first` on; False when another worker has taken one of the numbers."""
    now = clock.now()
    changes = [
        UpdateOne(
            {"_id": row["_id"], "sequence": None, "status": DeliveryStatus.PENDING.value},
            {"$set": {"sequence": Int64(first + position), "next_attempt_at": now}},
            hint="_id_",  # planning each would cost more than doing it
        )
        for position, row in enumerate(rows)
    ]
    try:
        with unavailable_is_transient():
            # It waits for the disk: a database that dies and returns unnoticed must not have forgotten a
            # number below one that is given next.
            if changes:
                collection(Delivery).bulk_write(changes, ordered=True)
    except BulkWriteError as error:
        faults = error.details.get("writeErrors", [])
        if error.details.get("writeConcernErrors") or any(f["code"] != DUPLICATE_KEY_CODE for f in faults):
            raise Transient("The database could not confirm a write. Try again shortly.") from error
        return False
    return True


def _was_released(subscription_id: str) -> bool:
    query = {"_id": subscription_id, "held_since": None, "released_at": {"$exists": True}}
    with unavailable_is_transient():
        return collection(Subscription).find_one(query, {"_id": 1}) is not None


def last_sequence(*, subscription_id: str) -> int:
    """Return the highest place given so far, 0 if none. Raises Transient."""
    query = {"subscription_id": subscription_id, "sequence": {"$type": "long"}}
    with unavailable_is_transient():
        newest = collection(Delivery).find_one(query, {"sequence": 1}, sort=[("sequence", -1)])
        owner = collection(Subscription).find_one({"_id": subscription_id}, {"removed_sequence": 1})
    kept, removed = (newest or {}).get("sequence") or 0, (owner or {}).get("removed_sequence") or 0
    return max(int(kept), int(removed))


def in_order(rows: list[Row]) -> list[Row]:
    """Return rows as they came, but each transaction's among themselves in the order of its life.

    Only clocks that disagree make a difference: one step's worker may think it earlier than the last one's.
    """
    slots: dict[str, list[int]] = defaultdict(list)
    for position, row in enumerate(rows):
        slots[transaction_of(row["event_id"]) or row["_id"]].append(position)
    ordered = list(rows)
    for positions in slots.values():
        mine = sorted((rows[position] for position in positions), key=_rank)
        for position, row in zip(positions, mine, strict=True):
            ordered[position] = row
    return ordered


def _rank(row: Row) -> int:
    return RANK.get(event_type_of(row["event_id"]), 0)


def _unplaced(subscription_id: str, limit: int) -> list[Row]:
    query = {"subscription_id": subscription_id, "sequence": None, "status": DeliveryStatus.PENDING.value}
    with unavailable_is_transient():
        # Ids begin with the event's time and its rank: whoever looks, and however few, begins with the same.
        return list(collection(Delivery).find(query, {"event_id": 1}).sort("_id", 1).limit(limit))
