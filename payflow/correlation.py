"""The correlation id: one word that ties a request to every log line and task it causes.

Taken from `X-Correlation-Id` (or `X-Request-Id`) when it is 1 to 128 safe characters, else made.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextvars import ContextVar

from django.http import HttpRequest, HttpResponse

from payflow.ids import new_id

HEADER = "X-Correlation-Id"
_SAFE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}", re.ASCII)
_current: ContextVar[str] = ContextVar("correlation_id", default="")


def current() -> str:
    """Return the correlation id of the running request or task, or an empty string."""
    return _current.get()


def choose(value: str | None) -> str:
    """Return `value` if it is safe, else a new id."""
    return value if value and _SAFE.fullmatch(value) else new_id("cor")


def enter(value: str | None) -> str:
    """Make `value` the current correlation id if it is safe, else a new one; return what was chosen."""
    chosen = choose(value)
    _current.set(chosen)
    return chosen


class CorrelationMiddleware:
    """Reads or makes the id before anything else runs, and puts it on the answer."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Carry the id through one request."""
        chosen = enter(request.headers.get(HEADER) or request.headers.get("X-Request-Id"))
        response = self.get_response(request)
        response[HEADER] = chosen
        return response
