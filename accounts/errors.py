"""Why an account's request is refused."""

from __future__ import annotations

from payflow.errors import AlreadyExists, NotAuthenticated, Refused


class InvalidCredentials(Refused):
    """The email and the password do not belong together; which of them is wrong is not said."""

    code = "invalid_credentials"
    status = 401
    title = "Invalid credentials"


class TokenExpired(NotAuthenticated):
    """The token was good and its time is over."""

    code = "token_expired"
    title = "Token expired"


class EmailTaken(AlreadyExists):
    """Somebody has registered with this email."""
