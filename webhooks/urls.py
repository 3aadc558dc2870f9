"""The webhook routes, below /webhooks."""

from __future__ import annotations

from django.urls import path, re_path

from payflow.text import ID_PATTERN
from webhooks.views import WebhookViewSet

_ONE = rf"^/(?P<pk>{ID_PATTERN})"
_LIST = {"get": "list", "post": "create"}
_ITEM = {"get": "retrieve", "patch": "partial_update", "delete": "destroy"}

urlpatterns = [
    path("", WebhookViewSet.as_view(_LIST), name="webhooks"),
    re_path(rf"{_ONE}\Z", WebhookViewSet.as_view(_ITEM), name="webhook"),
    re_path(
        rf"{_ONE}/rotate-secret\Z", WebhookViewSet.as_view({"post": "rotate_secret"}), name="webhook-secret"
    ),
    re_path(rf"{_ONE}/test\Z", WebhookViewSet.as_view({"post": "test"}), name="webhook-test"),
    re_path(rf"{_ONE}/logs\Z", WebhookViewSet.as_view({"get": "logs"}), name="webhook-logs"),
    re_path(
        rf"{_ONE}/logs/(?P<delivery>{ID_PATTERN})/redeliver\Z",
        WebhookViewSet.as_view({"post": "redeliver"}),
        name="webhook-redeliver",
    ),
    re_path(rf"{_ONE}/events\Z", WebhookViewSet.as_view({"get": "events"}), name="webhook-events"),
]
