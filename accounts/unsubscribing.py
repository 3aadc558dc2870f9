"""The way out of notifications: a signed link that needs no login (RFC 8058).

What must stay true: only the link's own account is changed, and only by POST: programs that open every link
in a mail change nothing. The token opens nothing else and does not run out, for mails are kept.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.core import signing
from django.http import HttpResponse
from django.shortcuts import render
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts import services
from payflow.api import queries
from payflow.api.headers import form_policy
from payflow.api.viewsets import METHODS
from payflow.errors import NotFound

_SIGNER = "payflow.unsubscribe"
TOKEN_LENGTH_MAX = 200
_KEPT_HEADERS = frozenset({"Allow", "Retry-After"})


def unsubscribe_url(*, user_id: str) -> str:
    """Return the link for one user's mails."""
    token = signing.Signer(salt=_SIGNER).sign(user_id)
    return f"{settings.PUBLIC_URL}/auth/unsubscribe?{urlencode({'token': token})}"


def read_token(token: str) -> str:
    """Return the id of the user whose link carries the token. Raises NotFound."""
    try:
        return signing.Signer(salt=_SIGNER).unsign(token[:TOKEN_LENGTH_MAX])
    except signing.BadSignature:
        raise NotFound("This link is not one of ours, or it is not complete.") from None


class UnsubscribeView(APIView):
    """Answers people and mail programs, not API clients, so the OpenAPI document leaves it out."""

    schema = None
    http_method_names = METHODS
    authentication_classes = ()
    permission_classes = (AllowAny,)
    # A mail program sends `List-Unsubscribe=One-Click` in a form; there is nothing in it to read.
    parser_classes = ()

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Refuse a query that could be read in two ways."""
        super().initial(request, *args, **kwargs)
        queries.refuse_repeated(request.query_params)
        queries.refuse_unknown(request.query_params, {"token"})

    def get(self, request: Request) -> HttpResponse:
        """GET /auth/unsubscribe?token=...: ask; nothing is changed."""
        read_token(request.query_params.get("token", ""))
        return _page(request)

    def post(self, request: Request) -> HttpResponse:
        """POST /auth/unsubscribe?token=...: send this user no more mails. Safe to repeat."""
        user_id = read_token(request.query_params.get("token", ""))
        services.change_profile(user_id=user_id, email_notifications=False)
        return _page(request, is_done=True)

    def handle_exception(self, exc: Exception) -> HttpResponse:
        """Tell people what went wrong; programs go by the status and `Retry-After`."""
        problem = super().handle_exception(exc)
        page = _page(self.request, trouble=json.loads(problem.content), status=problem.status_code)
        for name in _KEPT_HEADERS.intersection(problem.headers):
            page[name] = problem[name]
        return page


def _page(request: Request, *, status: int = 200, **shown: Any) -> HttpResponse:
    page = render(request._request, "accounts/unsubscribe.html", shown, status=status)
    page.is_for_people = True
    page["Cache-Control"] = "no-store"
    # The address holds the token.
    page["Referrer-Policy"] = "no-referrer"
    return page


unsubscribe = form_policy(UnsubscribeView.as_view())
