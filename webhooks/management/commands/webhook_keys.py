"""`manage.py webhook_keys [--reseal]`: which webhooks are sealed by the first of WEBHOOK_SECRET_KEYS.

To change the key: put a new one first, restart, run this with `--reseal`, take the old one away, restart.
Exit status: 0 done, 1 refused or failed, with the reason in one sentence.
"""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from payflow.errors import Transient
from webhooks import services

PAGE = 200


class Command(BaseCommand):
    """Safe on a running system, and to repeat; shows no secret."""

    help = "Say how many webhooks' secrets the first key seals, or have it seal all of them."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("--reseal", action="store_true", help="seal everything by the first key")

    def handle(self, *args: Any, **options: Any) -> None:
        """Count, or seal anew."""
        try:
            broken = self._reseal() if options["reseal"] else 0
            first, total = services.count_sealed_by_first_key()
        except Transient as error:
            raise CommandError(error.detail) from error
        self.stdout.write(f"The first key seals {first:,} of {total:,} subscriptions.")
        if broken:
            raise CommandError(f"No key opens the secrets of {broken:,} of them; is a key missing?")

    def _reseal(self) -> int:
        """Seal everything anew; name and count what cannot be opened."""
        resealed, broken_count = 0, 0
        after_id: str | None = ""
        while after_id is not None:
            after_id, done, broken = services.reseal_secrets(after_id=after_id, limit=PAGE)
            resealed += done
            broken_count += len(broken)
            for subscription_id in broken:
                self.stderr.write(f"{subscription_id} cannot be opened.")
        self.stdout.write(f"{resealed:,} subscriptions sealed anew.")
        return broken_count
