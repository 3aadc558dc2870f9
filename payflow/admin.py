"""The admin over stored documents: staff look, nobody changes anything here.

Invariants:
- A page costs what it shows, however large the collection is. Django's own list would sort and count the
  whole collection, for the ORM's order is not served by an index.
- Every page renders, whatever a document holds: staff look when something is wrong. An odd value is shown as
  it is stored, and marked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

import mongoengine
from bson import CodecOptions, ObjectId
from bson.codec_options import DatetimeConversion
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import display_for_field, label_for_field, quote, unquote
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied, SuspiciousOperation, ValidationError
from django.core.paginator import InvalidPage
from django.db import connection, models
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django_mongodb_backend.fields import ArrayField
from pymongo import DESCENDING
from pymongo.collection import Collection
from pymongo.errors import ExecutionTimeout, NetworkTimeout

from payflow import clock
from payflow.errors import Refused, Transient
from payflow.money import EXPONENTS, format_amount
from payflow.mongodb import UNAVAILABLE

logger = logging.getLogger(__name__)
LISTED_MAX = 10_000
ODD_TEXT_MAX = 500
LENIENT = CodecOptions[dict[str, Any]](
    tz_aware=True,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="replace",
)
TOO_MANY_ROWS = "This would read too many rows. Search for an exact id instead."

admin.site.site_header = admin.site.site_title = "PayFlow"
admin.site.index_title = "Staff"
admin.site.enable_nav_sidebar = False  # the lists need its room


class NewestFirst(ChangeList):
    """A list in the order of `StoredRowsAdmin.order_of`, of the first LISTED_MAX rows that match."""

    def get_results(self, request: HttpRequest) -> None:
        """Set what the list's template reads."""
        total, keys = self._find_page_or_say_why_not(request)
        self.result_list = self.model_admin.stored_rows(keys)
        self.result_count, self.full_result_count = total, None if self.query else total
        self.show_full_result_count = self.can_show_all = False
        self.show_admin_actions = bool(self.model_admin.actions)
        self.multi_page = total > self.list_per_page
        self.paginator = self.model_admin.get_paginator(request, range(total), self.list_per_page)
        try:
            self.paginator.validate_number(self.page_num)
        except InvalidPage as error:
            raise IncorrectLookupParameters from error

    def _find_page_or_say_why_not(self, request: HttpRequest) -> tuple[int, list[Any]]:
        """Return what `_find_page` does; nothing, with a message, where MongoDB takes too long."""
        try:
            return self._find_page()
        except (ExecutionTimeout, NetworkTimeout):
            # Which of the two comes first, MongoDB's own limit or the client's, must make no difference.
            messages.warning(request, TOO_MANY_ROWS)
        except UNAVAILABLE:
            messages.error(request, "The database is not answering. Try again shortly.")
        return 0, []

    def url_for_result(self, result: models.Model) -> str:
        """Return the address of a row's page; one whose key fits into no address has none."""
        try:
            return super().url_for_result(result)
        except NoReverseMatch:
            return "#"

    def _find_page(self) -> tuple[int, list[Any]]:
        """Return the number of rows, up to LISTED_MAX, and the keys of those on this page."""
        wanted = self._mongo_filter()
        collection = connection.get_collection(self.opts.db_table)
        if wanted:
            total = collection.count_documents(wanted, limit=LISTED_MAX, maxTimeMS=settings.QUERY_MS_MAX)
        else:
            total = min(collection.estimated_document_count(), LISTED_MAX)
        rows = collection.find(wanted, {"_id": 1}).sort(self.model_admin.order_of(wanted))
        page = rows.skip((self.page_num - 1) * self.list_per_page).limit(self.list_per_page)
        return total, [row["_id"] for row in page.max_time_ms(settings.QUERY_MS_MAX)]

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

    def stored_rows(self, keys: Sequence[Any]) -> list[Any]:
        """Return the rows with these keys, in this order, whatever their documents hold."""
        columns = {field.column: 1 for field in self.opts.concrete_fields}
        found = stored(self.opts.db_table).find({"_id": {"$in": keys}}, columns)
        documents = {freeze(document["_id"]): document for document in found}
        return [stored_row(self.model, documents[freeze(key)]) for key in keys if freeze(key) in documents]

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Return a row for its page, whatever its document holds."""
        try:
            key = self.opts.pk.to_python(object_id)
        except ValidationError:
            return None
        document = stored(self.opts.db_table).find_one({"_id": key})
        return None if document is None else stored_row(self.model, document)

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        """Return the columns; one that cannot be shown is marked, and the others are shown."""
        return [shown_field(self, name) for name in super().get_list_display(request)]

    def get_list_display_links(self, request: HttpRequest, list_display: Sequence[Any]) -> list[Any]:
        """Return the column that leads to a row's page."""
        return list(list_display[:1])

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the fields of a row's page, likewise."""
        found = super().get_fieldsets(request, obj)
        if obj is None:
            return found
        return [
            (title, {**options, "fields": [shown_field(self, name) for name in options["fields"]]})
            for title, options in found
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return all of a row's fields."""
        if obj is None:
            return super().get_readonly_fields(request, obj)
        return [name for _, options in self.get_fieldsets(request, obj) for name in options["fields"]]

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


class AsStoredFallback(admin.ModelAdmin):
    """An admin over the ORM, which fails at odd documents: they are then shown as they are stored."""

    hidden_columns = ("password",)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Return the list, or the newest documents as they are stored."""
        view = super().changelist_view
        return self._or_as_stored(request, lambda: view(request, extra_context), {})

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """Return a document's page, or the document as it is stored."""
        view, key = super().change_view, unquote(object_id)
        wanted = {"_id": ObjectId(key) if ObjectId.is_valid(key) else key}
        return self._or_as_stored(request, lambda: view(request, object_id, form_url, extra_context), wanted)

    def _or_as_stored(
        self, request: HttpRequest, view: Callable[[], HttpResponse], wanted: Mapping[str, Any]
    ) -> HttpResponse:
        try:
            response: Any = view()
            if hasattr(response, "render"):
                response.render()
        except (PermissionDenied, Http404, SuspiciousOperation, Refused, Transient, *UNAVAILABLE):
            raise
        except Exception:
            if request.method != "GET" or not self.has_view_permission(request):
                raise
            logger.exception("a page of the admin shows documents as they are stored")
            return self._as_stored(request, wanted)
        return response

    def _as_stored(self, request: HttpRequest, wanted: Mapping[str, Any]) -> HttpResponse:
        columns = [f.column for f in self.opts.concrete_fields if f.name not in self.hidden_columns]
        found = stored(self.opts.db_table).find(wanted, dict.fromkeys(columns, 1))
        documents = found.sort("_id", DESCENDING).limit(self.list_per_page).max_time_ms(settings.QUERY_MS_MAX)
        rows = [[repr(document.get(column, "-")) for column in columns] for document in documents]
        context = {**self.admin_site.each_context(request), "documents": table(columns, rows)}
        return TemplateResponse(request, "admin/as_stored.html", context)


def stored(table: str) -> Collection:
    """Return a collection that reads whatever is stored: dates beyond Python's, text that is not UTF-8."""
    return mongoengine.get_db().get_collection(table, codec_options=LENIENT)


def stored_row(model: type[models.Model], document: Mapping[str, Any]) -> Any:
    """Return a row with a document's values as they are stored; the ORM would fail at odd ones."""
    row: Any = model()
    for field in model._meta.concrete_fields:
        setattr(row, field.attname, document.get(field.column))
    takes = str if isinstance(model._meta.pk, models.CharField) else ObjectId
    if not isinstance(document["_id"], takes):
        setattr(row, model._meta.pk.attname, str(document["_id"]))
    row._state.adding, row._state.db = False, "default"
    row.stored = document
    return row


def freeze(key: object) -> object:
    """Return a key that a dictionary takes: an odd document's id may be a document."""
    return key if isinstance(key, str | ObjectId) else repr(key)


@cache  # Django compares what it shows by identity
def shown_field(model_admin: StoredRowsAdmin, name: Any) -> Any:
    """Return what shows a field of a row as the admin would, or marked as it is stored."""
    if callable(name):
        return name
    fields = {field.name: field for field in model_admin.opts.concrete_fields}
    method = getattr(model_admin, name, None)

    def show(row: Any) -> Any:
        try:
            if method is None:
                return _field_text(row, fields[name]) if name in fields else getattr(row, name)
            return method(row)
        except UNAVAILABLE:
            return "the database is not answering"
        except Exception as error:  # noqa: BLE001 - a document may hold anything, and its page must say so
            return odd(f"cannot be shown ({type(error).__name__})")

    show.__name__ = name
    show.short_description = label_for_field(name, model_admin.model, model_admin)  # type: ignore[attr-defined]
    return show


def _field_text(row: Any, field: Any) -> Any:
    value = getattr(row, field.attname)
    if value is None:
        return "-" if field.null or field.column in row.stored else odd("missing")
    expected = next((types for kind, types in _TYPES if isinstance(field, kind)), object)
    choices = [choice for choice, _ in field.flatchoices or ()]
    is_odd = not isinstance(value, expected) or (choices and value not in choices)
    if is_odd or (isinstance(value, bool) and expected is int):
        return odd(value)
    return display_for_field(value, field, "-")


# What a field of a kind holds, where its document is as PayFlow has written it.
_TYPES: list[tuple[Any, Any]] = [
    (models.BooleanField, bool),
    (models.IntegerField, int),
    (models.DateTimeField, datetime),
    (ArrayField, list),
    (models.CharField, str),
]


def odd(value: object) -> SafeString:
    """Return a value that PayFlow would not have written: as it is stored, and marked."""
    text = value if isinstance(value, str) else repr(value)
    if len(text) > ODD_TEXT_MAX:
        text = f"{text[:ODD_TEXT_MAX]}\N{HORIZONTAL ELLIPSIS}"
    return format_html('<strong class="errornote">odd: {}</strong>', text)


def amount_text(minor: Any, currency: Any) -> str:
    """Return an amount with its currency, kept on one line; marked where it is none."""
    is_amount = isinstance(minor, int) and not isinstance(minor, bool)
    if not is_amount or not isinstance(currency, str) or currency not in EXPONENTS:
        return odd(f"{minor!r} {currency if isinstance(currency, str) else repr(currency)}")
    return f"{format_amount(minor, currency)}\N{NO-BREAK SPACE}{currency}"


def time_text(moment: Any) -> str:
    """Return a time, marked where it is none."""
    return clock.rfc3339(moment) if isinstance(moment, datetime) else odd(moment)


def items_of(value: Any, cells: Callable[[Any], Sequence[Any]]) -> list[Sequence[Any]]:
    """Return the rows of a table from a stored list; what is not as it should be is one marked cell."""
    if value is None:
        return []
    found: list[Sequence[Any]] = []
    for item in value if isinstance(value, list) else [value]:
        try:
            found.append(cells(item))
        except (KeyError, TypeError, AttributeError, ValueError):
            found.append([odd(item)])
    return found


def mark(reason: str) -> SafeString:
    """Return what stands in place of a ledger entry that is not as PayFlow has written it."""
    return format_html('<strong class="errornote">broken: {}</strong>', reason)


def link(page: str, key: object, text: str | None = None) -> SafeString:
    """Return a link to the row `key`; `page` is such as `wallets_walletrow`. No key leads nowhere."""
    if not isinstance(key, str | ObjectId) or not key:
        return odd(key)
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
