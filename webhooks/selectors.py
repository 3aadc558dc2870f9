"""Reading subscriptions, the log of their deliveries, and the events that a receiver catches up with."""

from __future__ import annotations

from typing import Any

from payflow.mongodb import collection, unavailable_is_transient
from webhooks.documents import Delivery, DeliveryStatus, Subscription
from webhooks.errors import DeliveryNotFound, WebhookNotFound

QUERY_MS_MAX = 2_000
_NEWEST_FIRST = [("_id", -1)]


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
    """Return up to `limit` deliveries of a subscription, newest first, with their attempts but no bodies."""
    # All statuses by name: the index then yields each in order, and MongoDB merges the three.
    statuses = [status.value] if status else [each.value for each in DeliveryStatus]
    query: dict[str, Any] = {"subscription_id": subscription_id, "status": {"$in": statuses}}
    if before_id:
        query["_id"] = {"$lt": before_id}
    with unavailable_is_transient():
        rows = collection(Delivery).find(query, {"payload": 0}).sort(_NEWEST_FIRST).limit(limit)
        return list(rows.max_time_ms(QUERY_MS_MAX))


def list_events(*, subscription_id: str, after: int, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` deliveries of a subscription from sequence `after + 1` on, in order."""
    # Naming the type lets the index answer, which holds only what has its place.
    query = {"subscription_id": subscription_id, "sequence": {"$gt": after, "$type": "long"}}
    wanted = dict.fromkeys(("sequence", "status", "payload"), 1)
    with unavailable_is_transient():
        rows = collection(Delivery).find(query, wanted).sort("sequence", 1).limit(limit)
        return list(rows.max_time_ms(QUERY_MS_MAX))


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
