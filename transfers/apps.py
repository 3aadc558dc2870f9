"""Start-up of the transfers app: tells health how the saga and the e-mails get on."""

from __future__ import annotations

from django.apps import AppConfig

from payflow import health
from transfers import selectors


class TransfersConfig(AppConfig):
    """Transactions and their saga."""

    name = "transfers"

    def ready(self) -> None:
        """Run once per process."""
        health.REPORTS["saga"] = selectors.report_saga
        health.REPORTS["notifications"] = selectors.report_notices
