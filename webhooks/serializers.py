"""What the webhook endpoints take and show. A secret is shown only by the function that says so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rest_framework import serializers

from payflow import clock
from payflow.api.fields import FlagField, NumberField, StrictCharField, StrictSerializer
from payflow.api.pages import CursorField, LimitField, PageQuery
from payflow.events import EventType
from webhooks import secrets
from webhooks.addresses import URL_LENGTH_MAX
from webhooks.documents import DeliveryStatus, Subscription
from webhooks.fanout import event_type_of, transaction_of

EVENTS_LENGTH_MAX = 100
EVENT_TYPES = [event.value for event in EventType]
URL = "Where to send events: a public `https` URL in ASCII, kept exactly."
EVENTS = "The events to hear of, one or more; one that is named twice counts once."
_SEQUENCE_MAX = 10**15


class EventField(serializers.ChoiceField):
    """The type of an event, as a JSON string."""

    default_error_messages = {"unknown_event": "There is no such event; see the list in the documentation."}

    def __init__(self) -> None:
        super().__init__(choices=EVENT_TYPES)

    def to_internal_value(self, data: Any) -> str:
        """Return the type."""
        if not isinstance(data, str) or data not in EVENT_TYPES:
            self.fail("unknown_event")
        return data


class EventsField(serializers.ListField):
    """One event or more; one that is named twice counts once."""

    child = EventField()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_empty=False, min_length=1, max_length=EVENTS_LENGTH_MAX, **kwargs)

    def to_internal_value(self, data: Any) -> list[str]:
        """Return the types in the order in which they were first named."""
        # Before each is looked at: an error for every one of thousands would make a long answer.
        if isinstance(data, list) and len(data) > EVENTS_LENGTH_MAX:
            self.fail("max_length", max_length=EVENTS_LENGTH_MAX)
        return list(dict.fromkeys(super().to_internal_value(data)))


class UrlField(StrictCharField):
    """A URL exactly as sent; `webhooks/addresses.py` says which are taken."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=URL_LENGTH_MAX, **kwargs)


class CreateWebhook(StrictSerializer):
    """POST /webhooks."""

    url = UrlField(help_text=URL)
    events = EventsField(help_text=EVENTS)
    secret = StrictCharField(
        required=False,
        max_length=2 * secrets.TEXT_LENGTH_MAX,
        help_text="Your own secret to sign with: `whsec_` and 24 to 64 random bytes in base64. Left out, you "
        "get a new one.",
    )


class ChangeWebhook(StrictSerializer):
    """PATCH /webhooks/{id}: what is left out stays as it is."""

    url = UrlField(required=False, help_text=URL)
    events = EventsField(required=False, help_text=EVENTS)
    is_active = FlagField(required=False, help_text="Whether to send events to it.")


class ListQuery(PageQuery):
    """?limit=&cursor= of webhooks."""

    cursor = CursorField("wh_[0-9a-f]{32}")


class LogQuery(PageQuery):
    """?status=&limit=&cursor= of deliveries."""

    status = serializers.ChoiceField(
        choices=[status.value for status in DeliveryStatus],
        required=False,
        help_text="Only deliveries in this status.",
    )
    cursor = CursorField("dlv_[0-9a-f]{34}")


class EventsQuery(StrictSerializer):
    """?after=&limit=."""

    after = NumberField(
        minimum=0,
        maximum=_SEQUENCE_MAX,
        default=0,
        help_text="Only events after this sequence: the `next` of the page before.",
    )
    limit = LimitField()


def webhook_body(subscription: Subscription) -> dict[str, Any]:
    """Return a subscription as the API shows it: without its secrets."""
    return {
        "id": subscription.id,
        "url": subscription.url,
        "events": list(subscription.events),
        "is_active": subscription.is_active,
        "disabled_because": subscription.disabled_because,
        "consecutive_failures": subscription.consecutive_failures,
        "failing_since": _time(subscription.failing_since),
        "held_since": _time(subscription.held_since),
        "secrets": [_secret_times(each) for each in subscription.secrets],
        "created_at": clock.rfc3339(subscription.created_at),
        "updated_at": clock.rfc3339(subscription.updated_at),
    }


def webhook_body_with_secret(subscription: Subscription, secret: str) -> dict[str, Any]:
    """Return the same with the new secret: for the answer that creates it, and for no other."""
    return {**webhook_body(subscription), "secret": secret}


def delivery_body(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a delivery with its attempts."""
    # While an attempt runs, the stored time only says when to give it up.
    next_attempt_at = None if row.get("claim") else row.get("next_attempt_at")
    return {
        "id": row["_id"],
        "event_id": row["event_id"],
        "event_type": event_type_of(row["event_id"]),
        "transaction_id": transaction_of(row["event_id"]),
        "sequence": row.get("sequence"),
        "status": row["status"],
        "attempt_count": row.get("attempt_count", 0),
        "attempts": [_attempt(each) for each in row.get("attempts", [])],
        "next_attempt_at": _time(next_attempt_at),
        "created_at": clock.rfc3339(row["created_at"]),
        "finished_at": _time(row.get("finished_at")),
    }


def events_body(rows: list[dict[str, Any]], after: int) -> dict[str, Any]:
    """Return a page of events in order; `next` is where to go on, also when there are none yet."""
    results = [
        {
            "sequence": row["sequence"],
            "delivery_id": row["_id"],
            "status": row["status"],
            "event": _event(row),
        }
        for row in rows
    ]
    return {"results": results, "next": results[-1]["sequence"] if results else after}


def _event(row: Mapping[str, Any]) -> Any:
    if row["payload"] is not None:
        return json.loads(row["payload"])
    # Somebody has removed it by hand. The sequence has no gap all the same.
    event_id = row["event_id"]
    created_at = clock.rfc3339(row["created_at"])
    return {"id": event_id, "type": event_type_of(event_id), "created_at": created_at, "data": None}


def _secret_times(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "created_at": clock.rfc3339(stored["created_at"]),
        "expires_at": _time(stored.get("expires_at")),
    }


def _attempt(stored: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: stored.get(name) for name in ("status_code", "latency_ms", "error", "answer")}
    return {"at": clock.rfc3339(stored["at"]), **shown}


def _time(moment: datetime | None) -> str | None:
    return clock.rfc3339(moment) if moment else None
