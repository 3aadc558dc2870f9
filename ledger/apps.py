"""Start-up of the ledger app: tells health what the audit says."""

from __future__ import annotations

from django.apps import AppConfig

from ledger import monitor
from payflow import health


class LedgerConfig(AppConfig):
    """Ledger entries and their audit."""

    name = "ledger"

    def ready(self) -> None:
        """Run once per process."""
        health.REPORTS["ledger_audit"] = monitor.report_health
