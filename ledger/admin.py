"""The ledger for staff, to be read: it is append-only, and only `ledger/posting.py` appends."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Q
from django.utils.safestring import SafeString
from pymongo import DESCENDING

from ledger.models import EntryRow
from ledger.selectors import BrokenEntry, entry_in
from payflow.admin import StoredRowsAdmin, amount_text, link, mark

# The operations that a transaction may have; each is an entry's id.
TRANSACTION_OPERATIONS = ("debit", "credit", "refund")


@admin.register(EntryRow)
class EntryAdmin(StoredRowsAdmin):
    """Last written first; searched by operation id, wallet id or transaction id."""

    list_display = ("id", "kind", "amount", "balance", "created_at", "sequence", "wallet", "proof")
    search_help_text = "An operation's id, a wallet's id or a transaction's id, exactly."
    search_fields = ("id",)
    fields = (
        "id", "wallet", "sequence", "kind", "amount", "balance", "requested", "contra",
        "transaction", "reason", "created_at", "previous_hash", "hash", "key_id", "mac", "proof",
    )  # fmt: skip

    def search(self, term: str) -> Q:
        """Return what an exact search term selects."""
        if term.startswith("wal_"):
            return Q(wallet_id=term)
        return Q(pk__in=[term, *(f"{term}:{operation}" for operation in TRANSACTION_OPERATIONS)])

    def order_of(self, wanted: dict[str, Any]) -> list[tuple[str, int]]:
        """Return a wallet's newest first, and all the last written first.

        Ids of entries name operations, so they are not ordered by time; but the collection is append-only.
        """
        if "wallet_id" in wanted:
            return [("sequence", DESCENDING)]
        return super().order_of(wanted) if wanted else [("$natural", DESCENDING)]

    @admin.display(description="Hash and MAC")
    def proof(self, row: EntryRow) -> str:
        """Whether PayFlow has written it (L8)."""
        entry = entry_in(row.as_document())
        return mark(entry.reason) if isinstance(entry, BrokenEntry) else "good"

    @admin.display
    def wallet(self, row: EntryRow) -> SafeString:
        """The wallet whose chain it is in."""
        return link("wallets_walletrow", row.wallet_id)

    @admin.display
    def transaction(self, row: EntryRow) -> str:
        """The transaction that caused it."""
        return link("transfers_transactionrow", row.transaction_id) if row.transaction_id else "-"

    @admin.display
    def amount(self, row: EntryRow) -> str:
        """What it added or took."""
        return amount_text(row.amount_minor, row.currency)

    @admin.display(description="Balance after")
    def balance(self, row: EntryRow) -> str:
        """The wallet's balance after it."""
        return amount_text(row.balance_minor, row.currency)

    @admin.display
    def requested(self, row: EntryRow) -> str:
        """What was asked for; it says more than the amount where it was declined."""
        return "-" if row.requested_minor is None else amount_text(row.requested_minor, row.currency)
