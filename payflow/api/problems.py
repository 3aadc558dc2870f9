"""Errors as the API tells them: `application/problem+json` (RFC 9457), built in this one place."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.http import Http404, HttpResponse
from pymongo.errors import PyMongoError
from redis import RedisError
from rest_framework import exceptions
from rest_framework.response import Response

from payflow import correlation
from payflow.errors import FieldError, Refused, Transient
from payflow.mongodb import UNAVAILABLE

logger = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
TYPE = "urn:payflow:error"

_TITLES = {
    "validation_error": "Invalid request",
    "not_authenticated": "Not authenticated",
    "token_expired": "Token expired",
    "permission_denied": "Permission denied",
    "not_found": "Not found",
    "method_not_allowed": "Method not allowed",
    "unsupported_media_type": "Unsupported media type",
    "payload_too_large": "Payload too large",
    "service_unavailable": "Service unavailable",
    "internal_error": "Internal error",
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
        "title": title or _TITLES.get(code, code.replace("_", " ").capitalize()),
        "status": status,
        "detail": detail,
        "code": code,
        "errors": [asdict(e) for e in errors],
        "correlation_id": correlation.current(),
    }
    return HttpResponse(json.dumps(body), status=status, content_type=MEDIA_TYPE, headers=dict(headers or {}))


def from_exception(error: BaseException) -> HttpResponse | None:
    """Return the problem that `error` stands for, or None when nobody foresaw it."""
    if isinstance(error, Refused):
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
        return problem(
            status=error.status, code=error.code, detail=error.detail, title=error.title,
            errors=error.errors, headers=headers,
        )  # fmt: skip
    if isinstance(error, Transient):
        return unavailable(error)
    if isinstance(error, (*UNAVAILABLE, RedisError)) or isinstance(error.__cause__, UNAVAILABLE):
        logger.warning("a dependency did not answer", extra={"error": type(error).__name__})
        return unavailable(Transient())
    if isinstance(error, PyMongoError):
        return None
    return _from_framework(error)


def as_part(error: Refused | exceptions.ValidationError) -> dict[str, Any]:
    """Return a problem as a part of a larger answer: the correlation id is the whole answer's."""
    response = from_exception(error)
    if response is None:
        raise error
    body: dict[str, Any] = json.loads(response.content)
    del body["correlation_id"]
    return body


def unavailable(error: Transient) -> HttpResponse:
    """Return a 503 that says when to come back."""
    headers = {"Retry-After": str(error.retry_after_seconds)}
    return problem(status=503, code=error.code, detail=error.detail, title=error.title, headers=headers)


def _from_framework(error: BaseException) -> HttpResponse | None:
    if isinstance(error, Http404):
        return problem(status=404, code="not_found", detail="There is nothing here.")
    if isinstance(error, PermissionDenied):
        return problem(status=403, code="permission_denied", detail="You may not do this.")
    if isinstance(error, RequestDataTooBig):
        return problem(status=413, code="payload_too_large", detail="The body is too large.")
    if isinstance(error, exceptions.ValidationError):
        errors = list(flatten(error.get_full_details()))
        codes = {e.code for e in errors}
        code = "invalid_amount" if codes == {"invalid_amount"} else "validation_error"
        detail = errors[0].detail if len(errors) == 1 else f"{len(errors)} fields are not valid; see errors."
        return problem(status=400, code=code, detail=detail, errors=errors)
    if isinstance(error, exceptions.APIException):
        return _from_drf(error)
    return None


def _from_drf(error: exceptions.APIException) -> HttpResponse:
    code = {
        exceptions.NotAuthenticated: "not_authenticated",
        exceptions.AuthenticationFailed: "not_authenticated",
        exceptions.PermissionDenied: "permission_denied",
        exceptions.NotFound: "not_found",
        exceptions.MethodNotAllowed: "method_not_allowed",
        exceptions.UnsupportedMediaType: "unsupported_media_type",
    }.get(type(error), "validation_error" if error.status_code < 500 else "internal_error")
    headers = {"WWW-Authenticate": "Bearer"} if error.status_code == 401 else {}
    detail = str(error.detail)
    if code == "unsupported_media_type":
        detail = "Send the body as application/json."
    return problem(status=error.status_code, code=code, detail=detail, headers=headers)


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
    if response is not None and isinstance(error, exceptions.MethodNotAllowed):
        response["Allow"] = ", ".join(context["view"].allowed_methods)
    return response
