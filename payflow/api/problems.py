"""Errors as the API tells them: `application/problem+json` (RFC 9457), built in this one place.

What must stay true: every answer of 400 and above is a `Refused` or a `Transient`, one of ours or what one of
the frameworks' stands for. So the classes are the registry of codes: `catalogue` reads it off them, and
docs/errors.md is written from that. A class with a code of its own says in its docstring what happened and
in `advice` what to do about it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.http import Http404, HttpResponse
from django.urls import get_resolver
from pymongo.errors import PyMongoError
from redis import RedisError
from rest_framework import exceptions
from rest_framework.request import Request
from rest_framework.response import Response

from payflow import correlation
from payflow.api.parsers import PayloadTooLarge
from payflow.circuits import ServerAway
from payflow.errors import FieldError, NotAuthenticated, NotFound, PermissionRefused, Refused, Transient
from payflow.money import InvalidAmount
from payflow.mongodb import UNAVAILABLE

logger = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
TYPE = "urn:payflow:error"
ERRORS_MAX = 50
"""Of the fields that are not valid so many are named."""
BEARER = "Bearer"
BEARER_REFUSED = 'Bearer error="invalid_token"'


class MethodNotAllowed(Refused):
    """This address does not take that method; `Allow` names those it takes."""

    code = "method_not_allowed"
    status = 405
    title = "Method not allowed"
    advice = "Use one of the methods in `Allow`."


class LengthRequired(Refused):
    """The body came in chunks, without its length."""

    code = "length_required"
    status = 411
    title = "Length required"
    advice = "Send `Content-Length` instead of `Transfer-Encoding: chunked`."
    detail = "Send the body with a Content-Length; chunks are not read here."


class UnsupportedMediaType(Refused):
    """The body is no JSON, does not say that it is, or is compressed."""

    code = "unsupported_media_type"
    status = 415
    title = "Unsupported media type"
    advice = "Send the body as `Content-Type: application/json`, without a `Content-Encoding`."
    detail = "Send the body as application/json."


class Overloaded(Transient):
    """More requests wait than can be answered in time, so this one was not begun."""

    code = "overloaded"
    title = "Overloaded"
    advice = (
        "Wait as many seconds as `Retry-After` says, then send it again, with the same `Idempotency-Key`."
        " Have fewer requests under way at once."
    )
    detail = "Too many requests wait already. This one was not begun. Try again shortly."

    def __init__(self) -> None:
        super().__init__(self.detail)


class BodyTooSlow(Refused):
    """The body did not arrive within the time limit, so the request was not begun."""

    code = "request_timeout"
    status = 408
    title = "Request timeout"
    advice = "Send the whole body at once, on a new connection."
    detail = "The body did not arrive in time."


class InternalError(Refused):
    """Something that nobody foresaw. It has been logged with the correlation id, for somebody to look at."""

    code = "internal_error"
    status = 500
    title = "Internal error"
    advice = (
        "Send it again with the same `Idempotency-Key`: money that was moved is not moved twice."
        " If that does not help, ask for help and name the `correlation_id`."
    )
    detail = "Something went wrong on our side. It has been logged."


_BY_STATUS: dict[int, tuple[type[Refused] | type[Transient], str]] = {
    400: (Refused, "The request is malformed."),
    403: (PermissionRefused, "You may not do this."),
    404: (NotFound, "There is nothing at this address."),
    405: (MethodNotAllowed, "This address does not take that method."),
    413: (PayloadTooLarge, "The body is too large."),
    500: (InternalError, InternalError.detail),
    503: (Transient, "This cannot be answered now. Try again shortly."),
}


def problem(
    *,
    status: int,
    code: str,
    detail: str,
    title: str | None = None,
    errors: Iterable[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> HttpResponse:
    """Return a finished problem document as a response."""
    body = {
        "type": f"{TYPE}:{code}",
        "title": title or code.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
        "code": code,
        "errors": [asdict(e) for e in errors],
        "correlation_id": correlation.current(),
    }
    return HttpResponse(json.dumps(body), status=status, content_type=MEDIA_TYPE, headers=dict(headers or {}))


def answer(error: Refused | Transient, headers: Mapping[str, str] | None = None) -> HttpResponse:
    """Return the problem that one of our errors is told as."""
    errors: Iterable[FieldError] = ()
    own: dict[str, str] = {}
    if isinstance(error, Transient):
        own["Retry-After"] = str(error.retry_after_seconds)
    else:
        errors = error.errors
        own = {"WWW-Authenticate": BEARER} if error.status == 401 else {}
        own.update(error.headers)
    response = problem(
        status=error.status, code=error.code, detail=error.detail, title=error.title,
        errors=errors, headers={**own, **(headers or {})},
    )  # fmt: skip
    if isinstance(error, Transient):
        # Django would log each as an error: hundreds a second while a server is away. Metrics count them, and
        # the circuit logs when it begins and ends (payflow/circuits.py).
        response._has_been_logged = True
    return response


def of_status(status: int, headers: Mapping[str, str]) -> HttpResponse:
    """Return the problem in place of an error page of Django's own, of which only the status is known."""
    kind, detail = _BY_STATUS.get(status) or _BY_STATUS[400 if status < 500 else 500]
    return problem(status=status, code=kind.code, detail=detail, title=kind.title, headers=headers)


