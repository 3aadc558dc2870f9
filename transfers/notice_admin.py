"""Notices for staff: who was told what, what went wrong; those that failed can be tried anew."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from payflow.admin import StoredRowsAdmin, items_of, link, table, time_text
from payflow.errors import Transient
from transfers import postman
from transfers.documents import NoticeStatus
from transfers.models import NoticeRow

# Those for which there is an index: what has ended well is found by its user.
_LISTED = (NoticeStatus.FAILED, NoticeStatus.UNKNOWN)
RETRIES_MAX = 500


class OutcomeFilter(admin.SimpleListFilter):
    """Those that went wrong, and those whose outcome nobody knows."""

    title = parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the choices."""
        return [(status.value, status.value) for status in _LISTED]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        """Return the rows of the chosen kind."""
        return queryset.filter(status=self.value()) if self.value() in _LISTED else queryset


@admin.register(NoticeRow)
class NoticeAdmin(StoredRowsAdmin):
    """Newest first; searched by its id or by its recipient's."""

    list_display = ("id", "status", "kind", "recipient", "created_at", "finished_at", "attempt_count")
    list_filter = (OutcomeFilter,)
    search_help_text = "A notice's id or a user's id, exactly."
    search_fields = ("id",)
    actions = ("retry",)
    fields = (
        "id", "status", "kind", "recipient", "event_id", "about", "created_at", "finished_at",
        "next_attempt_at", "attempts",
    )  # fmt: skip
    readonly_fields = fields

    def search(self, term: str) -> Q:
        """Return what an exact search term selects."""
        return Q(pk=term) if term.startswith("ntf_") else Q(user_id=term)

    def has_retry_permission(self, request: HttpRequest) -> bool:
        """Who may change notices, if anything could be changed in them, may have them sent."""
        return request.user.has_perm("transfers.change_noticerow")

    @admin.action(description="Try those that failed anew", permissions=["retry"])
    def retry(self, request: HttpRequest, queryset: QuerySet) -> None:
        """Send again what certainly was not accepted."""
        ids = list(queryset.values_list("pk", flat=True)[:RETRIES_MAX])
        try:
            count = postman.retry(ids)
        except Transient as error:
            self.message_user(request, error.detail, messages.ERROR)
            return
        level = messages.SUCCESS if count else messages.WARNING
        self.message_user(request, f"{count} of {len(ids)} notices will be tried anew.", level)

    @admin.display
    def recipient(self, row: NoticeRow) -> SafeString:
        """Who is told."""
        return link("accounts_user", row.user_id)

    @admin.display
    def about(self, row: NoticeRow) -> SafeString | str:
        """The transaction it tells of."""
        return link("transfers_transactionrow", row.transaction_id) if row.transaction_id else row.event_id

    @admin.display
    def attempts(self, row: Any) -> SafeString:
        """Every try and what became of it."""
        tries = items_of(
            row.stored.get("attempts"), lambda each: (time_text(each["at"]), each["result"], each["reason"])
        )
        return table(("Time", "Result", "Reason"), tries)
