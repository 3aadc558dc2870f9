"""Webhooks for staff: who hears of what, how it goes, and what was never delivered. No secret is shown.

Staff change two things, by actions: whether an endpoint is active, and that a delivery is sent again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from pymongo import DESCENDING

from payflow.admin import StoredRowsAdmin, items_of, link, odd, search_link, table, time_text
from payflow.errors import Refused, Transient
from webhooks import replay, selectors, services
from webhooks.documents import DeliveryStatus, DisabledBecause
from webhooks.errors import WebhookDisabled
from webhooks.fanout import event_type_of, transaction_of
from webhooks.models import DeliveryRow, SubscriptionRow

STATUSES = [status.value for status in DeliveryStatus]


class OperatedRowsAdmin(StoredRowsAdmin):
    """Rows that nobody edits, but that actions change one by one."""

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Say whether somebody may use the actions: who may change such rows, though no form does."""
        return request.user.has_perm(f"{self.opts.app_label}.change_{self.opts.model_name}")

    def for_each(self, request: HttpRequest, change: Callable[[Any], bool], done: str) -> None:
        """Change the rows that are marked on this page; stop where a service does not answer."""
        keys = request.POST.getlist(ACTION_CHECKBOX_NAME)[: self.list_per_page]
        rows = {row.pk: row for row in self.stored_rows(keys)}
        changed = 0
        for key in keys:
            try:
                if key not in rows or not change(rows[key]):
                    continue
            except Refused as error:
                self.message_user(request, f"{error.detail} ({key})", messages.ERROR)
                continue
            except Transient as error:
                self.message_user(request, error.detail, messages.ERROR)
                break
            self.log_change(request, rows[key], done.capitalize() + ".")
            changed += 1
        level = messages.SUCCESS if changed else messages.WARNING
        self.message_user(request, f"{changed} of {len(keys)} {done}.", level)


