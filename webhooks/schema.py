"""The webhook endpoints for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from payflow.api.describing import (
    TIME,
    Answer,
    Link,
    Model,
    Operation,
    Schema,
    nullable,
    page_of,
    record,
    text,
)
from payflow.api.fields import NoInput
from webhooks import secrets
from webhooks.delivery import ATTEMPTS_KEPT_MAX
from webhooks.documents import DeliveryStatus, DisabledBecause
from webhooks.errors import (
    DeliveryNotFound,
    DeliveryPending,
    DisabledByStaff,
    InvalidSecret,
    UrlRefused,
    WebhookDisabled,
    WebhookLimit,
    WebhookNotFound,
)
from webhooks.event_schema import COMPLETED, EVENT, EVENT_TYPE
from webhooks.fanout import TEST_EVENT
from webhooks.serializers import (
    EVENT_TYPES,
    ChangeWebhook,
    CreateWebhook,
    EventsQuery,
    ListQuery,
    LogQuery,
)

TAG = "Webhooks"

_STATUS = text(
    "PENDING is on its way or waits for its next attempt; DEAD was given up.",
    enum=[status.value for status in DeliveryStatus],
)
_SEQUENCE: Schema = {"type": "integer", "minimum": 1, "description": "Its place: 1, 2, 3 ... without gaps."}
_COUNT: Schema = {"type": "integer", "minimum": 0}

_WEBHOOK_FIELDS: dict[str, Any] = {
    "id": text("The webhook's id."),
    "url": text("Where events are sent."),
    "events": {
        "type": "array",
        "items": text("An event's type.", enum=EVENT_TYPES),
        "minItems": 1,
        "uniqueItems": True,
        "description": "What it hears of.",
    },
    "is_active": {"type": "boolean", "description": "Whether anything is sent to it."},
    "disabled_because": nullable(
        text(
            "Why it is not active: its owner or staff said so, it answered 410, or it failed for too long.",
            enum=[reason.value for reason in DisabledBecause],
        )
    ),
    "consecutive_failures": {**_COUNT, "description": "Attempts that failed in a row."},
    "failing_since": nullable({**TIME, "description": "When the first of them was made."}),
    "held_since": nullable(
        {**TIME, "description": "Since when further events wait, because too much is undelivered."}
    ),
    "secrets": {
        "type": "array",
        "items": record(
            "One of its secrets.",
            created_at={**TIME, "description": "When it was made."},
            expires_at=nullable({**TIME, "description": "Until when it signs; null until it is rotated."}),
        ),
        "minItems": 1,
        "maxItems": secrets.SECRETS_MAX,
        "description": "All that sign, the newest first. What they are is not shown.",
    },
    "created_at": TIME,
    "updated_at": {**TIME, "description": "When its owner or staff last changed it."},
}
WEBHOOK = Model("Webhook", record("An endpoint of one's own, and the events it hears of.", **_WEBHOOK_FIELDS))
WEBHOOK_WITH_SECRET = Model(
    "WebhookWithSecret",
    record(
        "A webhook with its new secret.",
        **_WEBHOOK_FIELDS,
        secret=text(
            "What verifies deliveries, in the Standard Webhooks form. It is shown in this answer only.",
            pattern=f"^{secrets.PREFIX}[A-Za-z0-9+/]+=*$",
        ),
    ),
)
ATTEMPT = record(
    "One request to the endpoint, and what came of it.",
    at={**TIME, "description": "When it was made."},
    status_code=nullable({"type": "integer", "description": "The status it was answered with, if it was."}),
    latency_ms=nullable({**_COUNT, "description": "How long that took, in milliseconds."}),
    error=nullable(text("A stable word for why there is no status.")),
    answer=text("The beginning of the answer's body, if there was any."),
)
DELIVERY = Model(
    "WebhookDelivery",
    record(
        "One event for one webhook.",
        id=text("The delivery's id."),
        event_id=text("The `webhook-id` of every attempt: tell repeats by it."),
        event_type=EVENT_TYPE,
        transaction_id=nullable(text("The transaction that it tells of; null for a test.")),
        sequence=nullable(_SEQUENCE),
        status=_STATUS,
        attempt_count={**_COUNT, "description": "How many attempts were made at it."},
        attempts={
            "type": "array",
            "items": ATTEMPT,
            "maxItems": ATTEMPTS_KEPT_MAX,
            "description": "The newest of them, in order.",
        },
        next_attempt_at=nullable({**TIME, "description": "When it is tried next, if that is known."}),
        created_at=TIME,
        finished_at=nullable({**TIME, "description": "When it was delivered or given up."}),
    ),
)
EVENTS = Model(
    "WebhookEvents",
    record(
        "Events in the order of their sequence.",
        results={
            "type": "array",
            "description": "This page's events.",
            "maxItems": 100,
            "items": record(
                "An event as it was, or will be, delivered.",
                sequence=_SEQUENCE,
                delivery_id=text("The delivery's id."),
                status=_STATUS,
                event=EVENT,
            ),
        },
        next={**_COUNT, "description": "Ask with `after` of this for what comes later."},
    ),
)

_TRANSACTION_ID = "txn_01a206d2bccfb30670911de76edd5018"
_EXAMPLE: dict[str, Any] = {
    "id": "wh_01a206d2be17d0a93cf2b8e15a6470d3",
    "url": "https://example.com/hooks",
    "events": ["TRANSACTION_COMPLETED", "TRANSACTION_FAILED"],
    "is_active": True,
    "disabled_because": None,
    "consecutive_failures": 0,
    "failing_since": None,
    "held_since": None,
    "secrets": [{"created_at": "2026-11-23T05:13:21.047Z", "expires_at": None}],
    "created_at": "2026-11-23T05:13:21.047Z",
    "updated_at": "2026-11-23T05:13:21.047Z",
}
_SECRET = f"{secrets.PREFIX}{'x' * 43}="
_ROTATED = {
    **_EXAMPLE,
    "secrets": [
        {"created_at": "2026-11-24T09:00:00.000Z", "expires_at": None},
        {"created_at": _EXAMPLE["created_at"], "expires_at": "2026-11-25T09:00:00.000Z"},
    ],
    "updated_at": "2026-11-24T09:00:00.000Z",
}
_DELIVERED: dict[str, Any] = {
    "id": "dlv_01a206d2bcff06404f1c2d39be580a71f85b",
    "event_id": f"{_TRANSACTION_ID}:TRANSACTION_COMPLETED",
    "event_type": "TRANSACTION_COMPLETED",
    "transaction_id": _TRANSACTION_ID,
    "sequence": 1,
    "status": "DELIVERED",
    "attempt_count": 2,
    "attempts": [
        {
            "at": "2026-11-23T05:13:24.002Z",
            "status_code": None,
            "latency_ms": 2_001,
            "error": "connect_timeout",
            "answer": "",
        },
        {
            "at": "2026-11-23T05:13:29.310Z",
            "status_code": 200,
            "latency_ms": 41,
            "error": None,
            "answer": "thanks",
        },
    ],
    "next_attempt_at": None,
    "created_at": "2026-11-23T05:13:23.981Z",
    "finished_at": "2026-11-23T05:13:29.351Z",
}
_AGAIN = {
    **_DELIVERED,
    "status": "PENDING",
    "next_attempt_at": "2026-11-23T08:00:00.000Z",
    "finished_at": None,
}
_TEST = {
    **_AGAIN,
    "id": "dlv_01a206d3a4100051c6e2f7b8930d4ea5",
    "event_id": "evt_01a206d3a41b5b7cf0d9e38a26c1475e",
    "event_type": TEST_EVENT,
    "transaction_id": None,
    "sequence": None,
    "attempt_count": 0,
    "attempts": [],
    "created_at": "2026-11-23T08:00:00.000Z",
}
_EVENTS_EXAMPLE = {
    "results": [
        {
            "sequence": 1,
            "delivery_id": _DELIVERED["id"],
            "status": "DELIVERED",
            "event": COMPLETED,
        }
    ],
    "next": 1,
}
_NOT_FOUND = WebhookNotFound("You have no such webhook.")
_URL_REFUSED = UrlRefused("The URL's host has no public address.")
_DISABLED = WebhookDisabled("This webhook is disabled; nothing is sent to it.")
_PATH = {"id": "The webhook's id."}
_DELIVERY_PATH = {**_PATH, "delivery": "The delivery's id."}
_LOG = Link("listWebhookDeliveries", {"id": "$request.path.id"}, "What became of it.")

OPERATIONS = {
    "list": Operation(
        id="listWebhooks",
        tag=TAG,
        summary="List one's webhooks",
        description="Newest first.",
        query=ListQuery,
        answers={
            200: Answer(
                description="A page of webhooks.",
                body=page_of(WEBHOOK, "Webhooks, newest first."),
                examples={"one": {"results": [_EXAMPLE], "next": None}},
            )
        },
    ),
    "create": Operation(
        id="createWebhook",
        tag=TAG,
        summary="Register a webhook",
        description="It is sent the events that it names, of transactions that its owner is a party to. "
        "Each delivery is signed with the webhook's secret: your own, or a new one.",
        takes=CreateWebhook,
        sends={"ends": {"url": _EXAMPLE["url"], "events": _EXAMPLE["events"]}},
        answers={
            201: Answer(
                description="The webhook. Keep its secret: nobody can show it again.",
                body=WEBHOOK_WITH_SECRET,
                examples={"ends": {**_EXAMPLE, "secret": _SECRET}},
                headers=["Location"],
                links={"webhook": Link("getWebhook", {"id": "$response.body#/id"}, "How it gets on.")},
            )
        },
        refusals=[
            _URL_REFUSED,
            InvalidSecret("A secret holds 24 to 64 bytes; this one holds 16."),
            WebhookLimit("You have 20 webhooks, and may have 20."),
        ],
    ),
    "retrieve": Operation(
        id="getWebhook",
        tag=TAG,
        summary="Get a webhook",
        description="How it is set up and how it gets on; its secrets are not shown.",
        path=_PATH,
        answers={200: Answer(description="The webhook.", body=WEBHOOK, examples={"ends": _EXAMPLE})},
        refusals=[_NOT_FOUND],
    ),
    "partial_update": Operation(
        id="changeWebhook",
        tag=TAG,
        summary="Change a webhook",
        description="What is left out stays. Enabling it, or changing its URL, forgets its failures.",
        path=_PATH,
        takes=ChangeWebhook,
        sends={"move": {"url": "https://example.com/new-hooks"}, "enable": {"is_active": True}},
        answers={
            200: Answer(
                description="The webhook as it is now.",
                body=WEBHOOK,
                examples={"moved": {**_EXAMPLE, "url": "https://example.com/new-hooks"}},
            )
        },
        refusals=[
            _NOT_FOUND,
            _URL_REFUSED,
            DisabledByStaff("Staff have disabled this webhook."),
        ],
    ),
    "destroy": Operation(
        id="deleteWebhook",
        tag=TAG,
        summary="Delete a webhook",
        description="What is on its way to it is dropped.",
        path=_PATH,
        answers={204: Answer(description="It is gone.")},
        refusals=[_NOT_FOUND],
    ),
    "rotate_secret": Operation(
        id="rotateWebhookSecret",
        tag=TAG,
        summary="Rotate a webhook's secret",
        description="The former one signs beside the new one for 24 hours.",
        path=_PATH,
        takes=NoInput,
        sends={"nothing": {}},
        answers={
            200: Answer(
                description="The webhook with its new secret. Keep it: nobody can show it again.",
                body=WEBHOOK_WITH_SECRET,
                examples={"rotated": {**_ROTATED, "secret": _SECRET}},
            )
        },
        refusals=[_NOT_FOUND],
    ),
    "test": Operation(
        id="testWebhook",
        tag=TAG,
        summary="Send a test event",
        description=f"`{TEST_EVENT}`, to this webhook alone.",
        path=_PATH,
        takes=NoInput,
        sends={"nothing": {}},
        answers={
            202: Answer(
                description="The delivery, on its way.",
                body=DELIVERY,
                examples={"test": _TEST},
                links={"log": _LOG},
            )
        },
        refusals=[_NOT_FOUND, _DISABLED],
    ),
    "logs": Operation(
        id="listWebhookDeliveries",
        tag=TAG,
        summary="List a webhook's deliveries",
        description="Newest first, each with its attempts.",
        path=_PATH,
        query=LogQuery,
        answers={
            200: Answer(
                description="A page of deliveries.",
                body=page_of(DELIVERY, "Deliveries, newest first."),
                examples={"one": {"results": [_DELIVERED], "next": None}},
            )
        },
        refusals=[_NOT_FOUND],
    ),
    "redeliver": Operation(
        id="redeliverWebhookDelivery",
        tag=TAG,
        summary="Send a delivery again",
        description="One that has ended, delivered or dead. It keeps its place and its `webhook-id`.",
        path=_DELIVERY_PATH,
        takes=NoInput,
        sends={"nothing": {}},
        answers={
            202: Answer(
                description="The delivery, on its way again.",
                body=DELIVERY,
                examples={"again": _AGAIN},
                links={"log": _LOG},
            )
        },
        refusals=[
            _NOT_FOUND,
            DeliveryNotFound("This webhook has no such delivery."),
            _DISABLED,
            DeliveryPending("This delivery is under way already."),
        ],
    ),
    "events": Operation(
        id="listWebhookEvents",
        tag=TAG,
        summary="Catch up with events",
        description="All events, delivered or not, in order and without gaps: for when you have missed some.",
        path=_PATH,
        query=EventsQuery,
        answers={
            200: Answer(description="A page of events.", body=EVENTS, examples={"one": _EVENTS_EXAMPLE})
        },
        refusals=[_NOT_FOUND],
    ),
}
