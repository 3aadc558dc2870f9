"""The webhook endpoints for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view
from rest_framework import serializers

from payflow.api.fields import NoInput
from webhooks.documents import DeliveryStatus, DisabledBecause
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


class SecretTimes(serializers.Serializer):
    """When a secret was made, and until when it signs; null: until it is rotated."""

    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True)


class Webhook(serializers.Serializer):
    """An endpoint of one's own, and the events it hears of."""

    id = serializers.CharField()
    url = serializers.CharField()
    events = serializers.ListField(child=serializers.ChoiceField(choices=EVENT_TYPES))
    is_active = serializers.BooleanField()
    disabled_because = serializers.ChoiceField(
        choices=[each.value for each in DisabledBecause], allow_null=True, help_text="While it is not active."
    )
    consecutive_failures = serializers.IntegerField(help_text="Attempts that failed in a row.")
    failing_since = serializers.DateTimeField(allow_null=True)
    secrets = SecretTimes(many=True, help_text="The newest first; all of them sign.")
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class WebhookWithSecret(Webhook):
    """The same with its new secret, which is shown in this answer only."""

    secret = serializers.CharField(help_text="`whsec_` and base64 (Standard Webhooks).")


class Attempt(serializers.Serializer):
    """One request to the endpoint, and what came of it."""

    at = serializers.DateTimeField()
    status_code = serializers.IntegerField(allow_null=True)
    latency_ms = serializers.IntegerField(allow_null=True)
    error = serializers.CharField(allow_null=True)
    answer = serializers.CharField(allow_null=True, help_text="The beginning of the answer's body.")


class WebhookDelivery(serializers.Serializer):
    """One event for one webhook."""

    id = serializers.CharField()
    event_id = serializers.CharField(help_text="The `webhook-id` of every attempt: deduplicate by it.")
    event_type = serializers.ChoiceField(choices=[*EVENT_TYPES, TEST_EVENT])
    transaction_id = serializers.CharField(allow_null=True)
    sequence = serializers.IntegerField(
        allow_null=True, help_text="Its place, without gaps; null until it has one."
    )
    status = serializers.ChoiceField(choices=[each.value for each in DeliveryStatus])
    attempt_count = serializers.IntegerField()
    attempts = Attempt(many=True, help_text="The newest of them.")
    next_attempt_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)


class WebhookEvent(serializers.Serializer):
    """An event as it was, or will be, delivered."""

    sequence = serializers.IntegerField()
    delivery_id = serializers.CharField()
    status = serializers.ChoiceField(choices=[each.value for each in DeliveryStatus])
    event = serializers.JSONField(help_text="The body of the request: {id, type, created_at, data}.")


class WebhookPage(serializers.Serializer):
    """Webhooks, newest first."""

    results = Webhook(many=True)
    next = serializers.CharField(allow_null=True, help_text="The `cursor` of the next page.")


class WebhookDeliveryPage(serializers.Serializer):
    """Deliveries, newest first."""

    results = WebhookDelivery(many=True)
    next = serializers.CharField(allow_null=True, help_text="The `cursor` of the next page.")


class WebhookEvents(serializers.Serializer):
    """Events in the order of their sequence."""

    results = WebhookEvent(many=True)
    next = serializers.IntegerField(help_text="Ask with `after` of this for what comes later.")


def _operation(operation_id: str, summary: str, description: str = "", **given: Any) -> Any:
    return extend_schema(
        operation_id=operation_id, summary=summary, description=description, tags=[TAG], **given
    )


_ID = OpenApiParameter("id", str, OpenApiParameter.PATH, description="The webhook's id.")
_DELIVERY = OpenApiParameter("delivery", str, OpenApiParameter.PATH, description="The delivery's id.")

described = extend_schema_view(
    list=_operation("listWebhooks", "List one's webhooks", parameters=[ListQuery], responses=WebhookPage),
    create=_operation(
        "createWebhook",
        "Register a webhook",
        "PayFlow then sends it the events of transactions that its owner is a party to.",
        request=CreateWebhook,
        responses={201: WebhookWithSecret},
    ),
    retrieve=_operation("getWebhook", "Get a webhook", parameters=[_ID], responses=Webhook),
    partial_update=_operation(
        "changeWebhook",
        "Change a webhook",
        "Enabling it, or changing its URL, forgets its failures.",
        parameters=[_ID],
        request=ChangeWebhook,
        responses=Webhook,
    ),
    destroy=_operation(
        "deleteWebhook",
        "Delete a webhook",
        "What is on its way to it is dropped.",
        parameters=[_ID],
        responses={204: OpenApiResponse(description="It is gone.")},
    ),
    rotate_secret=_operation(
        "rotateWebhookSecret",
        "Rotate a webhook's secret",
        "The former one also signs for 24 hours.",
        parameters=[_ID],
        request=NoInput,
        responses=WebhookWithSecret,
    ),
    test=_operation(
        "testWebhook",
        "Send a test event",
        parameters=[_ID],
        request=NoInput,
        responses={202: WebhookDelivery},
    ),
    logs=_operation(
        "listWebhookDeliveries",
        "List a webhook's deliveries",
        parameters=[_ID, LogQuery],
        responses=WebhookDeliveryPage,
    ),
    redeliver=_operation(
        "redeliverWebhookDelivery",
        "Send a delivery again",
        "One that was delivered, or has become a dead letter.",
        parameters=[_ID, _DELIVERY],
        request=NoInput,
        responses={202: WebhookDelivery},
    ),
    events=_operation(
        "listWebhookEvents",
        "Catch up with events",
        "What was to be delivered, in order and without gaps.",
        parameters=[_ID, EventsQuery],
        responses=WebhookEvents,
    ),
)
