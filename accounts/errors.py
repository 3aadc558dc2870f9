"""Why an account's request is refused."""

from __future__ import annotations

from payflow.errors import AlreadyExists, NotAuthenticated, NotFound, PermissionRefused, Refused


class InvalidCredentials(Refused):
    """The email and the password do not belong together; which of them is wrong is not said."""

    code = "invalid_credentials"
    status = 401
    title = "Invalid credentials"
    advice = "Check the email and the password."


class TokenExpired(NotAuthenticated):
    """The token was good and its time is over."""

    code = "token_expired"
    title = "Token expired"
    advice = "Exchange the refresh token for a new pair, or sign in again."
    detail = "The token has expired."


class EmailTaken(AlreadyExists):
    """Somebody has registered with this email."""


class ApiKeyNotFound(NotFound):
    """There is no such API key, or it is somebody else's."""


class DepositsNotGranted(PermissionRefused):
    """The maker of the key may not grant deposits."""


class TooManyApiKeys(Refused):
    """The user has as many living API keys as one may have."""

    code = "too_many_api_keys"
    status = 409
    title = "Too many API keys"
    advice = "Revoke a key that is not needed any more."
