"""Fan-out: one stored event, and one delivery for every subscription that hears of it.

Invariants:
- It is done when it returns: events and deliveries are in MongoDB. The saga releases a transaction only then,
  so a process that dies before, in between or after is followed by one that publishes again.
- It may run any number of times, also at once. The first write of an event's payload stays, and a delivery's
  id is made of its event and its subscription, so the first write of that stays, too.
- An event is stored before the first delivery that refers to it.
- A subscription that is held (backlog.py) gets no deliveries here: its id is stored with the event. Then the
  subscription is read again: if it was released in the meantime, it gets its deliveries at once.
- Without subscriptions it costs one indexed query, however many events there are.

A delivery begins without a sequence number (sequencing.py) and without a due time; the worker gives it both.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from django.conf import settings

from payflow import clock
from payflow.crashpoints import crash_point
from payflow.errors import Transient
from payflow.events import Event, EventType
from payflow.ids import new_id
from payflow.mongodb import collection, insert_missing, unavailable_is_transient
from webhooks import backlog, nudge
from webhooks.documents import Delivery, DeliveryStatus, DisabledBecause, Subscription, WebhookEvent

TEST_EVENT = "webhook.test"
INSERT_MAX = 500
# An event is kept for so much longer than deliveries are: those of a slow endpoint end days after it.
KEPT_DAYS_MORE = 2
# An event that was removed between two looks is stored again; more often than this it cannot be.
STORE_TRIES_MAX = 3
Row = dict[str, Any]

# The order of a transaction's events. Events of one transition share their time; this orders them.
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


@dataclass(frozen=True, slots=True)
class Heard:
    """An event that somebody hears of, as it is stored, and by which subscriptions."""

    event_id: str
    position: str
    payload: str
    by: Sequence[str]


def fan_out(events: Sequence[Event]) -> None:
    """Write down these events and their deliveries and have the workers look. Raises Transient."""
    parties = {event.data[side] for event in events for side in ("sender_id", "receiver_id")}
    subscriptions = _subscriptions_of(parties) if parties else []
    if not subscriptions:
        return
    crash_point("fanout.found")
    heard = list(_heard(events, subscriptions))
    wanted = Counter(subscription_id for each in heard for subscription_id in each.by)
    held = backlog.held_among(subscriptions, wanted)
    _store(heard, held)
    crash_point("fanout.stored")
    _insert(_deliveries(heard, wanted.keys() - held))
    if held:
        # In this order: who releases it first says so, and then looks for events.
        _insert(_deliveries(heard, backlog.no_longer_held(held)))
    nudge.nudge(row["_id"] for row in subscriptions if row["_id"] not in held)
    crash_point("fanout.nudged")


def send_test(*, subscription_id: str) -> str:
    """Send a subscription an event that only tests it; return the delivery's id. Raises Transient."""
    now = clock.now()
    event_id = new_id("evt")
    body = _body(event_id, TEST_EVENT, now, {"subscription_id": subscription_id})
    heard = Heard(event_id, _position(TEST_EVENT, now), body, (subscription_id,))
    _store([heard], frozenset())
    row = delivery_row(heard.event_id, heard.position, subscription_id, now)
    _insert(iter([row]))
    nudge.nudge([subscription_id])
    return row["_id"]


def event_type_of(event_id: str) -> str:
    """Return an event's type. Pure."""
    return event_id.rpartition(":")[2] if ":" in event_id else TEST_EVENT


def transaction_of(event_id: str) -> str | None:
    """Return the transaction of an event, None for one that only tests. Pure."""
    return event_id.rpartition(":")[0] or None


def delivery_row(event_id: str, position: str, subscription_id: str, now: datetime) -> Row:
    """Return a delivery as it is first written down. Pure."""
    pair = hashlib.sha256(f"{event_id} {subscription_id}".encode()).hexdigest()
    return {
        "_id": f"{delivery_prefix(event_id, position)}{pair[:14]}",
        "subscription_id": subscription_id,
        "event_id": event_id,
        "created_at": now,
        "status": DeliveryStatus.PENDING.value,
    }