class StateFilter(admin.SimpleListFilter):
    """By how an endpoint is."""

    title, parameter_name = "state", "state"
    states = {
        "active": Q(is_active=True),
        "failing": Q(is_active=True, consecutive_failures__gt=0),
        "disabled": Q(is_active=False),
        "disabled for failing": Q(is_active=False, disabled_because=DisabledBecause.FAILING.value),
        "disabled as gone": Q(is_active=False, disabled_because=DisabledBecause.GONE.value),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the choices."""
        return [(state, state.capitalize()) for state in self.states]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        """Return the rows that match the choice."""
        chosen = self.states.get(self.value() or "")
        return queryset if chosen is None else queryset.filter(chosen)


@admin.register(SubscriptionRow)
class SubscriptionAdmin(OperatedRowsAdmin):
    """Newest first; searched by webhook id or user id."""

    list_display = (
        "id",
        "user",
        "url",
        "is_active",
        "disabled_because",
        "consecutive_failures",
        "created_at",
    )
    list_filter = (StateFilter,)
    search_help_text = "A webhook's id or a user's id, exactly."
    search_fields = ("id",)
    actions = ("enable", "disable")
    fieldsets = (
        (None, {"fields": ("id", "user", "url", "hears_of", "deliveries")}),
        (
            "State",
            {
                "fields": (
                    "is_active", "disabled_because", "consecutive_failures", "failing_since", "paused_until",
                    "held_since",
                )
            },
        ),
        ("Secrets and times", {"fields": ("secret_times", "created_at", "updated_at")}),
    )  # fmt: skip

    def search(self, term: str) -> Q:
        """Return what an exact search term selects."""
        return Q(pk=term) if term.startswith("wh_") else Q(user_id=term)

    @admin.display
    def user(self, row: SubscriptionRow) -> SafeString:
        """The owner."""
        return link("accounts_user", row.user_id)

    @admin.display
    def hears_of(self, row: SubscriptionRow) -> str:
        """The events."""
        events = row.events or []
        is_odd = not isinstance(events, list) or not all(isinstance(event, str) for event in events)
        return odd(events) if is_odd else ", ".join(events)

    @admin.display
    def deliveries(self, row: SubscriptionRow) -> SafeString:
        """The log."""
        return search_link("webhooks_deliveryrow", row.id, "Show")

    @admin.display(description="Secrets")
    def secret_times(self, row: SubscriptionRow) -> SafeString:
        """When each secret was made, and until when it signs."""
        found = selectors.list_secret_times(subscription_id=row.id)
        rows = items_of(
            found,
            lambda each: (
                time_text(each["created_at"]),
                time_text(each["expires_at"]) if "expires_at" in each else "-",
            ),
        )
        return table(("Made", "Signs until"), rows)

    @admin.action(description="Enable: forget the failures", permissions=["operate"])
    def enable(self, request: HttpRequest, queryset: QuerySet) -> None:
        """Enable the marked endpoints."""
        self.for_each(request, lambda row: self._set_active(row, is_active=True), "enabled")

    @admin.action(description="Disable", permissions=["operate"])
    def disable(self, request: HttpRequest, queryset: QuerySet) -> None:
        """Disable the marked endpoints."""
        self.for_each(request, lambda row: self._set_active(row, is_active=False), "disabled")

    def _set_active(self, row: SubscriptionRow, *, is_active: bool) -> bool:
        return services.set_active(subscription_id=row.id, is_active=is_active).is_active == is_active


@admin.register(DeliveryRow)
class DeliveryAdmin(OperatedRowsAdmin):
    """Newest first, dead letters by when they died; searched by delivery id or webhook id."""

    list_display = (
        "id", "status", "event_type", "attempt_count", "finished_at", "next_attempt_at", "created_at",
        "webhook",
    )  # fmt: skip
    list_filter = ("status",)
    search_help_text = "A delivery's id or a webhook's id, exactly."
    search_fields = ("id",)
    actions = ("replay",)
    fieldsets = (
        (None, {"fields": ("id", "event_type", "event_id", "transaction", "webhook")}),
        ("Delivery", {"fields": ("status", "sequence", "attempt_count", "attempt_log", "body")}),
        ("Times", {"fields": ("created_at", "next_attempt_at", "finished_at")}),
    )

    def search(self, term: str) -> Q:
        """Return what an exact search term selects."""
        # All statuses by name: the index then yields each in order.
        return Q(subscription_id=term, status__in=STATUSES) if term.startswith("wh_") else Q(pk=term)

    def order_of(self, wanted: dict[str, Any]) -> list[tuple[str, int]]:
        """Return dead letters as their index holds them, the others newest first."""
        if wanted == {"status": DeliveryStatus.DEAD.value}:
            return [("finished_at", DESCENDING)]
        return super().order_of(wanted)

    @admin.display
    def webhook(self, row: DeliveryRow) -> SafeString:
        """The endpoint; it may have been deleted."""
        return link("webhooks_subscriptionrow", row.subscription_id)

    @admin.display
    def event_type(self, row: DeliveryRow) -> str:
        """What it tells of."""
        return event_type_of(row.event_id) if isinstance(row.event_id, str) else odd(row.event_id)

    @admin.display
    def transaction(self, row: DeliveryRow) -> str:
        """The transaction that it tells of."""
        transaction_id = transaction_of(row.event_id) if isinstance(row.event_id, str) else None
        return link("transfers_transactionrow", transaction_id) if transaction_id else "-"

    @admin.display(description="Log of attempts")
    def attempt_log(self, row: Any) -> SafeString:
        """Every attempt that is kept."""
        rows = items_of(
            row.stored.get("attempts"),
            lambda each: (
                time_text(each["at"]),
                _shown(each.get("status_code")),
                _shown(each.get("latency_ms")),
                _shown(each.get("error")),
                format_html("<code>{}</code>", _shown(each.get("answer"))),
            ),
        )
        return table(("Time", "Status", "Latency (ms)", "Error", "Answer"), rows)

    @admin.display(description="Body")
    def body(self, row: DeliveryRow) -> SafeString:
        """What every attempt sends."""
        event_id = row.event_id if isinstance(row.event_id, str) else ""
        payload: Any = None
        try:
            payload = selectors.find_payloads([event_id]).get(event_id)
            return format_html("<pre>{}</pre>", json.dumps(json.loads(payload or "null"), indent=2))
        except (TypeError, ValueError):
            return odd(payload)

    @admin.action(description="Replay: send again what has ended", permissions=["operate"])
    def replay(self, request: HttpRequest, queryset: QuerySet) -> None:
        """Send the marked deliveries again; those under way are left alone."""
        self.for_each(request, self._redeliver, "sent on their way again")

    def _redeliver(self, row: DeliveryRow) -> bool:
        if not selectors.is_active(subscription_id=row.subscription_id):
            raise WebhookDisabled("Its webhook is disabled, or no more.")
        return replay.redeliver(delivery_id=row.id, subscription_id=row.subscription_id)


def _shown(value: object) -> str:
    return "-" if value is None or value == "" else str(value)
