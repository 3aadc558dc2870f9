"""The outermost net: whatever escapes a view becomes a problem document, never an HTML page.

The admin keeps Django's own pages, as its users are people, and so does a response that says `is_for_people`.
A body that is too long to read, and a path that a proxy may read otherwise, are refused there, too.
"""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from payflow.api import problems, raw_paths
from payflow.api.parsers import PayloadTooLarge, body_bytes_max
from payflow.errors import NotFound, Refused

HTML_PREFIX = "/admin/"
_KEPT_HEADERS = ("Allow", "Retry-After")


class ProblemMiddleware:
    """Turns exceptions and Django's own error pages into problems."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Refuse a path or a body that cannot be read; then answer."""
        if unreadable := _odd_path(request) or _unreadable(request):
            return problems.answer(unreadable)
        response = self.get_response(request)
        if _is_html(request) or getattr(response, "is_for_people", False):
            return response
        if response.status_code >= 400 and "json" not in response.get("Content-Type", ""):
            kept = {name: response[name] for name in _KEPT_HEADERS if response.has_header(name)}
            return problems.of_status(response.status_code, kept)
        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Answer for an exception that a plain Django view let through."""
        return None if _is_html(request) else problems.from_exception(error)


def _odd_path(request: HttpRequest) -> Refused | None:
    """Return why the path cannot be read: it has more than one reading."""
    path = raw_paths.raw_path_of(request.META)
    if path is None or raw_paths.has_one_reading(path):
        return None
    return NotFound("There is nothing at this address.")


def _unreadable(request: HttpRequest) -> Refused | None:
    """Return why the body cannot be read: it is announced as too long, or not announced at all."""
    announced = request.META.get("CONTENT_LENGTH")
    if announced is None and "HTTP_TRANSFER_ENCODING" in request.META:
        # Django would take it for empty (PEP 3333 knows no other length than this one).
        return problems.LengthRequired()
    is_number = announced and announced.isascii() and announced.isdigit() and len(announced) < 20
    bytes_max = body_bytes_max(request.path)
    if is_number and int(announced) > bytes_max:
        return PayloadTooLarge(f"The body must be at most {bytes_max} bytes.")
    return None


def _is_html(request: HttpRequest) -> bool:
    return request.path.startswith(HTML_PREFIX)
