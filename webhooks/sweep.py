"""The sweep: finds every endpoint for which something is due, whatever became of the messages.

The only thing that must run for every delivery to be tried; nudges are accelerators. It reads nothing but
indexes, endpoint by endpoint: one with a long queue hides no other, and the next sweep goes on where this one
stopped. It passes by who is disabled or left alone; what is due for them stays as it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from celery import current_app
from django.conf import settings
from kombu.exceptions import OperationalError

from payflow import clock, metrics
from payflow.mongodb import collection, unavailable_is_transient
from webhooks import circuit, fanout, nudge, selectors
from webhooks.circuit import Gate
from webhooks.documents import Delivery, DeliveryStatus, Subscription, WebhookEvent, WebhookSweep
from webhooks.selectors import SWEEP_ID, Waiting

logger = logging.getLogger(__name__)
ENDPOINTS_MAX = 500
OWNERS_MAX = 50
REMOVED_MAX = 1_000
ROUNDS_MAX = 20
# What is removed must keep up with what is delivered: by the time, which a task has not without limit.
REMOVING_ROUNDS_MAX = 1_000
REMOVING_SECONDS_MAX = 15.0
SEEKS_MAX = 100
# An old event to which a delivery still refers is looked at again after this long.
EVENT_AGAIN_SECONDS = 86_400.0
# Of the app above that can reach people. It ends the telling with circuit.owner_told.
TELL_OWNER_TASK = "notifications.webhook_disabled"
_PENDING = {"status": DeliveryStatus.PENDING.value}
# Where the sweeps of this process stopped; one that begins anew loses nothing.
_go_on_after: dict[Waiting, str] = {}
Row = dict[str, Any]


def sweep() -> int:
    """Nudge endpoints that have something to do, up to ENDPOINTS_MAX; return how many. Raises Transient."""
    now = clock.now()
    due, unplaced = _endpoints(Waiting.DUE, now), _endpoints(Waiting.WITHOUT_PLACE, now)
    subscriptions = _subscriptions(due.keys() | unplaced.keys())
    ready = dict.fromkeys([*unplaced, *_with_a_new_chance(now), *_held(now)])
    waiting = dict(unplaced)
    disabled: dict[str, datetime] = {}
    for subscription_id, since in due.items():
        subscription = subscriptions.get(subscription_id)
        if subscription is None:
            ready[subscription_id] = None  # for the worker to remove it
        elif not subscription["is_active"]:
            disabled[subscription_id] = since
        elif circuit.gate(subscription, now=now) is not Gate.OPEN:
            ready[subscription_id] = None
            waiting[subscription_id] = min(since, waiting.get(subscription_id, since))
    _note_waiting(waiting, subscriptions, now)
    nudge.nudge(ready)
    _tell_owners(now)
    _remove_expired(disabled, now)
    return len(ready)


def _note_waiting(waiting: Mapping[str, datetime], subscriptions: Mapping[str, Row], now: datetime) -> None:
    """Write down how long an endpoint that could be served has had to wait for a worker, for /health.

    One that is served does not wait, however long its queue is. Raises Transient.
    """
    worked_at = {id_: row["worked_at"] for id_, row in subscriptions.items() if "worked_at" in row}
    waiting_since = [max(since, worked_at.get(id_, since)) for id_, since in waiting.items()]
    waiting_seconds = max(0.0, (now - min(waiting_since, default=now)).total_seconds())
    metrics.WEBHOOK_OVERDUE.set(waiting_seconds)
    metrics.WEBHOOK_SWEEP_TIMESTAMP.set(now.timestamp())
    with unavailable_is_transient():
        change = {"$set": {"at": now, "waiting_seconds": waiting_seconds}}
        collection(WebhookSweep, lasting=False).update_one({"_id": SWEEP_ID}, change, upsert=True)


def _held(now: datetime) -> list[str]:
    """Return endpoints whose held events may be queued now, if there is room."""
    with unavailable_is_transient():
        query = {"held_since": {"$lte": now}, "is_active": True}
        rows = collection(Subscription).find(query, {"paused_until": 1}).limit(ENDPOINTS_MAX)
        return [row["_id"] for row in rows if circuit.gate(row, now=now) is not Gate.OPEN]


def _with_a_new_chance(now: datetime) -> list[str]:
    with unavailable_is_transient():
        query = {"fresh_since": {"$lte": now}, "is_active": True}
        rows = collection(Subscription).find(query, {"_id": 1}).limit(ENDPOINTS_MAX)
        return [row["_id"] for row in rows]


def _endpoints(waiting: Waiting, now: datetime) -> dict[str, datetime]:
    """Return the next endpoints with something waiting; after the last one comes the first."""
    found = selectors.first_waiting(
        waiting, now=now, after_id=_go_on_after.get(waiting, ""), limit=ENDPOINTS_MAX
    )
    _go_on_after[waiting] = next(reversed(found)) if len(found) == ENDPOINTS_MAX else ""
    return found


def _subscriptions(ids: Iterable[str]) -> dict[str, Row]:
    with unavailable_is_transient():
        rows = collection(Subscription).find(
            {"_id": {"$in": sorted(ids)}}, {"is_active": 1, "paused_until": 1, "worked_at": 1}
        )
        return {row["_id"]: row for row in rows}


def _remove_expired(disabled: Mapping[str, datetime], now: datetime) -> None:
    """Remove, in bounded steps, what has been due for too long for endpoints that have been disabled."""
    kept_since = _kept_since(now)
    expired = [subscription_id for subscription_id, since in disabled.items() if since < kept_since]
    for subscription_id in expired[:ROUNDS_MAX]:
        late = {"next_attempt_at": {"$lt": kept_since}}
        _remove({**_PENDING, "subscription_id": subscription_id, **late})


def _tell_owners(now: datetime) -> None:
    for subscription_id in circuit.owners_to_tell(now=now, limit=OWNERS_MAX):
        try:
            current_app.send_task(TELL_OWNER_TASK, (subscription_id,))
        except OperationalError as error:
            logger.info("owner not told yet", extra={"error": type(error).__name__})


def remove_old() -> int:
    """Remove deliveries that ended longer than WEBHOOK_RETENTION_DAYS ago, and events that none refers to.

    In bounded steps; return how many deliveries. Raises Transient.
    """
    query = {"finished_at": {"$lt": _kept_since(clock.now())}}
    removed = 0
    for _ in _rounds():
        count = _remove(query)
        removed += count
        if count < REMOVED_MAX:
            break
    for _ in _rounds():
        if _remove_events(clock.now()) < REMOVED_MAX:
            break
    return removed


def _rounds() -> Iterator[int]:
    """Count up to REMOVING_ROUNDS_MAX, no longer than REMOVING_SECONDS_MAX."""
    deadline = time.monotonic() + REMOVING_SECONDS_MAX
    for number in range(REMOVING_ROUNDS_MAX):
        if number and time.monotonic() > deadline:
            return
        yield number


def _remove_events(now: datetime) -> int:
    """Remove up to REMOVED_MAX old events that no delivery refers to; return how many were looked at.

    A fan-out that repeats one of them keeps it for longer before it writes deliveries, or stores it again.
    """
    target = collection(WebhookEvent)
    with unavailable_is_transient():
        rows = list(target.find({"kept_until": {"$lt": now}}, {"position": 1}).limit(REMOVED_MAX))
        needed = _needed_among(rows)
        others = list({row["_id"] for row in rows} - set(needed))
        later = {"$set": {"kept_until": clock.after(now, EVENT_AGAIN_SECONDS)}}
        target.update_many({"_id": {"$in": needed}, "kept_until": {"$lt": now}}, later)
        target.delete_many({"_id": {"$in": others}, "kept_until": {"$lt": now}})
    return len(rows)


def _needed_among(events: Sequence[Row]) -> list[str]:
    """Return the events to which a delivery refers. One that only shares its id's beginning counts, too."""
    prefixes = {row["_id"]: fanout.delivery_prefix(row["_id"], row["position"]) for row in events}
    found: set[str] = set()
    waiting = iter(prefixes.values())
    while some := list(islice(waiting, SEEKS_MAX)):
        ranges = [{"_id": {"$gte": prefix, "$lt": f"{prefix}g"}} for prefix in some]
        rows = collection(Delivery).find({"$or": ranges}, {"_id": 1})
        found |= {row["_id"][: len(some[0])] for row in rows}
    return [event_id for event_id, prefix in prefixes.items() if prefix in found]


def _remove(query: Row) -> int:
    """Remove up to REMOVED_MAX deliveries; first note their places, which must not be given again."""
    target = collection(Delivery)
    with unavailable_is_transient():
        rows = list(target.find(query, {"subscription_id": 1, "sequence": 1}).limit(REMOVED_MAX))
        highest: dict[str, int] = {}
        for row in rows:
            place = row.get("sequence") or 0
            highest[row["subscription_id"]] = max(place, highest.get(row["subscription_id"], 0))
        for subscription_id, sequence in highest.items():
            change = {"$max": {"removed_sequence": sequence}}
            collection(Subscription).update_one({"_id": subscription_id}, change)
        return target.delete_many({**query, "_id": {"$in": [row["_id"] for row in rows]}}).deleted_count


def _kept_since(now: datetime) -> datetime:
    return clock.after(now, -settings.WEBHOOK_RETENTION_DAYS * 86_400)
