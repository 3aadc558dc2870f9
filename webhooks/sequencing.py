"""Places: each delivery gets its number among its subscription's deliveries, 1, 2, 3 ..., before it is tried.

What must stay true: no number is left out and none is given twice, whoever places at once and dies at any
point; of one transaction's events the earlier have the lower numbers. A place once given stays.

How: rows are placed one by one, in an order on which everybody agrees. A number is tried only when the one
before it is known to be taken: it was read as the highest, it was just given, or the unique index has refused
it. So whatever number a write takes, there is no gap below it.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from typing import Any

from bson.int64 import Int64
from pymongo.errors import DuplicateKeyError

from payflow import clock
from payflow.crashpoints import crash_point
from payflow.errors import Transient
from payflow.mongodb import collection, unavailable_is_transient
from webhooks.documents import Delivery, DeliveryStatus, Subscription
from webhooks.fanout import RANK

# Others who place at the same time take numbers, too; nobody is passed by more often than this.
COLLISIONS_MAX = 1_000
Row = dict[str, Any]


def place(*, subscription_id: str, limit: int) -> int:
    """Give up to `limit` deliveries their places and make them due; return how many were looked at.

    Raises Transient when MongoDB does not answer, or others were always quicker.
    """
    rows = _unplaced(subscription_id, limit)
    if not rows:
        return 0
    number = last_sequence(subscription_id=subscription_id) + 1
    now = clock.now()
    for row in in_order(rows):
        # Each waits for the disk: a database that dies and returns unnoticed between two of them must not
        # have forgotten the former, or the next number would leave a gap.
        number = _put(row["_id"], number, now)
        crash_point("sequencing.placed")
    return len(rows)


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
        slots[row.get("transaction_id") or row["_id"]].append(position)
    ordered = list(rows)
    for positions in slots.values():
        mine = sorted((rows[position] for position in positions), key=_rank)
        for position, row in zip(positions, mine, strict=True):
            ordered[position] = row
    return ordered


def _rank(row: Row) -> int:
    return RANK.get(row["event_type"], 0)


def _unplaced(subscription_id: str, limit: int) -> list[Row]:
    query = {"subscription_id": subscription_id, "sequence": None, "status": DeliveryStatus.PENDING.value}
    wanted = {"transaction_id": 1, "event_type": 1}
    with unavailable_is_transient():
        # Ids begin with the event's time and its rank: whoever looks, and however few, begins with the same.
        return list(collection(Delivery).find(query, wanted).sort("_id", 1).limit(limit))


def _put(delivery_id: str, number: int, now: datetime) -> int:
    """Give a delivery the first free number from `number` on; return the number to try for the next one."""
    target = collection(Delivery)
    query = {"_id": delivery_id, "sequence": None, "status": DeliveryStatus.PENDING.value}
    for attempt in range(COLLISIONS_MAX):
        tried = number + attempt
        try:
            with unavailable_is_transient():
                change = {"$set": {"sequence": Int64(tried), "next_attempt_at": now}}
                is_ours = target.update_one(query, change).modified_count
        except DuplicateKeyError:
            continue
        # Somebody else has placed it: the number is still free.
        return tried + 1 if is_ours else tried
    raise Transient("The deliveries are being placed by others. Try again shortly.")
