"""The admin over stored documents: staff look, nobody changes anything here.

What must stay true: a page costs what it shows, however large the collection is. Django's own list would
sort and count the whole collection, for the ORM's order is not served by an index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import quote
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import InvalidPage
from django.db import connection, models
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from pymongo import DESCENDING
from pymongo.errors import ExecutionTimeout

from payflow.money import format_amount

LISTED_MAX = 10_000
QUERY_MS_MAX = 2_000

admin.site.site_header = admin.site.site_title = "PayFlow"
admin.site.index_title = "Staff"
admin.site.enable_nav_sidebar = False  # the lists need its room


class NewestFirst(ChangeList):
    """A list in the order of `StoredRowsAdmin.order_of`, of the first LISTED_MAX rows that match."""

    def get_results(self, request: HttpRequest) -> None:
        """Set what the list's template reads."""
        try:
            total, keys = self._find_page()
        except ExecutionTimeout:
            total, keys = 0, []
            messages.warning(request, "This would read too many rows. Search for an exact id instead.")
        found = self.model._default_manager.in_bulk(keys)
        self.result_list = [found[key] for key in keys if key in found]
        self.result_count, self.full_result_count = total, None if self.query else total
        self.show_full_result_count = self.can_show_all = False
        self.show_admin_actions = bool(self.model_admin.actions)
        self.multi_page = total > self.list_per_page
        self.paginator = self.model_admin.get_paginator(request, range(total), self.list_per_page)
        try:
            self.paginator.validate_number(self.page_num)
        except InvalidPage as error:
            raise IncorrectLookupParameters from error

    def _find_page(self) -> tuple[int, list[str]]:
        """Return the number of rows, up to LISTED_MAX, and the keys of those on this page."""
        wanted = self._mongo_filter()
        collection = connection.get_collection(self.opts.db_table)
        if wanted:
            total = collection.count_documents(wanted, limit=LISTED_MAX, maxTimeMS=QUERY_MS_MAX)
        else:
            total = min(collection.estimated_document_count(), LISTED_MAX)
        rows = collection.find(wanted, {"_id": 1}).sort(self.model_admin.order_of(wanted))
        page = rows.skip((self.page_num - 1) * self.list_per_page).limit(self.list_per_page)
        return total, [row["_id"] for row in page.max_time_ms(QUERY_MS_MAX)]

    def _mongo_filter(self) -> dict[str, Any]:
        """Return the list's filters and search as MongoDB takes them, compiled by the backend."""
        compiler = self.queryset.order_by().query.get_compiler(connection=connection)
        compiler.pre_sql_setup()
        return compiler.build_query().match_mql


class StoredRowsAdmin(admin.ModelAdmin):
    """Shows documents and changes none. Subclasses search by exact, indexed values only."""

    list_per_page = 50
    list_max_show_all = 0
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # they would count the collection once for each choice
    sortable_by = ()
    actions: Any = None

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Return the bounded list."""
        return NewestFirst

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet, search_term: str
    ) -> tuple[models.QuerySet, bool]:
        """Search by equality: a pattern would read the whole collection."""
        term = search_term.strip()
        return (queryset.filter(self.search(term)) if term else queryset), False

    def order_of(self, wanted: dict[str, Any]) -> list[tuple[str, int]]:
        """Return the order in which an index serves the rows that match `wanted`."""
        return [("_id", DESCENDING)]

    def search(self, term: str) -> models.Q:
        """Return what an exact search term selects."""
        return models.Q(pk=term)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody adds rows here."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody changes rows here."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes rows here."""
        return False


def amount_text(minor: int, currency: str) -> str:
    """Return an amount with its currency, kept on one line."""
    return f"{format_amount(minor, currency)}\N{NO-BREAK SPACE}{currency}"


def mark(reason: str) -> SafeString:
    """Return what stands in place of a ledger entry that is not as PayFlow has written it."""
    return format_html('<strong class="errornote">broken: {}</strong>', reason)


def link(page: str, key: object, text: str | None = None) -> SafeString:
    """Return a link to the row `key`; `page` is such as `wallets_walletrow`."""
    return format_html('<a href="{}">{}</a>', reverse(f"admin:{page}_change", args=[quote(key)]), text or key)


def search_link(page: str, term: object, text: str) -> SafeString:
    """Return a link to the list `page`, searched for `term`."""
    return format_html('<a href="{}?q={}">{}</a>', reverse(f"admin:{page}_changelist"), term, text)


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> SafeString:
    """Return a table, or a dash when it has no rows."""
    if not rows:
        return format_html("{}", "-")
    head = format_html_join("", "<th>{}</th>", ((name,) for name in heads))
    body = format_html_join(
        "", "<tr>{}</tr>", ((format_html_join("", "<td>{}</td>", ((cell,) for cell in row)),) for row in rows)
    )
    return format_html("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>", head, body)