def from_exception(error: BaseException) -> HttpResponse | None:
    """Return the problem that `error` stands for, or None when nobody foresaw it."""
    ours = error if isinstance(error, Refused | Transient) else _translate(error)
    return None if ours is None else answer(ours)


def as_part(error: Refused | Transient | exceptions.ValidationError) -> dict[str, Any]:
    """Return a problem as a part of a larger answer: the correlation id is the whole answer's."""
    response = from_exception(error)
    if response is None:
        raise error
    body: dict[str, Any] = json.loads(response.content)
    del body["correlation_id"]
    return body


def _translate(error: BaseException) -> Refused | Transient | None:
    """Return what another's error is in our words."""
    if isinstance(error, (*UNAVAILABLE, RedisError)) or isinstance(error.__cause__, UNAVAILABLE):
        if not isinstance(error, ServerAway):
            logger.warning("a dependency did not answer", extra={"error": type(error).__name__})
        return Transient()
    if isinstance(error, PyMongoError):
        return None
    if isinstance(error, Http404 | exceptions.NotFound):
        return NotFound("There is nothing here.")
    if isinstance(error, PermissionDenied | exceptions.PermissionDenied):
        return PermissionRefused("You may not do this.")
    if isinstance(error, RequestDataTooBig):
        return PayloadTooLarge("The body is too large.")
    return _translate_drf(error) if isinstance(error, exceptions.APIException) else None


def _translate_drf(error: exceptions.APIException) -> Refused:
    if isinstance(error, exceptions.ValidationError):
        return invalid(error)
    if isinstance(error, exceptions.NotAuthenticated | exceptions.AuthenticationFailed):
        return NotAuthenticated(str(error.detail))
    if isinstance(error, exceptions.MethodNotAllowed):
        return MethodNotAllowed(str(error.detail))
    if isinstance(error, exceptions.UnsupportedMediaType):
        return UnsupportedMediaType()
    return (Refused if error.status_code < 500 else InternalError)(str(error.detail))


def invalid(error: exceptions.ValidationError) -> Refused:
    """Return the refusal of a request whose fields are not valid."""
    errors = list(flatten(error.get_full_details()))
    kind = InvalidAmount if {e.code for e in errors} == {InvalidAmount.code} else Refused
    detail = errors[0].detail if len(errors) == 1 else f"{len(errors)} fields are not valid; see errors."
    refusal = kind(detail)
    refusal.errors = errors[:ERRORS_MAX]
    return refusal


def flatten(details: Any, path: str = "") -> Iterable[FieldError]:
    """Yield one FieldError per leaf of DRF's nested error details; nested names are joined by a dot."""
    # A leaf is a pair of words; fields that happen to be called so hold more than words.
    is_leaf = isinstance(details, dict) and set(details) == {"message", "code"}
    if is_leaf and all(isinstance(value, str) for value in details.values()):
        yield FieldError(field=path or "body", code=str(details["code"]), detail=str(details["message"]))
    elif isinstance(details, dict):
        for name, inner in details.items():
            own = "" if name == "non_field_errors" else str(name)
            yield from flatten(inner, ".".join(p for p in (path, own) if p))
    elif isinstance(details, list):
        for inner in details:
            yield from flatten(inner, path)


def handle_exception(error: Exception, context: dict[str, Any]) -> HttpResponse | Response | None:
    """DRF's exception hook. None lets the error through to Django, which logs it and answers 500."""
    response = from_exception(error)
    if response is None:
        return None
    view, request = context["view"], context["request"]
    if isinstance(error, exceptions.MethodNotAllowed):
        response["Allow"] = ", ".join(view.allowed_methods)
    if isinstance(error, NotAuthenticated) and view.authentication_classes and _has_bearer(request):
        response["WWW-Authenticate"] = BEARER_REFUSED
    return response


def _has_bearer(request: Request) -> bool:
    """Say whether a token came along: RFC 6750 (3.1) names an error only then."""
    return request.META.get("HTTP_AUTHORIZATION", "").strip().lower().startswith("bearer ")


# --- The registry -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """One code: what it is called, what it means, what to do about it."""

    code: str
    statuses: tuple[int, ...]
    title: str
    meaning: str
    advice: str


def catalogue() -> dict[str, Kind]:
    """Return every code that can be answered, in the order of its status."""
    # Loads all views, and with them whatever they may raise.
    _ = get_resolver().url_patterns
    by_code: dict[str, list[type[Refused] | type[Transient]]] = {}
    for kind in all_kinds():
        # A class without a code of its own that others build on is never raised.
        if ("code" in vars(kind) or not kind.__subclasses__()) and not getattr(kind, "is_of_commands", False):
            by_code.setdefault(kind.code, []).append(kind)
    found = [
        Kind(
            code=code,
            statuses=tuple(sorted({kind.status for kind in kinds})),
            title=kinds[0].title,
            meaning=" ".join((kinds[0].__doc__ or "").split()),
            advice=kinds[0].advice,
        )
        for code, kinds in by_code.items()
    ]
    return {kind.code: kind for kind in sorted(found, key=lambda kind: (kind.statuses, kind.code))}


def all_kinds() -> list[type[Refused] | type[Transient]]:
    """Return every class of errors that is loaded, parents before children."""
    kinds: list[Any] = [Refused, Transient]
    for kind in kinds:
        kinds.extend(child for child in kind.__subclasses__() if child not in kinds)
    return kinds
