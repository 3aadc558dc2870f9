"""Access and refresh tokens (JWT, RFC 7519) and the caller that an access token stands for.

What must stay true: a token is accepted only with our algorithm, key, issuer, audience and its own type, and
only within its time, give or take JWT_LEEWAY_SECONDS; nothing else about a caller is believed.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TypeVar

from django.conf import settings
from rest_framework_simplejwt.exceptions import ExpiredTokenError, TokenError
from rest_framework_simplejwt.models import TokenUser
from rest_framework_simplejwt.settings import api_settings
from rest_framework_simplejwt.tokens import Token

from accounts import selectors
from accounts.errors import TokenExpired
from accounts.models import MAY_DEPOSIT, User
from accounts.signing_keys import Keyring, keyring
from payflow.errors import NotAuthenticated

TOKEN_LENGTH_MAX = 2_048
_TEXT_CLAIMS = ("sub", "fam", "jti")
# Access tokens that were valid lately: the user, and until when that counts. Of one thread of a process.
KNOWN_SECONDS = 60.0
KNOWN_MAX = 5_000
_known: OrderedDict[str, tuple[str, float]] = OrderedDict()


class _SessionToken(Token):
    """A token of one user's session; `fam` is the session's family of refresh tokens."""

    def get_token_backend(self) -> Keyring:
        """Return what signs and verifies."""
        return keyring()

    def verify(self) -> None:
        """Check what the signature cannot vouch for. Raises TokenError."""
        self._check_times()
        super().verify()
        for claim in _TEXT_CLAIMS:
            if not isinstance(self.payload.get(claim), str) or not self.payload[claim]:
                raise TokenError(f"Token has no {claim}")

    def _check_times(self) -> None:
        """Refuse times that PayFlow does not issue, whoever signed them: fractions, or a longer life."""
        begins, ends = self.payload.get("iat"), self.payload.get("exp")
        # `type`, because a bool is an int and a float may be infinite.
        if type(begins) is not int or type(ends) is not int:
            raise TokenError("Token has times that are not whole seconds")
        if self.lifetime is None or ends - begins > self.lifetime.total_seconds():
            raise TokenError("Token lives longer than any that is issued")


class AccessToken(_SessionToken):
    """Proves who is calling, for minutes."""

    token_type = "access"  # noqa: S105 - a kind, not a secret
    lifetime = api_settings.ACCESS_TOKEN_LIFETIME


class RefreshToken(_SessionToken):
    """Buys the next pair of tokens, once."""

    token_type = "refresh"  # noqa: S105
    lifetime = api_settings.REFRESH_TOKEN_LIFETIME


@dataclass(frozen=True)
class RefreshClaims:
    """What a refresh token says."""

    user_id: str
    family: str
    jti: str
    expires_at: int
    """Seconds since 1970-01-01T00:00:00Z."""


class Caller(TokenUser):
    """Who is calling. `record` is the user as stored now; it is loaded for everything but safe methods."""

    record: User | None = None
    # Who has signed in is not held to scopes.
    scopes: frozenset[str] | None = None
    # Only an API key has a maker besides its owner.
    granter_id: str | None = None

    def __getattr__(self, attr: str) -> None:
        # The parent answers None to any misspelt name.
        raise AttributeError(attr)

    def __str__(self) -> str:
        return self.id

    @property
    def id(self) -> str:
        """Return the user's id."""
        return str(self.token["sub"])

    def may(self, permission: str) -> bool:
        """Return whether the caller is staff with this permission (`app.codename`), as stored now.

        A token that does not claim staff costs no query. Raises Transient.
        """
        if self.token.get("staff") is not True:
            return False
        record = self.record or selectors.find_user(user_id=self.id)
        return record is not None and record.is_staff and selectors.is_granted(record, permission)

    @property
    def may_deposit(self) -> bool:
        """Return whether the caller may let money in. Raises Transient."""
        return settings.DEPOSITS_OPEN or (
            self.record is not None and selectors.is_granted(self.record, MAY_DEPOSIT)
        )

    @property
    def family(self) -> str:
        """Return the session's family id."""
        return str(self.token["fam"])


def issue_access(*, user_id: str, is_staff: bool, family: str) -> str:
    """Return an encoded access token."""
    token = AccessToken()
    token["sub"], token["fam"], token["staff"] = user_id, family, is_staff
    return str(token)


def issue_refresh(*, user_id: str, family: str) -> tuple[str, RefreshClaims]:
    """Return an encoded refresh token and what it says."""
    token = RefreshToken()
    token["sub"], token["fam"] = user_id, family
    return str(token), _claims(token)


def read_access(encoded: str) -> Caller:
    """Return the caller. Raises TokenExpired or NotAuthenticated."""
    return Caller(_read(AccessToken, encoded))


def find_known_user(encoded: str) -> str | None:
    """Return the user id of a valid access token, else None. A token is verified once, then remembered."""
    user_id, expires_at = _known.get(encoded, ("", 0.0))
    if time.time() < expires_at:
        return user_id
    _known.pop(encoded, None)
    try:
        token = read_access(encoded).token
    except (NotAuthenticated, TokenExpired):
        return None
    _known[encoded] = token["sub"], min(int(token["exp"]), time.time() + KNOWN_SECONDS)
    while len(_known) > KNOWN_MAX:
        _known.popitem(last=False)
    return str(token["sub"])


def read_refresh(encoded: str) -> RefreshClaims:
    """Return what a refresh token says. Raises TokenExpired or NotAuthenticated."""
    return _claims(_read(RefreshToken, encoded))


def _claims(token: RefreshToken) -> RefreshClaims:
    return RefreshClaims(
        user_id=token["sub"], family=token["fam"], jti=token["jti"], expires_at=int(token["exp"])
    )


TokenType = TypeVar("TokenType", bound=_SessionToken)


def _read(kind: type[TokenType], encoded: str) -> TokenType:
    if len(encoded) > TOKEN_LENGTH_MAX or not encoded.isascii():
        raise NotAuthenticated("The token is not valid.")
    try:
        return kind(encoded)  # type: ignore[arg-type]  # the parent's annotation is wrong
    except ExpiredTokenError as error:
        raise TokenExpired from error
    except TokenError as error:
        raise NotAuthenticated("The token is not valid.") from error
