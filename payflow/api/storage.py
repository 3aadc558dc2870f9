"""Refuses what writes while the storage is nearly full, before anything is done for it."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from payflow import metrics, storage
from payflow.api import problems
from payflow.api.middleware import HTML_PREFIX
from payflow.errors import StorageFull

READING = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
# Signing in and out: sessions are in Redis, and reading needs one. The admin also stores when someone did.
SESSIONS = frozenset({"/auth/login", "/auth/refresh", "/auth/logout", "/admin/login/", "/admin/logout/"})


def may_write(method: str | None, path: str) -> bool:
    """Say whether such a request may store something in MongoDB."""
    return method not in READING and path not in SESSIONS


class StorageMiddleware:
    """Answers 503 `storage_full` to every request that may write."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer, or refuse where there is no room."""
        if not may_write(request.method, request.path) or not storage.is_full():
            return self.get_response(request)
        metrics.STORAGE_REFUSED.inc()
        is_html = request.path.startswith(HTML_PREFIX)
        response = _page(request) if is_html else problems.answer(StorageFull())
        # Django would log each of them as an error, and fill the disk further.
        response._has_been_logged = True
        return response


def _page(request: HttpRequest) -> HttpResponse:
    """Return the same for people, in the admin."""
    response = render(request, "admin/storage_full.html", status=StorageFull.status)
    response["Retry-After"] = str(StorageFull.retry_after_seconds)
    return response
