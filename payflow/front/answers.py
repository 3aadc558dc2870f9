"""Answers that the front makes by itself, with the headers that every answer has.

Each is made once, by the middlewares that stand outside of the rate limits, and then only gets the request's
correlation id: thousands of refusals a second must leave the processor to the requests that are begun.
"""

from __future__ import annotations

import contextvars
import io
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest
from django.http.response import HttpResponse
from django.urls import resolve
from django.utils.module_loading import import_string

from payflow import correlation
from payflow.api import problems
from payflow.errors import Refused, Transient
from payflow.front.lane import Answer

LIVE = "/health/live"
_OUTERMOST_LEFT_OUT = "payflow.api.measuring.MeasuringMiddleware"
_FIRST_INSIDE = "payflow.api.limits.LimitsMiddleware"
_HEADER = correlation.HEADER.lower().encode()
_ID = b"the-id-of-the-request-stands-here"


def refuse(error: Callable[[], Refused | Transient], environ: Mapping[str, Any]) -> Answer:
    """Return the problem document of an error, for this request."""
    return _for_request(_refusal(error, _is_secure(environ), _allowed_origin(environ)), environ)


def say_live(environ: Mapping[str, Any]) -> Answer:
    """Return what `GET /health/live` answers, for this request."""
    return _for_request(_live(_is_secure(environ), _allowed_origin(environ)), environ)


def _for_request(template: Answer, environ: Mapping[str, Any]) -> Answer:
    given = environ.get("HTTP_X_CORRELATION_ID") or environ.get("HTTP_X_REQUEST_ID")
    own = correlation.choose(given).encode()
    return Answer(template.status, [*template.headers, (_HEADER, own)], template.body.replace(_ID, own))


@lru_cache(maxsize=256)
def _refusal(error: Callable[[], Refused | Transient], is_secure: bool, origin: str) -> Answer:
    return _make(lambda request: problems.answer(error()), is_secure, origin)


@lru_cache(maxsize=256)
def _live(is_secure: bool, origin: str) -> Answer:
    return _make(lambda request: resolve(LIVE).func(request).render(), is_secure, origin)


def _make(answer: Callable[[HttpRequest], HttpResponse], is_secure: bool, origin: str) -> Answer:
    # No host is asked for at this path, and nobody is sent elsewhere.
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": LIVE,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "443" if is_secure else "80",
        "HTTP_X_CORRELATION_ID": _ID.decode(),
        "wsgi.url_scheme": "https" if is_secure else "http",
        "wsgi.input": io.BytesIO(),
        **({"HTTP_ORIGIN": origin} if origin else {}),
        **(
            dict([settings.SECURE_PROXY_SSL_HEADER]) if is_secure and settings.SECURE_PROXY_SSL_HEADER else {}
        ),
    }
    outside = [name for name in settings.MIDDLEWARE if name != _OUTERMOST_LEFT_OUT]
    for name in reversed(outside[: outside.index(_FIRST_INSIDE)]):
        answer = import_string(name)(answer)
    # The correlation id of the context is not this one.
    response = contextvars.copy_context().run(answer, WSGIRequest(environ))
    del response[correlation.HEADER]
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.items()]
    return Answer(response.status_code, headers, response.content)


def _allowed_origin(environ: Mapping[str, Any]) -> str:
    """Return the request's origin if web pages there may call the API. All others get one answer (CORS)."""
    origin: str = environ.get("HTTP_ORIGIN", "")
    if origin in settings.CORS_ALLOWED_ORIGINS:
        return origin
    return origin if any(re.match(form, origin) for form in settings.CORS_ALLOWED_ORIGIN_REGEXES) else ""


def _is_secure(environ: Mapping[str, Any]) -> bool:
    """Return what Django's `is_secure` says."""
    if settings.SECURE_PROXY_SSL_HEADER:
        name, secure = settings.SECURE_PROXY_SSL_HEADER
        said: str | None = environ.get(name)
        if said is not None:
            return said.partition(",")[0].strip() == secure
    return bool(environ["wsgi.url_scheme"] == "https")
