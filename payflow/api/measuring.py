"""Counts and times every request, by route and method, under django-prometheus's names.

Less than that package's own middleware, for two reasons. Of its dozen updates a request these two are the
ones that are looked at, and they cost less. And it fails at a Content-Length that is no number, and keeps
whatever a client calls its method as a label for ever.
"""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django_prometheus.middleware import Metrics
from django_prometheus.utils import Time, TimeSince

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class MeasuringMiddleware:
    """Stands first, so that it measures what the others take, too."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer, count the answer, and note how long it took."""
        began = Time()
        response = self._get_response(request)
        match = getattr(request, "resolver_match", None)
        view = (match.view_name if match else None) or "<unnamed view>"
        record(view, request.method, response.status_code, began)
        return response


def record(view: str, method: str | None, status: int, began: float) -> None:
    """Count one answer, and the time since `began` (django-prometheus's Time)."""
    count(view, method, status)
    times = Metrics.get_instance().requests_latency_by_view_method
    times.labels(view=view, method=_known(method)).observe(TimeSince(began))


def count(view: str, method: str | None, status: int, answers: int = 1) -> None:
    """Count answers."""
    counts = Metrics.get_instance().responses_by_status_view_method
    counts.labels(status=str(status), view=view, method=_known(method)).inc(answers)


def _known(method: str | None) -> str:
    return method if method in METHODS else "<invalid method>"
