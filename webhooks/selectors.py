"""Reading subscriptions, the log of their deliveries, and the events that a receiver catches up with."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from enum import StrEnum
from typing import Any

from django.conf import settings

from payflow import clock
from payflow.health import Report
from payflow.mongodb import collection, unavailable_is_transient
from webhooks.documents import Delivery, DeliveryStatus, Subscription, WebhookEvent, WebhookSweep
from webhooks.errors import DeliveryNotFound, WebhookNotFound

QUERY_MS_MAX = 2_000
# Where workers run, every endpoint that can be served is looked at within seconds.
QUEUE_AGE_SECONDS_MAX = 60.0
# The sweep may be so many periods late.
SWEEPS_LATE = 3
SWEEP_ID = "sweep"
REPORTED_ENDPOINTS_MAX = 50
_NEWEST_FIRST = [("_id", -1)]


class Waiting(StrEnum):
    """What a delivery waits for, by the name of the index that has those that do."""

    DUE = "due"
    WITHOUT_PLACE = "without_place"


def get_subscription(*, user_id: str, webhook_id: str) -> Subscription:
    """Return a user's own subscription. Raises WebhookNotFound."""
    with unavailable_is_transient():
        found = Subscription.objects(id=webhook_id, user_id=user_id).first()
    if found is None:
        raise WebhookNotFound("You have no such webhook.")
    return found


def list_subscriptions(*, user_id: str, limit: int, before_id: str | None = None) -> list[Subscription]:
    """Return up to `limit` of a user's subscriptions, newest first."""
    wanted = Subscription.objects(user_id=user_id, **({"id__lt": before_id} if before_id else {}))
    with unavailable_is_transient():
        return list(wanted.order_by("-id").limit(limit))


def get_delivery(*, subscription_id: str, delivery_id: str) -> dict[str, Any]:
    """Return one delivery of a subscription. Raises DeliveryNotFound."""
    with unavailable_is_transient():
        found = collection(Delivery).find_one({"_id": delivery_id, "subscription_id": subscription_id})
    if found is None:
        raise DeliveryNotFound("This webhook has no such delivery.")
    return found


def list_deliveries(
    *, subscription_id: str, limit: int, status: DeliveryStatus | None = None, before_id: str | None = None
) -> list[dict[str, Any]]:
    """Return up to `limit` deliveries of a subscription, newest first, with their attempts."""
    # All statuses by name: the index then yields each in order, and MongoDB merges the three.
    statuses = [status.value] if status else [each.value for each in DeliveryStatus]
    query: dict[str, Any] = {"subscription_id": subscription_id, "status": {"$in": statuses}}
    if before_id:
        query["_id"] = {"$lt": before_id}
    with unavailable_is_transient():
        rows = collection(Delivery).find(query).sort(_NEWEST_FIRST).limit(limit)
        return list(rows.max_time_ms(QUERY_MS_MAX))


def list_events(*, subscription_id: str, after: int, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` deliveries from sequence `after + 1` on, in order, with payloads."""
    # Naming the type lets the index answer, which holds only what has its place.
    query = {"subscription_id": subscription_id, "sequence": {"$gt": after, "$type": "long"}}
    wanted = dict.fromkeys(("sequence", "status", "event_id", "created_at"), 1)
    with unavailable_is_transient():
        cursor = collection(Delivery).find(query, wanted).sort("sequence", 1).limit(limit)
        rows = list(cursor.max_time_ms(QUERY_MS_MAX))
    payloads = find_payloads({row["event_id"] for row in rows})
    return [{**row, "payload": payloads.get(row["event_id"])} for row in rows]


def find_payloads(event_ids: Collection[str]) -> dict[str, str]:
    """Return the stored payloads of events, by id. Raises Transient."""
    if not event_ids:
        return {}
    with unavailable_is_transient():
        rows = collection(WebhookEvent).find({"_id": {"$in": sorted(event_ids)}}, {"payload": 1})
        return {row["_id"]: row["payload"] for row in rows.max_time_ms(QUERY_MS_MAX)}


def find_delivery(*, delivery_id: str) -> dict[str, Any] | None:
    """Return a delivery of anybody's, for staff."""
    with unavailable_is_transient():
        return collection(Delivery).find_one({"_id": delivery_id})


def list_secret_times(*, subscription_id: str) -> list[dict[str, Any]]:
    """Return when each of a subscription's secrets was made and until when it signs, and nothing else."""
    wanted = {"secrets.created_at": 1, "secrets.expires_at": 1}
    with unavailable_is_transient():
        row = collection(Subscription).find_one({"_id": subscription_id}, wanted)
    return (row or {}).get("secrets", [])


def is_active(*, subscription_id: str) -> bool:
    """Say whether there is such a subscription, and something is sent to it."""
    with unavailable_is_transient():
        row = collection(Subscription).find_one({"_id": subscription_id}, {"is_active": 1})
    return bool(row and row["is_active"])


def first_waiting(waiting: Waiting, *, now: datetime, after_id: str, limit: int) -> dict[str, datetime]:
    """Return up to `limit` endpoints beyond an id, with the time since when the first delivery of each waits.

    One seek in an index for each, however many deliveries it has. Raises Transient.
    """
    query: dict[str, Any] = {"status": DeliveryStatus.PENDING.value}
    if waiting is Waiting.DUE:
        query["next_attempt_at"], since, order = {"$lte": now}, "next_attempt_at", "next_attempt_at"
    else:
        query["sequence"], since, order = None, "created_at", "_id"
    wanted = {"_id": 0, "subscription_id": 1, since: 1}
    found: dict[str, datetime] = {}
    for _ in range(limit):
        query["subscription_id"] = {"$gt": after_id}
        with unavailable_is_transient():
            cursor = collection(Delivery).find(query, wanted, hint=waiting.value)
            row = next(cursor.sort([("subscription_id", 1), (order, 1)]).limit(1), None)
        if row is None:
            break
        after_id = row["subscription_id"]
        found[after_id] = row[since]
    return found


def report_webhooks() -> Report:
    """Say how long an endpoint that could be served has had to wait for a delivery worker.

    It grows while workers or the sweep are away, whatever the reason, and not with the queue of an endpoint
    that is slow, fails or gets much. Reads the record that the sweep has left. Raises Transient.
    """
    now = clock.now()
    with unavailable_is_transient():
        swept = collection(WebhookSweep).find_one({"_id": SWEEP_ID})
    if swept is not None:
        age_seconds = swept["waiting_seconds"] + (now - swept["at"]).total_seconds()
    else:
        # No sweep has ever run. Then nothing has been placed, either.
        since = first_waiting(Waiting.WITHOUT_PLACE, now=now, after_id="", limit=REPORTED_ENDPOINTS_MAX)
        age_seconds = (now - min(since.values(), default=now)).total_seconds()
    is_well = age_seconds < QUEUE_AGE_SECONDS_MAX + SWEEPS_LATE * settings.WEBHOOK_SWEEP_EVERY_SECONDS
    facts = {"status": "up" if is_well else "stalled", "queue_age_seconds": round(max(0.0, age_seconds), 3)}
    return Report(is_well, facts)
