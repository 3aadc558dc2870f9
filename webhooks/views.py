"""The webhook endpoints. They are their owner's; to everyone else they do not exist."""

from __future__ import annotations

from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from payflow.api.describing import described
from payflow.api.fields import NoInput
from payflow.api.pages import page
from payflow.api.scopes import Scope
from payflow.api.viewsets import ApiViewSet
from webhooks import catchup, fanout, replay, schema, selectors, services
from webhooks.documents import DeliveryStatus, Subscription
from webhooks.errors import DeliveryPending, WebhookDisabled
from webhooks.serializers import (
    ChangeWebhook,
    CreateWebhook,
    delivery_body,
    events_body,
    webhook_body,
    webhook_body_with_secret,
)


@described(schema.OPERATIONS)
class WebhookViewSet(ApiViewSet):
    """A user's own endpoints, and what was sent to them."""

    # Whoever reads deliveries, or says where they go, reads transactions.
    scopes = {
        **dict.fromkeys(("list", "retrieve", "destroy", "rotate_secret", "test"), Scope.WEBHOOKS_WRITE),
        **dict.fromkeys(
            ("create", "partial_update", "logs", "redeliver", "events"),
            (Scope.WEBHOOKS_WRITE, Scope.TRANSACTIONS_READ),
        ),
    }
    # What looks up hosts or sends requests on somebody's behalf.
    limits = dict.fromkeys(("create", "partial_update", "test", "redeliver"), "webhooks")

    def list(self, request: Request) -> Response:
        """GET /webhooks: newest first."""
        asked = self.query
        rows = selectors.list_subscriptions(
            user_id=request.user.id, limit=asked["limit"] + 1, before_id=asked.get("cursor")
        )
        return Response(page(rows, asked["limit"], key=lambda row: row.id, render=webhook_body))

    def create(self, request: Request) -> Response:
        """POST /webhooks: the answer is the only one that holds the secret."""
        wanted = CreateWebhook(data=request.data)
        wanted.is_valid(raise_exception=True)
        created, secret = services.create_subscription(user_id=request.user.id, **wanted.validated_data)
        headers = {"Location": f"/webhooks/{created.id}"}
        return Response(webhook_body_with_secret(created, secret), status=201, headers=headers)

    def retrieve(self, request: Request, pk: str) -> Response:
        """GET /webhooks/{id}."""
        return Response(webhook_body(_own(request, pk)))

    def partial_update(self, request: Request, pk: str) -> Response:
        """PATCH /webhooks/{id}: its URL, its events, whether it is active."""
        wanted = ChangeWebhook(data=request.data)
        wanted.is_valid(raise_exception=True)
        _own(request, pk)  # before a host is looked up for it
        changed = services.change_subscription(
            user_id=request.user.id, webhook_id=pk, **wanted.validated_data
        )
        return Response(webhook_body(changed))

    def destroy(self, request: Request, pk: str) -> Response:
        """DELETE /webhooks/{id}."""
        services.delete_subscription(user_id=request.user.id, webhook_id=pk)
        return Response(status=204)

    @action(detail=True, methods=["post"])
    def rotate_secret(self, request: Request, pk: str) -> Response:
        """POST /webhooks/{id}/rotate-secret."""
        NoInput(data=request.data).is_valid(raise_exception=True)
        rotated, secret = services.rotate_secret(user_id=request.user.id, webhook_id=pk)
        return Response(webhook_body_with_secret(rotated, secret))

    @action(detail=True, methods=["post"])
    def test(self, request: Request, pk: str) -> Response:
        """POST /webhooks/{id}/test: send an event that only tests."""
        NoInput(data=request.data).is_valid(raise_exception=True)
        subscription = _active(_own(request, pk))
        delivery_id = fanout.send_test(subscription_id=subscription.id)
        return _accepted(pk, delivery_id)

    @action(detail=True)
    def logs(self, request: Request, pk: str) -> Response:
        """GET /webhooks/{id}/logs: deliveries with their attempts, newest first."""
        asked = self.query
        rows = selectors.list_deliveries(
            subscription_id=_own(request, pk).id,
            limit=asked["limit"] + 1,
            status=DeliveryStatus(asked["status"]) if "status" in asked else None,
            before_id=asked.get("cursor"),
        )
        return Response(page(rows, asked["limit"], key=lambda row: row["_id"], render=delivery_body))

    @action(detail=True, methods=["post"])
    def redeliver(self, request: Request, pk: str, delivery: str) -> Response:
        """POST /webhooks/{id}/logs/{delivery}/redeliver: send what has ended again."""
        NoInput(data=request.data).is_valid(raise_exception=True)
        subscription = _own(request, pk)
        selectors.get_delivery(subscription_id=pk, delivery_id=delivery)
        if not replay.redeliver(delivery_id=delivery, subscription_id=_active(subscription).id):
            raise DeliveryPending("This delivery is under way already.")
        return _accepted(pk, delivery)

    @action(detail=True)
    def events(self, request: Request, pk: str) -> Response:
        """GET /webhooks/{id}/events: what was to be delivered, in order, for who has missed some."""
        after, limit = self.query["after"], self.query["limit"]
        rows = catchup.read_events(subscription=_own(request, pk), after=after, limit=limit)
        return Response(events_body(rows, after))


def _own(request: Request, webhook_id: str) -> Subscription:
    return selectors.get_subscription(user_id=request.user.id, webhook_id=webhook_id)


def _active(subscription: Subscription) -> Subscription:
    if not subscription.is_active:
        raise WebhookDisabled("This webhook is disabled; nothing is sent to it.")
    return subscription


def _accepted(webhook_id: str, delivery_id: str) -> Response:
    row = selectors.get_delivery(subscription_id=webhook_id, delivery_id=delivery_id)
    return Response(delivery_body(row), status=202)
