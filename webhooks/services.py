"""Writing subscriptions: register, change, rotate their secrets, delete.

What must stay true: a user never has more subscriptions than allowed, however many requests come at once; and
a subscription's secrets change in one update, so that a delivery finds the old ones or the new ones, and two
rotations at once both hold.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from mongoengine.errors import NotUniqueError
from pymongo import ReturnDocument

from payflow import clock
from payflow.errors import Transient
from payflow.ids import new_id
from payflow.mongodb import collection, unavailable_is_transient
from webhooks import addresses, nudge, secrets
from webhooks.documents import Delivery, DeliveryStatus, DisabledBecause, Subscription
from webhooks.errors import DisabledByStaff, SealBroken, WebhookLimit, WebhookNotFound

logger = logging.getLogger(__name__)
# A place that somebody else took first is looked for again; each failure means that somebody succeeded.
_PLACE_TRIES_BEYOND_MAX = 5
# What tells of failures past; all of it goes when an endpoint gets a new chance.
_TROUBLE = ("disabled_because", "failing_since", "paused_until", "owner_notice", "owner_notice_at")


def create_subscription(
    *, user_id: str, url: str, events: Sequence[str], secret: str | None = None
) -> tuple[Subscription, str]:
    """Register an endpoint; return it with its secret, which can never be read again.

    Raises InvalidSecret, UrlRefused, WebhookLimit, Transient.
    """
    chosen = secrets.check_secret(secret) if secret is not None else secrets.new_secret()
    policy = addresses.current_policy()
    addresses.parse_url(url, policy)
    _find_place(user_id)  # before the host is looked up: who may not register learns nothing of it
    addresses.check_url(url, policy)
    now = clock.now()
    subscription = Subscription(
        id=new_id("wh"),
        user_id=user_id,
        url=url,
        events=list(events),
        is_active=True,
        secrets=[secrets.sealed(chosen, now=now)],
        created_at=now,
        updated_at=now,
    )
    _insert_in_place(subscription)
    return subscription, chosen


def _insert_in_place(subscription: Subscription) -> None:
    for _ in range(settings.WEBHOOKS_PER_USER_MAX + _PLACE_TRIES_BEYOND_MAX):
        subscription.slot = _find_place(subscription.user_id)
        try:
            with unavailable_is_transient():
                subscription.save(force_insert=True)
            return
        except NotUniqueError:
            continue
    raise Transient("Others were registering webhooks for you at the same time. Try again shortly.")


def _find_place(user_id: str) -> int:
    """Return a place that is free now. Raises WebhookLimit when the user has all they may."""
    with unavailable_is_transient():
        rows = list(collection(Subscription).find({"user_id": user_id}, {"slot": 1}))
    places_max = settings.WEBHOOKS_PER_USER_MAX
    free = set(range(1, places_max + 1)) - {row.get("slot") for row in rows}
    if len(rows) >= places_max or not free:
        raise WebhookLimit(f"You have {len(rows)} webhooks, and may have {places_max}.")
    return random.choice(sorted(free))  # noqa: S311 - so that those who come at once seldom meet


def change_subscription(
    *,
    user_id: str,
    webhook_id: str,
    url: str | None = None,
    events: Sequence[str] | None = None,
    is_active: bool | None = None,
    by: DisabledBecause = DisabledBecause.OWNER,
) -> Subscription:
    """Change what is given. Raises WebhookNotFound, DisabledByStaff, UrlRefused, Transient.

    To enable an endpoint, or to change its URL, forgets its failures: it gets a new chance, and what waits
    for it is tried at once, by the worker. While staff have it disabled only they say whether it is active.
    """
    if url is not None:
        addresses.check_url(url, addresses.current_policy())
    to_set: dict[str, Any] = {"updated_at": clock.now()}
    to_unset: dict[str, str] = {}
    if events is not None:
        to_set["events"] = list(events)
    if url is not None:
        to_set |= {"url": url, "consecutive_failures": 0}
        to_unset |= dict.fromkeys(("failing_since", "paused_until"), "")
    if is_active or url is not None:
        to_set["fresh_since"] = to_set["updated_at"]
    if is_active:
        to_set |= {"is_active": True, "consecutive_failures": 0}
        to_unset |= dict.fromkeys(_TROUBLE, "")
    elif is_active is not None:
        to_set |= {"is_active": False, "disabled_because": by.value}
        to_unset |= dict.fromkeys(("owner_notice", "owner_notice_at"), "")
    update = {"$set": to_set, **({"$unset": to_unset} if to_unset else {})}
    if is_active is not None and by is not DisabledBecause.STAFF:
        changed = _update(user_id, webhook_id, update, disabled_because={"$ne": DisabledBecause.STAFF.value})
    else:
        changed = _update(user_id, webhook_id, update)
    if "fresh_since" in to_set:
        nudge.nudge([webhook_id])
    return changed


def rotate_secret(*, user_id: str, webhook_id: str) -> tuple[Subscription, str]:
    """Make a new secret; return it. The former one also signs for WEBHOOK_SECRET_OVERLAP_SECONDS.

    Raises WebhookNotFound, Transient.
    """
    now = clock.now()
    secret = secrets.new_secret()
    until = clock.after(now, settings.WEBHOOK_SECRET_OVERLAP_SECONDS)
    update = [{"$set": {"secrets": _rotated(secrets.sealed(secret, now=now), now, until), "updated_at": now}}]
    subscription = _update(user_id, webhook_id, update)
    logger.info("webhook secret rotated", extra={"webhook_id": webhook_id})
    return subscription, secret


def _rotated(new: dict[str, Any], now: datetime, until: datetime) -> dict[str, Any]:
    """Return the expression for the new secret followed by those that still sign."""
    still = {
        "$filter": {
            "input": "$secrets",
            "cond": {"$gt": [{"$ifNull": ["$$this.expires_at", until]}, now]},
        }
    }
    ending = {
        "$map": {
            "input": still,
            "in": {"$mergeObjects": [{"expires_at": until}, "$$this"]},
        }
    }
    return {"$slice": [{"$concatArrays": [[{"$literal": new}], ending]}, secrets.SECRETS_MAX]}


def _update(user_id: str, webhook_id: str, update: Any, **requiring: Any) -> Subscription:
    """Change a user's own subscription. Raises WebhookNotFound; DisabledByStaff where `requiring` fails."""
    owned = {"_id": webhook_id, "user_id": user_id}
    with unavailable_is_transient():
        row = collection(Subscription).find_one_and_update(
            {**owned, **requiring}, update, return_document=ReturnDocument.AFTER
        )
        if row is None and requiring and collection(Subscription).find_one(owned, {"_id": 1}):
            raise DisabledByStaff("Staff have disabled this webhook.")
    if row is None:
        raise WebhookNotFound("You have no such webhook.")
    return Subscription._from_son(row)


