"""Wallets for staff, to be read. They freeze with the user's account, or one by one by the audit."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Q
from django.utils.safestring import SafeString
from pymongo import ASCENDING

from ledger import selectors as ledger
from ledger.errors import Unreadable
from payflow.admin import StoredRowsAdmin, amount_text, link, search_link
from wallets.models import WalletRow


@admin.register(WalletRow)
class WalletAdmin(StoredRowsAdmin):
    """Newest first; searched by wallet id or user id."""

    list_display = ("id", "user", "currency", "status", "created_at")
    list_filter = ("status",)
    search_help_text = "A wallet's id or a user's id, exactly."
    search_fields = ("id",)
    fields = (
        "id", "user", "currency", "status", "frozen_because", "balance", "entries",
        "created_at", "updated_at",
    )  # fmt: skip

    def search(self, term: str) -> Q:
        """Return what an exact search term selects."""
        return Q(pk=term) if term.startswith("wal_") else Q(user_id=term)

    def order_of(self, wanted: dict[str, Any]) -> list[tuple[str, int]]:
        """Return one user's by currency, as their index holds them, and all newest first."""
        return [("currency", ASCENDING)] if "user_id" in wanted else super().order_of(wanted)

    @admin.display
    def user(self, row: WalletRow) -> SafeString:
        """The owner."""
        return link("accounts_user", row.user_id)

    @admin.display
    def balance(self, row: WalletRow) -> str:
        """What the newest ledger entry says."""
        try:
            head = ledger.find_head(wallet_id=row.id)
        except Unreadable:
            return "unreadable"
        return amount_text(head.balance_minor if head else 0, row.currency)

    @admin.display(description="Ledger entries")
    def entries(self, row: WalletRow) -> SafeString:
        """The wallet's history."""
        return search_link("ledger_entryrow", row.id, "Show")
