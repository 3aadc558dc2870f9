"""Fan-out: one delivery for every event and every subscription that hears of it.

What must stay true:
- It is done when it returns: the deliveries are in MongoDB. Whoever announces an event lets go of its
  transaction only then, so one that dies before, in between or after is followed by one who announces again.
- It may run any number of times, at once, too: a delivery's id is made of its event and its subscription, and
  the first to write it wins.
- Without subscriptions it costs one indexed query, however many events there are.

A delivery begins without a place (see sequencing.py) and without a due time; the worker gives it both.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from payflow import clock
from payflow.crashpoints import crash_point
from payflow.events import Event, EventType
from payflow.ids import new_id
from payflow.mongodb import collection, insert_missing, unavailable_is_transient
from webhooks import nudge
from webhooks.documents import Delivery, DeliveryStatus, DisabledBecause, Subscription

TEST_EVENT = "webhook.test"
INSERT_MAX = 500
Row = dict[str, Any]

# Where an event stands in its transaction's life. Events of one move share their time; this orders them.
RANK: dict[str, int] = {
    EventType.TRANSACTION_INITIATED: 0,
    EventType.DEBIT_SUCCESS: 1,
    EventType.DEBIT_FAILED: 1,
    EventType.CREDIT_SUCCESS: 2,
    EventType.CREDIT_FAILED: 2,
    EventType.REFUND_REQUESTED: 3,
    EventType.REFUND_FAILED: 4,
    EventType.REFUND_COMPLETED: 5,
    EventType.TRANSACTION_COMPLETED: 6,
    EventType.TRANSACTION_FAILED: 6,
}


def fan_out(events: Sequence[Event]) -> None:
    """Write down the deliveries of these events and have the workers look. Raises Transient."""
    parties = {event.data[side] for event in events for side in ("sender_id", "receiver_id")}
    subscriptions = _subscriptions_of(parties) if parties else []
    if not subscriptions:
        return
    crash_point("fanout.found")
    _insert(_deliveries(events, subscriptions))
    nudge.nudge(row["_id"] for row in subscriptions)
    crash_point("fanout.nudged")


def send_test(*, subscription_id: str, user_id: str) -> str:
    """Send a subscription an event that only tests it; return the delivery's id. Raises Transient."""
    now = clock.now()
    event_id = new_id("evt")
    body = _body(event_id, TEST_EVENT, now, {"subscription_id": subscription_id})
    row = _delivery(event_id, TEST_EVENT, now, now, {"_id": subscription_id, "user_id": user_id}, body)
    _insert(iter([row]))
    nudge.nudge([subscription_id])
    return row["_id"]


def delivery_id(*, event_id: str, event_type: str, at: datetime, subscription_id: str) -> str:
    """Return `dlv_` + 12 hex digits of milliseconds + 2 of the rank + 18 of a digest: ordered, repeatable."""
    digest = hashlib.sha256(f"{event_id} {subscription_id}".encode()).hexdigest()
    return f"dlv_{clock.epoch_ms(at):012x}{RANK.get(event_type, 0):02x}{digest[:18]}"


def _subscriptions_of(user_ids: Iterable[str]) -> list[Row]:
    """Return who listens. What was disabled because it failed goes on collecting: its owner may not know."""
    query = {
        "user_id": {"$in": sorted(user_ids)},
        "$or": [{"is_active": True}, {"disabled_because": DisabledBecause.FAILING.value}],
    }
    with unavailable_is_transient():
        return list(collection(Subscription).find(query, {"user_id": 1, "events": 1}))


def _deliveries(events: Sequence[Event], subscriptions: Sequence[Row]) -> Iterator[Row]:
    """Yield the deliveries in the order of the events; in this order they get their places."""
    listeners: dict[str, list[Row]] = defaultdict(list)
    for subscription in subscriptions:
        listeners[subscription["user_id"]].append(subscription)
    now = clock.now()
    for event in events:
        hearing = [
            subscription
            for user_id in sorted({event.data["sender_id"], event.data["receiver_id"]})
            for subscription in listeners.get(user_id, ())
            if event.type.value in subscription["events"]
        ]
        if hearing:
            body = _body(event.id, event.type.value, event.created_at, event.data)
            told_at = _told_at(event)
            for subscription in hearing:
                row = _delivery(event.id, event.type.value, told_at, now, subscription, body)
                yield {**row, "transaction_id": event.transaction_id}


def _told_at(event: Event) -> datetime:
    """Return the time that orders an event's deliveries: the same whenever it is told.

    A failed refund is told anew by each task that fails, so it stands at the time it was asked for.
    """
    if event.type is EventType.REFUND_FAILED:
        return clock.read_rfc3339(event.data["history"][-1]["at"])
    return event.created_at


def _body(event_id: str, event_type: str, at: datetime, data: dict[str, Any]) -> str:
    body = {"id": event_id, "type": event_type, "created_at": clock.rfc3339(at), "data": data}
    return json.dumps(body, separators=(",", ":"))


def _delivery(
    event_id: str, event_type: str, at: datetime, now: datetime, subscription: Row, payload: str
) -> Row:
    subscription_id = subscription["_id"]
    return {
        "_id": delivery_id(event_id=event_id, event_type=event_type, at=at, subscription_id=subscription_id),
        "subscription_id": subscription_id,
        "user_id": subscription["user_id"],
        "event_id": event_id,
        "event_type": event_type,
        "payload": payload,
        "created_at": now,
        "status": DeliveryStatus.PENDING.value,
        "attempts": [],
        "attempt_count": 0,
        "tries": 0,
    }


def _insert(rows: Iterator[Row]) -> None:
    """Insert what is not there yet.

    The journal need not be on disk: what lets recovery forget a transaction is written later, so it cannot
    outlast this.
    """
    target = collection(Delivery, lasting=False)
    while batch := list(islice(rows, INSERT_MAX)):
        insert_missing(target, batch)
        crash_point("fanout.inserted")