def end_new_chance(*, subscription_id: str, since: datetime) -> None:
    """Note that what waited for an endpoint is tried at once, unless it got another chance meanwhile."""
    with unavailable_is_transient():
        query = {"_id": subscription_id, "fresh_since": since}
        collection(Subscription, lasting=False).update_one(query, {"$unset": {"fresh_since": ""}})


def delete_subscription(*, user_id: str, webhook_id: str) -> None:
    """Delete an endpoint and its secrets; the worker removes what is on its way to it.

    Deliveries that have ended stay for staff until they are too old. Raises WebhookNotFound, Transient.
    """
    with unavailable_is_transient():
        deleted = collection(Subscription).delete_one({"_id": webhook_id, "user_id": user_id}).deleted_count
    if not deleted:
        raise WebhookNotFound("You have no such webhook.")
    nudge.nudge([webhook_id])


def drop_pending(*, subscription_id: str, limit: int) -> int:
    """Remove up to `limit` deliveries on their way to an endpoint that is no more; return how many."""
    pending = {"subscription_id": subscription_id, "status": DeliveryStatus.PENDING.value}
    with unavailable_is_transient():
        target = collection(Delivery)
        ids = [row["_id"] for row in target.find(pending, {"_id": 1}).limit(limit)]
        return target.delete_many({**pending, "_id": {"$in": ids}}).deleted_count


def set_active(*, subscription_id: str, is_active: bool) -> Subscription:
    """Enable or disable an endpoint for staff. Raises WebhookNotFound, Transient."""
    with unavailable_is_transient():
        row = collection(Subscription).find_one({"_id": subscription_id}, {"user_id": 1})
    if row is None:
        raise WebhookNotFound("There is no such webhook.")
    return change_subscription(
        user_id=row["user_id"], webhook_id=subscription_id, is_active=is_active, by=DisabledBecause.STAFF
    )


def reseal_secrets(*, after_id: str, limit: int) -> tuple[str | None, int, list[str]]:
    """Have up to `limit` subscriptions' secrets sealed by the first key, expired ones dropped.

    Returns where to go on from, None at the end; how many were sealed anew; and those whose secrets no key
    opens, which stay as they are. One that was rotated meanwhile is left alone: its new secret is sealed by
    the first key. Raises Transient.
    """
    now = clock.now()
    subscriptions = collection(Subscription)
    resealed, broken = 0, []
    with unavailable_is_transient():
        rows = list(
            subscriptions.find({"_id": {"$gt": after_id}}, {"secrets": 1}).sort("_id", 1).limit(limit)
        )
        for row in rows:
            if all(secrets.is_sealed_by_first_key(each["sealed"]) for each in row["secrets"]):
                continue
            try:
                fresh = secrets.resealed(row["secrets"], now=now)
            except SealBroken:
                broken.append(row["_id"])
                continue
            seen = {"_id": row["_id"], "secrets": row["secrets"]}
            resealed += subscriptions.update_one(seen, {"$set": {"secrets": fresh}}).modified_count
    return (rows[-1]["_id"] if len(rows) == limit else None), resealed, broken


def count_sealed_by_first_key() -> tuple[int, int]:
    """Return how many subscriptions have all secrets sealed by the first key, and how many there are."""
    first = total = 0
    with unavailable_is_transient():
        for row in collection(Subscription).find({}, {"secrets.sealed": 1}).batch_size(1_000):
            total += 1
            first += all(secrets.is_sealed_by_first_key(each["sealed"]) for each in row["secrets"])
    return first, total
