"""Reading webhooks for staff, whoever owns them: endpoints in trouble, and dead letters."""

from __future__ import annotations

from typing import Any

from payflow.mongodb import collection, unavailable_is_transient
from webhooks.documents import Delivery, DeliveryStatus, Subscription

_SHOWN = dict.fromkeys(
    (
        "user_id",
        "url",
        "is_active",
        "disabled_because",
        "consecutive_failures",
        "failing_since",
        "paused_until",
        "held_since",
    ),
    1,
)


def list_endpoints(*, limit: int, only_in_trouble: bool = False) -> list[dict[str, Any]]:
    """Return up to `limit` endpoints, newest first, without their secrets. Raises Transient."""
    trouble = {"$or": [{"is_active": False}, {"consecutive_failures": {"$gt": 0}}]}
    with unavailable_is_transient():
        rows = collection(Subscription).find(trouble if only_in_trouble else {}, _SHOWN)
        return list(rows.sort("_id", -1).limit(limit))


def list_dead(*, limit: int, subscription_id: str | None = None) -> list[dict[str, Any]]:
    """Return up to `limit` dead letters, the last to die first. Raises Transient."""
    query: dict[str, Any] = {"status": DeliveryStatus.DEAD.value}
    if subscription_id:
        query["subscription_id"] = subscription_id
    with unavailable_is_transient():
        rows = collection(Delivery).find(query)
        order = [("_id", -1)] if subscription_id else [("finished_at", -1)]
        return list(rows.sort(order).limit(limit))
