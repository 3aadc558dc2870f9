"""The keys that sign tokens: one signs, the former ones (and the next one) only verify.

What must stay true: the header of a token chooses among our keys and nothing else; the algorithm is ours
(RFC 8725, 3.1). A token that names no key, or one that is not ours, is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import jwt
from django.conf import settings
from rest_framework_simplejwt.backends import TokenBackend
from rest_framework_simplejwt.exceptions import TokenBackendError, TokenBackendExpiredToken
from rest_framework_simplejwt.settings import api_settings

ALGORITHM = "HS256"
_REQUIRED_CLAIMS = ["exp", "iat", "iss", "aud"]


def key_id(key: str) -> str:
    """Return the name of a key: 16 hex digits of its SHA-256, from which a random key cannot be found."""
    return hashlib.sha256(f"payflow:jwt:{key}".encode()).hexdigest()[:16]


class Keyring(TokenBackend):
    """Signs with the first key; verifies with the one that the token's `kid` names (RFC 7515, 4.1.4)."""

    def __init__(self, keys: Sequence[str], *, leeway_seconds: int) -> None:
        issuer, audience = api_settings.ISSUER, api_settings.AUDIENCE
        super().__init__(ALGORITHM, keys[0], audience=audience, issuer=issuer, leeway=leeway_seconds)
        self.kid = key_id(keys[0])
        self._prepared = {key_id(key): self._prepare_key(key) for key in keys}

    def encode(self, payload: dict[str, Any]) -> str:
        """Return the signed token."""
        claims = {**payload, "aud": self.audience, "iss": self.issuer}
        return jwt.encode(claims, self._prepared[self.kid], ALGORITHM, headers={"kid": self.kid})

    def decode(self, token: Any, verify: bool = True) -> dict[str, Any]:
        """Return what a token says; it is always verified.

        Raises TokenBackendExpiredToken, and TokenBackendError for everything else.
        """
        try:
            key = self._prepared[_kid_of(token.partition(".")[0])]
            return jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=self.audience,
                issuer=self.issuer,
                leeway=self.get_leeway(),
                options={"require": _REQUIRED_CLAIMS},
            )
        except jwt.ExpiredSignatureError as error:
            raise TokenBackendExpiredToken("Token is expired") from error
        # The last three: what the library makes of times that are infinite, or no number at all.
        except (jwt.InvalidTokenError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise TokenBackendError("Token is invalid") from error


@lru_cache(maxsize=64)
def _kid_of(header: str) -> str:
    """Return the key that an encoded header names; all tokens of one key begin with the same header.

    Raises KeyError and jwt.InvalidTokenError.
    """
    return str(jwt.get_unverified_header(f"{header}..")["kid"])


@cache
def keyring() -> Keyring:
    """Return the keys of this process."""
    keys = (settings.JWT_SIGNING_KEY, *settings.JWT_SIGNING_KEY_FALLBACKS)
    return Keyring(keys, leeway_seconds=settings.JWT_LEEWAY_SECONDS)
