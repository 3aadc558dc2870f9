"""Catching up: the events of a subscription in order, also those that are held for it."""

from __future__ import annotations

from typing import Any

from payflow.errors import StorageFull
from webhooks import refill, selectors, sequencing
from webhooks.documents import Subscription

PLACES_MAX = 500


def read_events(*, subscription: Subscription, after: int, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` events of a subscription from sequence `after + 1` on, in order.

    Where that is not a full page and more is held, what comes next is queued now and gets its numbers. Raises
    Transient.
    """
    rows = selectors.list_events(subscription_id=subscription.id, after=after, limit=limit)
    if len(rows) == limit or subscription.held_since is None:
        return rows
    try:
        if not sequencing.place(subscription_id=subscription.id, limit=PLACES_MAX):
            refill.take_over(subscription_id=subscription.id, limit=limit)
            sequencing.place(subscription_id=subscription.id, limit=PLACES_MAX)
    except StorageFull:
        # Reading goes on; an empty page would say that there is nothing more.
        if not rows:
            raise
    return selectors.list_events(subscription_id=subscription.id, after=after, limit=limit)
