"""The idempotency guard of the endpoints: one request with a key acts, whoever repeats it gets its answer.

What must stay true: credentials, permissions and rate limits come first; the guard asks Redis once before the
handler and once after it, and not at all without a key; what settles nothing (that the request is malformed,
that the caller may not do it now, that we could not do it now) is never stored, and leaves the key to others.
"""

from __future__ import annotations

from typing import Any, ClassVar

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from rest_framework import viewsets
from rest_framework.request import Request
from rest_framework.response import Response

from payflow import generation, idempotency, metrics
from payflow.api.queries import ReadsQuery
from payflow.crashpoints import crash_point
from payflow.errors import IdempotencyInProgress, IdempotencyKeyReused, Transient
from payflow.idempotency import Answer, Claim

METHODS = frozenset({"POST", "PUT", "PATCH"})
# What a replay says again. Everything else (limits, dates, ids of the request) belongs to one answer only.
HEADERS_KEPT = ("Cache-Control", "Content-Type", "Location", "Preference-Applied")
STATUSES_NOT_KEPT = frozenset({400, 401, 403, 429})


class _Replay(Exception):  # noqa: N818 - no error: it leaves DRF's dispatch before the handler
    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


class IdempotentViewSet(ReadsQuery, viewsets.ViewSet):
    """Guards every POST, PUT and PATCH of an authenticated caller who sends an idempotency key."""

    lasting_keys: ClassVar[frozenset[str]] = frozenset()
    """Actions whose service writes the key into MongoDB itself: they go on when Redis is away."""

    _claim: Claim | None = None
    _is_kept = True

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Answer; then store the answer, or free the key when there is none to store."""
        answer = None
        try:
            response = super().dispatch(request, *args, **kwargs)
            answer = _to_keep(response) if self._claim and self._is_kept else None
            return response
        finally:
            if self._claim:
                crash_point("idempotency.answered")
                self._claim.end(answer, is_kept_elsewhere=self.action in self.lasting_keys)
                crash_point("idempotency.stored")

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Let the guard speak after everything that may refuse the caller."""
        super().initial(request, *args, **kwargs)
        if request.method not in METHODS or self.action is None or request.user is None:
            return
        key = idempotency.key_of(request)
        if key is not None:
            self._take(request, key)

    def handle_exception(self, exc: Exception) -> HttpResponse | Response:
        """Answer as an earlier request was answered, or for an error."""
        if isinstance(exc, _Replay):
            return _replayed(exc.answer)
        response = super().handle_exception(exc)
        if isinstance(exc, IdempotencyInProgress):
            metrics.IDEMPOTENCY.labels(outcome="in_progress").inc()
        if isinstance(exc, IdempotencyKeyReused):
            metrics.IDEMPOTENCY.labels(outcome="reused").inc()
            # A service may know of an earlier request that Redis has forgotten: the key stays that one's.
            self._is_kept = False
        return response

    def is_known(self, request: Request, key: str) -> bool:
        """Say whether MongoDB holds what this key has done. For the actions in `lasting_keys`."""
        raise NotImplementedError

    def _holds(self, request: Request, key: str, answer: Answer) -> bool:
        """Say whether an answer from Redis is of this database, which may have been restored since."""
        if self.action in self.lasting_keys and answer.is_success:
            return self.is_known(request, key)
        return generation.look()

    def _take(self, request: Request, key: str) -> None:
        """Claim the key, or end the request here."""
        asked = idempotency.asked_by(request, key)
        try:
            found = idempotency.claim(asked, holds=lambda answer: self._holds(request, key, answer))
        except Transient:
            if self.action not in self.lasting_keys:
                raise
            metrics.IDEMPOTENCY.labels(outcome="unguarded").inc()
            return
        if isinstance(found, Answer):
            metrics.IDEMPOTENCY.labels(outcome="replayed").inc()
            raise _Replay(found)
        self._claim = found
        metrics.IDEMPOTENCY.labels(outcome="acted").inc()
        crash_point("idempotency.claimed")


def _to_keep(response: HttpResponseBase) -> Answer | None:
    """Return what is to be stored of an answer, or None."""
    if response.status_code >= 500 or response.status_code in STATUSES_NOT_KEPT:
        return None
    if not isinstance(response, HttpResponse):
        return None
    if isinstance(response, Response):
        response.render()
    if len(response.content) > settings.IDEMPOTENCY_ANSWER_BYTES_MAX:
        return None
    headers = {name: response[name] for name in HEADERS_KEPT if response.has_header(name)}
    return Answer(response.status_code, headers, response.content)


def _replayed(answer: Answer) -> HttpResponse:
    response = HttpResponse(answer.body, status=answer.status)
    del response["Content-Type"]
    for name, value in answer.headers.items():
        response[name] = value
    response[idempotency.REPLAYED_HEADER] = "true"
    return response
