"""Who is calling: the `Authorization: Bearer` header (RFC 6750).

What must stay true: whatever writes is asked for only by a user who exists and is active at this moment.
A safe method believes the token for its few minutes and costs no query. A session that was ended takes its
access tokens along (sessions.is_ended).
"""

from __future__ import annotations

from typing import Any

from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from accounts import api_keys, selectors, sessions, tokens
from payflow.api import limits
from payflow.errors import NotAuthenticated

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class BearerAuthentication(BaseAuthentication):
    """Accepts an access token or an API key; puts a `tokens.Caller` or `KeyCaller` on the request."""

    asks = True

    def authenticate(self, request: Request) -> tuple[tokens.Caller | api_keys.KeyCaller, Any] | None:
        """Return the caller, or None when nothing is sent as a bearer token.

        Raises TokenExpired, NotAuthenticated, RateLimited, or Transient when the user cannot be looked up.
        """
        scheme, _, encoded = request.META.get("HTTP_AUTHORIZATION", "").strip().partition(" ")
        if scheme.lower() != "bearer":
            return None
        encoded = encoded.strip()
        if encoded.startswith(api_keys.BEARER_PREFIX):
            # A good key is not to be shut out by what strangers send from its address.
            limits.refuse_spent(request, api_keys.find_known_owner(encoded))
            key = api_keys.read_key(encoded)
            return key, key.key_id
        caller = tokens.read_access(encoded)
        if sessions.is_ended(caller.family):
            raise NotAuthenticated("This session is over. Sign in again.")
        if self.asks and request.method not in SAFE_METHODS:
            limits.refuse_spent(request, caller.id)
            caller.record = selectors.require_active(user_id=caller.id)
        return caller, caller.token

    @staticmethod
    def find_known_user(authorization: str) -> str | None:
        """Return whose credentials these are, asking nobody; None where that takes a query.

        The web front shares out what may wait by it. It says nothing of what the user may do.
        """
        scheme, _, encoded = authorization.strip().partition(" ")
        if scheme.lower() != "bearer":
            return None
        encoded = encoded.strip()
        if encoded.startswith(api_keys.BEARER_PREFIX):
            return api_keys.find_known_owner(encoded)
        return tokens.find_known_user(encoded)

    def authenticate_header(self, request: Request) -> str:
        """Return the challenge that makes a missing token a 401."""
        return "Bearer"


class WalletGuardedAuthentication(BearerAuthentication):
    """For services that read the caller's wallet anyway and ask about the user when it takes no money.

    A user is deactivated only after their wallets are frozen, so an active wallet says as much as a query.
    """

    asks = False
