"""An endpoint's health: how often it has failed in a row, whether it is left alone, and when it is given up.

What must stay true:
- While its circuit is open nothing is sent to it; its deliveries wait, and use up none of their tries. When
  the time is over, one of them goes first, alone: a success closes the circuit, a failure opens it longer.
- An endpoint that is disabled has an owner who is told: the wish to tell is written in the same update and
  stays until `owner_told`.

All of it is in MongoDB, in the subscription, so no worker's death and no loss of Redis changes it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from django.conf import settings
from pymongo import ReturnDocument

from payflow import clock, metrics
from payflow.crashpoints import crash_point
from payflow.mongodb import collection, unavailable_is_transient
from webhooks import schedule
from webhooks.documents import DisabledBecause, Subscription

logger = logging.getLogger(__name__)
NOTICE_AGAIN_SECONDS = 300.0
Row = dict[str, Any]


class Gate(StrEnum):
    """What may be sent to an endpoint: everything, a single probe, or nothing."""

    CLOSED = "closed"
    HALF_OPEN = "half-open"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Failure:
    """What an attempt's failure says about its endpoint."""

    is_gone: bool
    retry_after_seconds: float


@dataclass(frozen=True, slots=True)
class OwnerNotice:
    """What an owner is to be told: that the endpoint was disabled or is held, why and since when."""

    user_id: str
    url: str
    reason: str
    since: datetime


def gate(subscription: Row, *, now: datetime) -> Gate:
    """Say how an endpoint's circuit stands. Pure."""
    paused_until = subscription.get("paused_until")
    if paused_until is None:
        return Gate.CLOSED
    return Gate.OPEN if paused_until > now else Gate.HALF_OPEN


def is_suspect(subscription: Row) -> bool:
    """Say whether an endpoint's last attempt failed. Pure."""
    return bool(subscription.get("consecutive_failures")) or subscription.get("paused_until") is not None


def take_probe(*, subscription_id: str, now: datetime) -> bool:
    """Make this worker the one to try a half-open endpoint; False when somebody else was quicker.

    The others find it open until a claim has run out.
    """
    until = clock.after(now, settings.WEBHOOK_CLAIM_SECONDS)
    query = {"_id": subscription_id, "paused_until": {"$lte": now}}
    with unavailable_is_transient():
        change = {"$set": {"paused_until": until}}
        return bool(collection(Subscription, lasting=False).update_one(query, change).modified_count)


def leave_alone(*, subscription_id: str, until: datetime) -> None:
    """Have nothing sent to an endpoint until then, or longer where it is left alone for longer."""
    with unavailable_is_transient():
        change = {"$max": {"paused_until": until}}
        collection(Subscription, lasting=False).update_one({"_id": subscription_id}, change)


def note_success(*, subscription_id: str) -> None:
    """Forget an endpoint's failures and close its circuit."""
    failing = [{"consecutive_failures": {"$gt": 0}}, {"paused_until": {"$exists": True}}]
    change = {"$set": {"consecutive_failures": 0}, "$unset": {"failing_since": "", "paused_until": ""}}
    with unavailable_is_transient():
        collection(Subscription, lasting=False).update_one({"_id": subscription_id, "$or": failing}, change)


def note_failure(*, subscription_id: str, now: datetime, failure: Failure) -> bool:
    """Count a failure; say whether the endpoint must be left alone now, for a while or altogether."""
    failures = {"$add": [{"$ifNull": ["$consecutive_failures", 0]}, 1]}
    since = {"$ifNull": ["$failing_since", now]}
    with unavailable_is_transient():
        counted = collection(Subscription, lasting=False).find_one_and_update(
            {"_id": subscription_id},
            [{"$set": {"consecutive_failures": failures, "failing_since": since}}],
            projection={"consecutive_failures": 1, "failing_since": 1},
            return_document=ReturnDocument.AFTER,
        )
    crash_point("circuit.counted")
    if counted is None:
        return True
    reason = _why_disable(counted, now, failure)
    if reason is not None:
        _disable(subscription_id, reason, now)
        return True
    return _pause(counted, now, failure)


def _why_disable(counted: Row, now: datetime, failure: Failure) -> DisabledBecause | None:
    if failure.is_gone:
        return DisabledBecause.GONE
    long_ago = now - timedelta(hours=settings.WEBHOOK_DISABLE_AFTER_HOURS)
    often = counted["consecutive_failures"] >= settings.WEBHOOK_DISABLE_AFTER_FAILURES
    return DisabledBecause.FAILING if often and counted["failing_since"] <= long_ago else None


def _disable(subscription_id: str, reason: DisabledBecause, now: datetime) -> None:
    change = {
        "$set": {
            "is_active": False,
            "disabled_because": reason.value,
            "updated_at": now,
            "owner_notice": reason.value,
            "owner_notice_since": now,
            "owner_notice_at": now,
        },
        "$unset": {"paused_until": ""},
    }
    with unavailable_is_transient():
        query = {"_id": subscription_id, "is_active": True}
        is_ours = collection(Subscription).update_one(query, change).modified_count
    if is_ours:
        metrics.WEBHOOK_ENDPOINTS_DISABLED.labels(reason.value).inc()
        extra = {"subscription_id": subscription_id, "reason": reason.value}
        logger.warning("webhook endpoint disabled", extra=extra)


def _pause(counted: Row, now: datetime, failure: Failure) -> bool:
    """Open the circuit after too many failures, or where the receiver asks to be left alone."""
    seconds = schedule.circuit_seconds(
        failures=counted["consecutive_failures"],
        opens_after=settings.WEBHOOK_CIRCUIT_FAILURES,
        first_seconds=settings.WEBHOOK_CIRCUIT_SECONDS,
    )
    seconds = max(seconds, min(failure.retry_after_seconds, schedule.CIRCUIT_SECONDS_MAX))
    if seconds <= 0:
        return False
    leave_alone(subscription_id=counted["_id"], until=clock.after(now, seconds))
    metrics.WEBHOOK_CIRCUITS_OPENED.inc()
    return True


def owners_to_tell(*, now: datetime, limit: int) -> list[str]:
    """Return endpoints whose owners must be told now; each comes again later unless `owner_told` ends it."""
    with unavailable_is_transient():
        target = collection(Subscription)
        rows = list(target.find({"owner_notice_at": {"$lte": now}}, {"_id": 1}).limit(limit))
        ids = [row["_id"] for row in rows]
        if ids:
            later = {"$set": {"owner_notice_at": clock.after(now, NOTICE_AGAIN_SECONDS)}}
            target.update_many({"_id": {"$in": ids}, "owner_notice_at": {"$lte": now}}, later)
    return ids


def owner_notice(*, subscription_id: str) -> OwnerNotice | None:
    """Return what an endpoint's owner has yet to be told, None if nothing."""
    query = {"_id": subscription_id, "owner_notice": {"$exists": True}}
    wanted = dict.fromkeys(("user_id", "url", "owner_notice", "owner_notice_since"), 1)
    with unavailable_is_transient():
        row = collection(Subscription).find_one(query, wanted)
    if row is None:
        return None
    return OwnerNotice(row["user_id"], row["url"], row["owner_notice"], row["owner_notice_since"])


def owner_told(*, subscription_id: str, since: datetime) -> None:
    """End the telling: the owner knows of what has been so since then."""
    with unavailable_is_transient():
        change = {"$unset": {"owner_notice": "", "owner_notice_at": ""}}
        collection(Subscription).update_one({"_id": subscription_id, "owner_notice_since": since}, change)