def delivery_prefix(event_id: str, position: str) -> str:
    """Return what the ids of an event's deliveries begin with: `dlv_`, its position, 6 digits of a digest.

    So ids are ordered as their events are, an event's deliveries stand together, and a repeat has the same.
    """
    return f"dlv_{position}{hashlib.sha256(event_id.encode()).hexdigest()[:6]}"


def _position(event_type: str, at: datetime) -> str:
    return f"{clock.epoch_ms(at):012x}{RANK.get(event_type, 0):02x}"


def _subscriptions_of(user_ids: Iterable[str]) -> list[Row]:
    """Return who listens. What was disabled because it failed goes on collecting: its owner may not know."""
    query = {
        "user_id": {"$in": sorted(user_ids)},
        "$or": [{"is_active": True}, {"disabled_because": DisabledBecause.FAILING.value}],
    }
    with unavailable_is_transient():
        return list(collection(Subscription).find(query, {"user_id": 1, "events": 1, "held_since": 1}))


def _heard(events: Sequence[Event], subscriptions: Sequence[Row]) -> Iterator[Heard]:
    """Yield the events of which somebody hears, in their order."""
    listeners: dict[str, list[Row]] = defaultdict(list)
    for subscription in subscriptions:
        listeners[subscription["user_id"]].append(subscription)
    for event in events:
        hearing = [
            subscription["_id"]
            for user_id in sorted({event.data["sender_id"], event.data["receiver_id"]})
            for subscription in listeners.get(user_id, ())
            if event.type.value in subscription["events"]
        ]
        if hearing:
            body = _body(event.id, event.type.value, event.created_at, event.data)
            yield Heard(event.id, _position(event.type.value, _told_at(event)), body, hearing)


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


def _store(heard: Sequence[Heard], held: Collection[str]) -> None:
    """Store events that are not there yet; those that are there are kept longer, and held where they must be.

    As with deliveries, the journal need not be on disk.
    """
    target = collection(WebhookEvent, lasting=False)
    until = clock.after(clock.now(), (settings.WEBHOOK_RETENTION_DAYS + KEPT_DAYS_MORE) * 86_400)
    rows = (_event_row(each, held, until) for each in heard)
    while batch := list(islice(rows, INSERT_MAX)):
        for _ in range(STORE_TRIES_MAX):
            batch = _keep(insert_missing(target, batch))
            if not batch:
                break
        else:
            raise Transient("Events were removed while they were written. Try again shortly.")


def _event_row(each: Heard, held: Collection[str], until: datetime) -> Row:
    row: Row = {"_id": each.event_id, "position": each.position, "payload": each.payload, "kept_until": until}
    held_for = [subscription_id for subscription_id in each.by if subscription_id in held]
    return {**row, "held_for": held_for} if held_for else row


def _keep(rows: Sequence[Row]) -> list[Row]:
    """Keep events that are stored already for longer; return those that were removed meanwhile."""
    target = collection(WebhookEvent, lasting=False)
    alike: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        alike[tuple(row.get("held_for", ()))].append(row)
    gone = []
    for held_for, group in alike.items():
        ids = {"_id": {"$in": [row["_id"] for row in group]}}
        change: Row = {"$max": {"kept_until": group[0]["kept_until"]}}
        if held_for:
            change["$addToSet"] = {"held_for": {"$each": list(held_for)}}
        with unavailable_is_transient():
            if target.update_many(ids, change).matched_count == len(group):
                continue
            there = {row["_id"] for row in target.find(ids, {"_id": 1})}
        gone += [row for row in group if row["_id"] not in there]
    return gone


def _deliveries(heard: Iterable[Heard], of: Collection[str]) -> Iterator[Row]:
    """Yield some subscriptions' deliveries in the order of the events; in this order they are numbered."""
    now = clock.now()
    for each in heard:
        for subscription_id in each.by:
            if subscription_id in of:
                yield delivery_row(each.event_id, each.position, subscription_id, now)


def _insert(rows: Iterator[Row]) -> None:
    """Insert what is not there yet.

    The journal need not be on disk: what lets recovery forget a transaction is written later, so it cannot
    outlast this.
    """
    target = collection(Delivery, lasting=False)
    while batch := list(islice(rows, INSERT_MAX)):
        insert_missing(target, batch)
        crash_point("fanout.inserted")
