"""Refill: events that were held for a subscription become deliveries as the backlog shrinks.

Invariants:
- A delivery is stored before the event says that it is held no more: a process that dies in between is
  followed by one that does both again, and the delivery's id is the same.
- A subscription is released only when no event was held for it, and then looked at again: an event that was
  stored in between is found here, or its fan-out sees that the subscription is released. Whoever numbers
  deliveries of a released subscription first takes over what is still held for it, so that of one transaction
  the earlier events get the lower numbers.
"""

from __future__ import annotations

from typing import Any

from payflow import clock
from payflow.crashpoints import crash_point
from payflow.mongodb import collection, insert_missing, unavailable_is_transient
from webhooks import backlog
from webhooks.documents import Delivery, Subscription, WebhookEvent
from webhooks.fanout import delivery_row

REFILL_MAX = 500
Row = dict[str, Any]


def refill(*, subscription_id: str, user_id: str) -> int:
    """Queue what is held for a subscription, as far as its owner's backlog has room; return how many.

    Raises Transient.
    """
    room = backlog.room_to_refill(user_id)
    return take_over(subscription_id=subscription_id, limit=min(room, REFILL_MAX)) if room > 0 else 0


def take_over(*, subscription_id: str, limit: int) -> int:
    """Queue up to `limit` of what is held for a subscription, the first first; return how many.

    Where that was all, the subscription is released. Raises Transient.
    """
    count = _take_over(subscription_id, limit)
    if count < limit:
        now = clock.now()
        change = {"$unset": {"held_since": ""}, "$set": {"released_at": now, "updated_at": now}}
        with unavailable_is_transient():
            query = {"_id": subscription_id, "held_since": {"$exists": True}}
            collection(Subscription).update_one(query, change)
        crash_point("refill.released")
        count += take_over_rest(subscription_id=subscription_id)
    return count


def take_over_rest(*, subscription_id: str) -> int:
    """Queue all that is still held for a released subscription; return how many. Raises Transient."""
    total = 0
    while count := _take_over(subscription_id, REFILL_MAX):
        total += count
    return total


def _take_over(subscription_id: str, limit: int) -> int:
    events = collection(WebhookEvent, lasting=False)
    held = {"held_for": subscription_id}
    with unavailable_is_transient():
        rows = list(events.find(held, {"position": 1}).sort("position", 1).limit(limit))
    if not rows:
        return 0
    now = clock.now()
    deliveries = [delivery_row(row["_id"], row["position"], subscription_id, now) for row in rows]
    insert_missing(collection(Delivery, lasting=False), deliveries)
    crash_point("refill.inserted")
    with unavailable_is_transient():
        events.update_many({"_id": {"$in": [row["_id"] for row in rows]}, **held}, _without(subscription_id))
    return len(rows)


def _without(subscription_id: str) -> list[Row]:
    """Return the update that takes a subscription off an event's list, and the list away with the last."""
    rest = {"$setDifference": ["$held_for", [subscription_id]]}
    return [{"$set": {"held_for": {"$cond": [{"$eq": [rest, []]}, "$$REMOVE", rest]}}}]
