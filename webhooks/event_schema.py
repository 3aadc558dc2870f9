"""What PayFlow sends to webhooks, for the OpenAPI document: its `webhooks`, beside the `paths` it answers at.

What must stay true: a body that `fanout.py` writes down is one that is described here.
"""

from __future__ import annotations

import re
from typing import Any

from payflow.api.describing import TIME, Model, Schema, record, text
from payflow.events import EventType
from webhooks.fanout import TEST_EVENT

EVENT_TYPES = [*(event.value for event in EventType), TEST_EVENT]
EVENT_TYPE = text("An event's type.", enum=EVENT_TYPES)
EVENT = Model(
    "WebhookEvent",
    record(
        "The body of a delivery.",
        id=text("The event's id; it comes as `webhook-id`, too."),
        type=EVENT_TYPE,
        created_at={**TIME, "description": "When it happened."},
        data={
            "description": "The transaction as it was then; of a test, which webhook it is for.",
            "oneOf": [
                # The model is of an app that this one must not import.
                {"$ref": "#/components/schemas/Transaction"},
                record("What a test holds.", subscription_id=text("The webhook's id.")),
            ],
        },
    ),
)

_HAPPENED: dict[str, tuple[str, str]] = {
    EventType.TRANSACTION_INITIATED: ("A transfer was written down", "It goes on by itself."),
    EventType.DEBIT_SUCCESS: ("The sender was debited", "The money is on its way."),
    EventType.DEBIT_FAILED: ("The debit was declined", "Nothing was taken; the transfer fails."),
    EventType.CREDIT_SUCCESS: ("The receiver was credited", "The money has arrived."),
    EventType.CREDIT_FAILED: ("The receiver could not be credited", "The sender gets the money back."),
    EventType.REFUND_REQUESTED: ("A refund was begun", "It is tried until it is made."),
    EventType.REFUND_COMPLETED: ("A refund was made", "The sender has the money back."),
    EventType.REFUND_FAILED: ("A refund could not be made yet", "It is tried until it is made."),
    EventType.TRANSACTION_COMPLETED: ("A transfer has ended well", "Nothing follows."),
    EventType.TRANSACTION_FAILED: ("A transfer has failed", "`data.failure` says why. Nothing follows."),
    TEST_EVENT: ("A test", "Sent by `testWebhook`, to one webhook alone."),
}
TRANSACTION: dict[str, Any] = {
    "id": "txn_01a206d2bccfb30670911de76edd5018",
    "sender_id": "6b03cb73d89c58b3ee4eee4b",
    "receiver_id": "6b03cb73d89c58b3ee4eee4c",
    "amount": "25.50",
    "currency": "USD",
    "status": "COMPLETED",
    "description": "dinner",
    "reference": None,
    "batch_id": None,
    "failure": None,
    "history": [
        {"status": "INITIATED", "at": "2026-11-23T05:13:23.919Z", "reason": None},
        {"status": "DEBITED", "at": "2026-11-23T05:13:23.931Z", "reason": None},
        {"status": "CREDITED", "at": "2026-11-23T05:13:23.949Z", "reason": None},
        {"status": "COMPLETED", "at": "2026-11-23T05:13:23.967Z", "reason": None},
    ],
    "initiated_at": "2026-11-23T05:13:23.919Z",
    "completed_at": "2026-11-23T05:13:23.967Z",
}
"""The payment that every example shows, here and where transactions are described."""
_EXAMPLES: dict[str, Any] = {
    EventType.TRANSACTION_COMPLETED: {
        "id": f"{TRANSACTION['id']}:TRANSACTION_COMPLETED",
        "type": "TRANSACTION_COMPLETED",
        "created_at": TRANSACTION["completed_at"],
        "data": TRANSACTION,
    },
    TEST_EVENT: {
        "id": "evt_01a206d3a41b5b7cf0d9e38a26c1475e",
        "type": TEST_EVENT,
        "created_at": "2026-11-23T08:00:00.000Z",
        "data": {"subscription_id": "wh_01a206d2be17d0a93cf2b8e15a6470d3"},
    },
}
COMPLETED: dict[str, Any] = _EXAMPLES[EventType.TRANSACTION_COMPLETED]

_HEADERS: dict[str, tuple[str, Schema]] = {
    "webhook-id": (
        "The event's id, as in the body; the same for every attempt and every repeat: tell repeats by it.",
        {"type": "string"},
    ),
    "webhook-timestamp": (
        "When this attempt was made, in seconds since 1970. Refuse one that is more than five minutes off.",
        {"type": "string", "pattern": "^[0-9]+$"},
    ),
    "webhook-signature": (
        "`v1,` and a signature over `id.timestamp.body` (Standard Webhooks); one for each secret that signs.",
        {"type": "string", "pattern": "^v1,[A-Za-z0-9+/]+=*( v1,[A-Za-z0-9+/]+=*)*$"},
    ),
    "PayFlow-Sequence": (
        "The delivery's place among those of this webhook: 1, 2, 3 ... without gaps.",
        {"type": "string", "pattern": "^[1-9][0-9]*$"},
    ),
    "PayFlow-Delivery": ("The delivery's id, as the log names it.", {"type": "string"}),
}
_ANSWERS = {
    "2XX": "It was received. Answer so at once, and work afterwards.",
    "410": "The endpoint is gone for good: the webhook is disabled.",
    "429": "Tried again, not before `Retry-After` says.",
    "503": "Tried again, not before `Retry-After` says.",
    "default": "Any other answer, a redirect too, and none in time: tried again, at longer and longer "
    "intervals, until it is given up as a dead letter.",
}


def add_webhooks(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Add what is sent, by the type of the event (OpenAPI 3.1, 4.8.1)."""
    parameters = {
        name: {"name": name, "in": "header", "required": True, "description": description, "schema": schema}
        for name, (description, schema) in _HEADERS.items()
    }
    result["components"]["parameters"] |= parameters
    result["webhooks"] = {event_type: {"post": _post(event_type)} for event_type in EVENT_TYPES}
    return result


def _post(event_type: str) -> dict[str, Any]:
    summary, description = _HAPPENED[event_type]
    schema = {
        "allOf": [
            {"$ref": f"#/components/schemas/{EVENT.name}"},
            {"properties": {"type": {"const": event_type}}},
        ]
    }
    example = {"examples": {"event": {"value": _EXAMPLES[event_type]}}} if event_type in _EXAMPLES else {}
    return {
        "operationId": "on" + "".join(word.capitalize() for word in re.split("[._]", event_type)),
        "summary": summary,
        "description": description,
        "tags": ["Webhooks"],
        "security": [],
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in _HEADERS],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema, **example}}},
        "responses": {status: {"description": text} for status, text in _ANSWERS.items()},
    }
