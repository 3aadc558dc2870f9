"""`manage.py wallet unfreeze ID --who NAME`: let money move again in a wallet that the audit has frozen.

Exit status: 0 done, 1 refused or failed, with the reason in one sentence.
"""

from __future__ import annotations

import logging
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ledger import settling
from payflow.errors import Refused, Transient
from payflow.terminal import visible_line
from wallets import selectors, services

logger = logging.getLogger(__name__)
WHO_LENGTH_MAX = 64


class Command(BaseCommand):
    """Verifies the chain first: a wallet that is still broken stays frozen."""

    help = "Clear what the audit found about one wallet, and unfreeze it."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        actions = parser.add_subparsers(dest="action", required=True, metavar="unfreeze")
        unfreeze = actions.add_parser("unfreeze", help="verify the wallet's chain and let money move again")
        unfreeze.add_argument("id", metavar="ID")
        unfreeze.add_argument(
            "--who", type=visible_line(WHO_LENGTH_MAX), required=True, help="who decides this"
        )
        unfreeze.add_argument(
            "--accept",
            action="store_true",
            help="take the chain as it is, though it is not what the audit remembers of it",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Settle, then thaw; safe to repeat."""
        wallet_id, who = options["id"], options["who"]
        try:
            if selectors.find_wallet_by_id(wallet_id=wallet_id) is None:
                raise CommandError(f"There is no wallet {wallet_id}.")
            cleared = settling.settle_wallet(wallet_id, by=who, accept=options["accept"])
            wallet = services.unfreeze_broken_wallet(wallet_id)
        except (Refused, Transient) as error:
            raise CommandError(error.detail.encode("ascii", "backslashreplace").decode()) from error
        logger.warning("wallet unfrozen", extra={"wallet_id": wallet_id, "by": who, "cleared": cleared})
        self.stdout.write(f"{wallet_id} is now {wallet.status}; findings cleared: {cleared}.")
