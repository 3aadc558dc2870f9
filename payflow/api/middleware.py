"""The outermost net: whatever escapes a view becomes a problem document, never an HTML page.

The admin keeps Django's own pages: its users are people.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.core.exceptions import SuspiciousOperation
from django.http import HttpRequest, HttpResponse

from payflow.api import problems
from payflow.api.parsers import PayloadTooLarge, body_bytes_max

logger = logging.getLogger(__name__)
HTML_PREFIX = "/admin/"


class ProblemMiddleware:
    """Turns exceptions and Django's own error pages into problems."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Refuse a body that is announced as too long before reading it; then answer."""
        bytes_max = body_bytes_max(request.path)
        if self._announced_bytes(request) > bytes_max and not _is_html(request):
            error = PayloadTooLarge(f"The body must be at most {bytes_max} bytes.")
            return problems.from_exception(error) or HttpResponse(status=413)
        response = self.get_response(request)
        if response.status_code >= 400 and not _is_html(request):
            return _as_problem(response)
        return response

    @staticmethod
    def _announced_bytes(request: HttpRequest) -> int:
        announced = request.META.get("CONTENT_LENGTH") or "0"
        return int(announced) if announced.isascii() and announced.isdigit() and len(announced) < 20 else 0

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Answer for an exception that a plain Django view let through."""
        if _is_html(request) or isinstance(error, SuspiciousOperation):
            return None
        return problems.from_exception(error)


def _is_html(request: HttpRequest) -> bool:
    return request.path.startswith(HTML_PREFIX)


def _as_problem(response: HttpResponse) -> HttpResponse:
    """Replace an error page that is no problem document yet; keep the headers that carry meaning."""
    if "json" in response.get("Content-Type", ""):
        return response
    code, detail = {
        400: ("validation_error", "The request is malformed."),
        403: ("permission_denied", "You may not do this."),
        404: ("not_found", "There is nothing at this address."),
        405: ("method_not_allowed", "This address does not take that method."),
        413: ("payload_too_large", "The body is too large."),
    }.get(response.status_code, ("internal_error", "Something went wrong on our side. It has been logged."))
    kept = {name: response[name] for name in ("Allow", "Retry-After") if response.has_header(name)}
    return problems.problem(status=response.status_code, code=code, detail=detail, headers=kept)
