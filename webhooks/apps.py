"""Start-up of the webhooks app: tells health how deliveries get on."""

from __future__ import annotations

from django.apps import AppConfig

from payflow import health
from webhooks import selectors


class WebhooksConfig(AppConfig):
    """Subscriptions and deliveries."""

    name = "webhooks"

    def ready(self) -> None:
        """Run once per process."""
        health.REPORTS["webhooks"] = selectors.report_webhooks
