"""Transactions for staff, to be read: where each saga stands, how it got there, what the ledger says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from ledger import selectors as ledger
from ledger.chain import Entry
from payflow import clock
from payflow.admin import StoredRowsAdmin, amount_text, items_of, link, mark, odd, table, time_text
from transfers import notice_admin, selectors
from transfers.models import TransactionRow
from transfers.states import TERMINAL, Status

__all__ = ["TransactionAdmin", "notice_admin"]

# Whatever is not finished is due at some time. Saying so lets the sparse index on `due_at` answer, which
# holds little; there is none on the status, for each move would have to write it.
_UNFINISHED = Q(due_at__gt=datetime(1970, 1, 1, tzinfo=UTC))


class StatusFilter(admin.SimpleListFilter):
    """By status, or those that recovery has given up hope on."""

    title = parameter_name = "status"
    needs_attention = "needs attention"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the choices."""
        return [(status.value, status.value) for status in Status] + [(self.needs_attention,) * 2]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        """Return the rows of the chosen kind."""
        chosen = self.value()
        if chosen is None:
            return queryset
        if chosen == self.needs_attention:
            return queryset.filter(_UNFINISHED, needs_attention=True)
        return queryset.filter(Q() if chosen in TERMINAL else _UNFINISHED, status=chosen)


@admin.register(TransactionRow)
class TransactionAdmin(StoredRowsAdmin):
    """Newest first; searched by the id of a transaction, of a batch or of a party, or by a reference."""

    list_display = ("id", "status", "amount", "initiated_at", "sender", "receiver", "attention")
    list_filter = (StatusFilter,)
    search_help_text = (
        "The id of a transaction, a batch or a user, exactly; or a sender's id, a blank and their reference."
    )
    search_fields = ("id",)
    fieldsets = (
        (None, {"fields": ("id", "status", "amount", "description", "reference", "batch_id")}),
        ("Parties", {"fields": ("sender", "sender_wallet", "receiver", "receiver_wallet")}),
        ("Saga", {"fields": ("timeline", "failure", "settlement", "entries")}),
        (
            "Recovery",
            {
                "fields": (
                    "initiated_at",
                    "completed_at",
                    "due_at",
                    "attempts",
                    "attention",
                    "operator_actions",
                    "correlation_id",
                )
            },
        ),
    )

    def search(self, term: str) -> Q:
        """Return what an exact search term selects."""
        if term.startswith("bat_"):
            return Q(batch_id=term)
        sender_id, _, reference = term.partition(" ")
        if reference:
            # By the query that the index serves, which the ORM cannot write.
            found = selectors.find_by_reference(sender_id=sender_id, reference=reference.strip())
            return Q(pk=found["_id"] if found else "")
        return Q(pk=term) if term.startswith("txn_") else Q(sender_id=term) | Q(receiver_id=term)

    @admin.display
    def amount(self, row: TransactionRow) -> str:
        """What is moved."""
        return amount_text(row.amount_minor, row.currency)

    @admin.display(description="needs attention")
    def attention(self, row: TransactionRow) -> str:
        """Whether staff must look. Where they need not there is no mark: a cross would look like a fault."""
        return "yes" if row.needs_attention else "-"

    @admin.display
    def sender(self, row: TransactionRow) -> SafeString:
        """The user who pays."""
        return link("accounts_user", row.sender_id)

    @admin.display
    def receiver(self, row: TransactionRow) -> SafeString:
        """The user who is paid."""
        return link("accounts_user", row.receiver_id)

    @admin.display
    def sender_wallet(self, row: TransactionRow) -> SafeString:
        """The wallet that is debited."""
        return link("wallets_walletrow", row.sender_wallet_id)

    @admin.display
    def receiver_wallet(self, row: TransactionRow) -> SafeString:
        """The wallet that is credited."""
        return link("wallets_walletrow", row.receiver_wallet_id)

    @admin.display
    def timeline(self, row: Any) -> SafeString:
        """Every move with its time and reason."""
        moves = items_of(
            row.stored.get("history"), lambda m: (time_text(m["at"]), m["status"], m["reason"] or "")
        )
        return table(("Time", "Status", "Reason"), moves)

    @admin.display
    def operator_actions(self, row: Any) -> SafeString:
        """What operators did by `manage.py saga`."""
        acts = items_of(
            row.stored.get("operator_actions"),
            lambda act: (time_text(act["at"]), act["who"], act["action"], act["outcome"]),
        )
        return table(("Time", "Who", "Action", "Outcome"), acts)

    @admin.display
    def failure(self, row: Any) -> str:
        """Why it failed, and whether the money went back."""
        failure = row.stored.get("failure")
        if not failure:
            return "-"
        if not isinstance(failure, dict) or not failure.keys() >= {"code", "detail", "refunded"}:
            return odd(failure)
        return f"{failure['code']}: {failure['detail']}{' Refunded.' if failure['refunded'] else ''}"

    @admin.display(description="Ledger entries")
    def entries(self, row: TransactionRow) -> SafeString:
        """The entries of its operations, in the order in which they must come."""
        operations = [f"{row.id}:{operation}" for operation in ("debit", "credit", "refund")]
        found = ledger.read_entries(operations)
        sides = {row.sender_wallet_id: "sender's", row.receiver_wallet_id: "receiver's"}
        rows = [_entry_row(id_, found[id_], sides) for id_ in operations if id_ in found]
        return table(("Operation", "Kind", "Amount", "Balance after", "Time", "Wallet"), rows)


def _entry_row(id_: str, entry: Entry | ledger.BrokenEntry, sides: dict[str, str]) -> tuple[Any, ...]:
    operation = link("ledger_entryrow", id_, id_.rpartition(":")[2])
    if isinstance(entry, ledger.BrokenEntry):
        return operation, mark(entry.reason), "-", "-", "-", "-"
    return (
        operation,
        entry.kind.value,
        amount_text(entry.amount_minor, entry.currency),
        amount_text(entry.balance_minor, entry.currency),
        clock.rfc3339(entry.created_at),
        link("wallets_walletrow", entry.wallet_id, sides.get(entry.wallet_id)),
    )
