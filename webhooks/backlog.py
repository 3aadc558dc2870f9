"""The backlog: how many deliveries of one user may be undelivered, and who is held when there are more.

A held subscription goes on getting what is queued for it. Its further events wait in the event log, each with
its id (`held_for`), and become deliveries as the backlog shrinks (refill.py). So an event costs its payload
once, and not a delivery for each endpoint.

Invariants:
- A user has about WEBHOOK_UNDELIVERED_PER_USER_MAX undelivered deliveries at most: each process counts again
  after it has written a share of the room that it saw.
- An endpoint that keeps up is not held because another one of the same user does not: held are those with
  more than their share.
- The owner of a held endpoint gets a message, at most once a day for each.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from django.conf import settings

from payflow import clock, metrics
from payflow.mongodb import collection, unavailable_is_transient
from webhooks.documents import Delivery, DeliveryStatus, Subscription

logger = logging.getLogger(__name__)
HELD = "HELD"
MESSAGE_EVERY_SECONDS = 86_400.0
# Of the room that a process sees it takes one part before it counts again: others write at the same time.
ROOM_PARTS = 8
# What a process may write for a user whom it has not counted yet, as a part of the maximum.
FIRST_PARTS = 100
CREDITS_MAX = 10_000
Row = dict[str, Any]
# How many deliveries this process may write for each user before it counts again.
_credits: dict[str, int] = {}


def held_among(subscriptions: Sequence[Row], wanted: Mapping[str, int]) -> set[str]:
    """Return which subscriptions are held, holding those for whose `wanted` deliveries there is no room.

    Raises Transient.
    """
    held = {row["_id"] for row in subscriptions if row.get("held_since")}
    others: dict[str, list[str]] = defaultdict(list)
    for row in subscriptions:
        if row["_id"] in wanted and row["_id"] not in held:
            others[row["user_id"]].append(row["_id"])
    for user_id, ids in others.items():
        count = sum(wanted[id_] for id_ in ids)
        if not _has_credit(user_id, count) and not _has_room(user_id, count):
            held |= _hold(user_id, ids, wanted)
    return held


def no_longer_held(subscription_ids: Collection[str]) -> set[str]:
    """Return which of these subscriptions are not held now. Raises Transient."""
    query = {"_id": {"$in": sorted(subscription_ids)}, "held_since": None}
    with unavailable_is_transient():
        return {row["_id"] for row in collection(Subscription).find(query, {"_id": 1})}


def count_undelivered(subscription_ids: Collection[str], *, limit: int) -> int:
    """Return how many deliveries of some subscriptions are undelivered, at most `limit`. Raises Transient."""
    query = {"status": DeliveryStatus.PENDING.value, "subscription_id": {"$in": sorted(subscription_ids)}}
    with unavailable_is_transient():
        return collection(Delivery).count_documents(query, limit=limit, hint="due") if limit > 0 else 0


def room_to_refill(user_id: str) -> int:
    """Return how many deliveries each held subscription of a user may get now, up to half the maximum."""
    rows = _subscriptions(user_id)
    half = settings.WEBHOOK_UNDELIVERED_PER_USER_MAX // 2
    held = sum("held_since" in row for row in rows)
    room = half - count_undelivered([row["_id"] for row in rows], limit=half)
    return room and max(1, room // max(1, held))


def _has_credit(user_id: str, count: int) -> bool:
    left = _credits.get(user_id, settings.WEBHOOK_UNDELIVERED_PER_USER_MAX // FIRST_PARTS) - count
    if left < 0:
        return False
    _note_credit(user_id, left)
    return True


def _has_room(user_id: str, count: int) -> bool:
    most = settings.WEBHOOK_UNDELIVERED_PER_USER_MAX
    ids = [row["_id"] for row in _subscriptions(user_id)]
    room = most - count_undelivered(ids, limit=most) - count
    _note_credit(user_id, max(0, room) // ROOM_PARTS)
    return room >= 0


def _note_credit(user_id: str, credit: int) -> None:
    if len(_credits) >= CREDITS_MAX:
        _credits.clear()
    _credits[user_id] = credit


def _subscriptions(user_id: str) -> list[Row]:
    with unavailable_is_transient():
        return list(collection(Subscription).find({"user_id": user_id}, {"held_since": 1}))


def _hold(user_id: str, subscription_ids: Sequence[str], wanted: Mapping[str, int]) -> set[str]:
    """Hold those of a user's subscriptions that would have more than their share; return which."""
    most = settings.WEBHOOK_UNDELIVERED_PER_USER_MAX
    backlogs = {id_: wanted[id_] + count_undelivered([id_], limit=most + 1) for id_ in subscription_ids}
    share = most // len(_subscriptions(user_id))
    held = {id_ for id_, size in backlogs.items() if size > share}
    held = held or {max(backlogs, key=backlogs.__getitem__)}
    now, ids = clock.now(), {"_id": {"$in": sorted(held)}}
    with unavailable_is_transient():
        target = collection(Subscription)
        count = target.update_many(
            {**ids, "held_since": None}, {"$set": {"held_since": now, "updated_at": now}}
        ).modified_count
        # What else the owner is yet to be told goes first.
        recently = {"$gte": clock.after(now, -MESSAGE_EVERY_SECONDS)}
        quiet = {**ids, "owner_notice": None, "owner_notice_since": {"$not": recently}}
        message = {"owner_notice": HELD, "owner_notice_since": now, "owner_notice_at": now}
        target.update_many(quiet, {"$set": message})
    if count:
        metrics.WEBHOOK_ENDPOINTS_HELD.inc(count)
        extra = {"user_id": user_id, "subscriptions": count}
        logger.warning("webhook endpoints held: too much is undelivered", extra=extra)
    return held
