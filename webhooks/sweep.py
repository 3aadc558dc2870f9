"""The sweep: finds every endpoint for which something is due, whatever became of the messages.

The only thing that must run for every delivery to be tried; nudges are accelerators. It reads nothing but
indexes, endpoint by endpoint: one with a long queue hides no other, and the next sweep goes on where this one
stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from celery import current_app
from django.conf import settings
from kombu.exceptions import OperationalError

from payflow import clock, metrics
from payflow.mongodb import collection, unavailable_is_transient
from webhooks import circuit, delivery, nudge, services
from webhooks.circuit import Gate
from webhooks.documents import Delivery, DeliveryStatus, Subscription
from webhooks.turns import LOOK_AGAIN_SECONDS

logger = logging.getLogger(__name__)
ENDPOINTS_MAX = 500
OWNERS_MAX = 50
REMOVED_MAX = 1_000
ROUNDS_MAX = 20
# Of the app above that can reach people. It ends the telling with circuit.owner_told.
TELL_OWNER_TASK = "notifications.webhook_disabled"
_PENDING = {"status": DeliveryStatus.PENDING.value}
# Where the sweeps of this process stopped; one that begins anew loses nothing.
_go_on_after = {"due": "", "unplaced": ""}
Row = dict[str, Any]


def sweep() -> int:
    """Nudge endpoints that have something to do, up to ENDPOINTS_MAX; return how many. Raises Transient."""
    now = clock.now()
    due = _endpoints("due", {**_PENDING, "next_attempt_at": {"$lte": now}}, "next_attempt_at")
    unplaced = _endpoints("unplaced", {**_PENDING, "sequence": None}, "created_at")
    subscriptions = _subscriptions(due.keys() | unplaced.keys())
    ready = set(unplaced)
    overdue_seconds = 0.0
    for subscription_id, since in due.items():
        subscription = subscriptions.get(subscription_id)
        if subscription is None:
            services.drop_pending(subscription_id=subscription_id)
        elif not subscription["is_active"]:
            _keep_waiting(subscription_id, now)
        elif circuit.gate(subscription, now=now) is Gate.OPEN:
            delivery.postpone(subscription_id=subscription_id, until=subscription["paused_until"])
        else:
            ready.add(subscription_id)
            overdue_seconds = max(overdue_seconds, (now - since).total_seconds())
    metrics.WEBHOOK_OVERDUE.set(overdue_seconds)
    nudge.nudge(ready)
    _tell_owners(now)
    return len(ready)


def _endpoints(index: str, query: Row, since: str) -> dict[str, datetime]:
    """Return endpoints with the time of their first delivery in the index, one seek each."""
    found: dict[str, datetime] = {}
    wanted = {"_id": 0, "subscription_id": 1, since: 1}
    last, sort = _go_on_after[index], [("subscription_id", 1), (since, 1)]
    for _ in range(ENDPOINTS_MAX):
        after = {**query, "subscription_id": {"$gt": last}}
        with unavailable_is_transient():
            row = collection(Delivery).find_one(after, wanted, sort=sort, hint=index)
        if row is None:
            last = ""
            break
        last = row["subscription_id"]
        found[last] = row[since]
    _go_on_after[index] = last
    return found


def _subscriptions(ids: Iterable[str]) -> dict[str, Row]:
    with unavailable_is_transient():
        rows = collection(Subscription).find(
            {"_id": {"$in": sorted(ids)}}, {"is_active": 1, "paused_until": 1}
        )
        return {row["_id"]: row for row in rows}


def _keep_waiting(subscription_id: str, now: datetime) -> None:
    """Leave what a disabled endpoint did not get for later, but not for ever."""
    until = clock.after(now, LOOK_AGAIN_SECONDS)
    delivery.postpone(subscription_id=subscription_id, until=until)
    # Ids are ordered by the time of their events.
    first_kept = f"dlv_{clock.epoch_ms(_kept_since(now)):012x}"
    query = {**_PENDING, "subscription_id": subscription_id, "_id": {"$lt": first_kept}, "claim": None}
    _remove(query)


def _tell_owners(now: datetime) -> None:
    for subscription_id in circuit.owners_to_tell(now=now, limit=OWNERS_MAX):
        try:
            current_app.send_task(TELL_OWNER_TASK, (subscription_id,))
        except OperationalError as error:
            logger.info("owner not told yet", extra={"error": type(error).__name__})


def remove_old() -> int:
    """Remove what ended longer than WEBHOOK_RETENTION_DAYS ago, in bounded steps; return how many."""
    query = {"finished_at": {"$lt": _kept_since(clock.now())}}
    removed = 0
    for _ in range(ROUNDS_MAX):
        count = _remove(query)
        removed += count
        if count < REMOVED_MAX:
            break
    return removed


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
