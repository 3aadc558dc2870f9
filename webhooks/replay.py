"""Replay: deliveries that have ended are sent again, as they were.

What must stay true: one that is under way is left alone, and one that is sent again keeps its id, its place
and its attempts; only its schedule begins anew.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from payflow import clock
from payflow.mongodb import collection, unavailable_is_transient
from webhooks import nudge, selectors
from webhooks.documents import Delivery, DeliveryStatus
from webhooks.errors import WebhookDisabled

ENDED = (DeliveryStatus.DELIVERED.value, DeliveryStatus.DEAD.value)
REPLAY_MAX = 1_000


def redeliver(*, delivery_id: str, subscription_id: str) -> bool:
    """Send a delivery that has ended again; False when it is under way, or not there. Raises Transient."""
    query = {"_id": delivery_id, "subscription_id": subscription_id, "status": {"$in": ENDED}}
    with unavailable_is_transient():
        changed = collection(Delivery).update_one(query, _again()).modified_count
    if not changed:
        return False
    nudge.nudge([subscription_id])
    return True


def replay_dead(
    *, subscription_id: str, since: datetime, until: datetime, limit: int = REPLAY_MAX
) -> tuple[int, bool]:
    """Send a subscription's dead letters again whose events were recorded from `since` until before `until`.

    The oldest first, at most `limit`; return how many, and whether there may be more. Raises WebhookDisabled,
    Transient.
    """
    if not selectors.is_active(subscription_id=subscription_id):
        raise WebhookDisabled("This webhook is disabled, or no more: its dead letters stay as they are.")
    query = {
        "subscription_id": subscription_id,
        "status": DeliveryStatus.DEAD.value,
        "created_at": {"$gte": since, "$lt": until},
    }
    bounded = min(limit, REPLAY_MAX)
    with unavailable_is_transient():
        target = collection(Delivery)
        ids = [row["_id"] for row in target.find(query, {"_id": 1}).sort("_id", 1).limit(bounded)]
        changed = target.update_many({**query, "_id": {"$in": ids}}, _again()).modified_count
    if changed:
        nudge.nudge([subscription_id])
    return changed, len(ids) == bounded


def _again() -> dict[str, Any]:
    again = {"status": DeliveryStatus.PENDING.value, "tries": 0, "next_attempt_at": clock.now()}
    return {"$set": again, "$unset": {"finished_at": "", "claim": ""}}
