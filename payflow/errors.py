"""The two roots of every error PayFlow raises on purpose.

`Refused`: the caller's problem. Never retried; it has a stable `code` and an HTTP status.
`Transient`: the system's problem. Retried by tasks, answered 503 by the API.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class FieldError:
    """One field's reason, as it stands in `errors` of a problem document."""

    field: str
    code: str
    detail: str


class Refused(Exception):  # noqa: N818 - it reads as what happened
    """A request that cannot be carried out as it stands."""

    code = "validation_error"
    status = 400
    title = "Invalid request"
    advice = "Correct the request; sending it again as it is will not help."
    """What a client should do about it."""
    detail = ""
    """What is said where whoever raises it says nothing more particular."""
    headers: Mapping[str, str] = {}
    """Headers that the answer carries."""
    is_of_commands = False
    """Whether only commands raise it, and no request is ever answered with it."""

    def __init__(self, detail: str = "", *, field: str | None = None) -> None:
        self.detail = detail or self.detail
        super().__init__(self.detail)
        self.errors = [FieldError(field, self.code, self.detail)] if field else []


class Transient(Exception):  # noqa: N818
    """A dependency did not answer in time; the same call may succeed later."""

    code = "service_unavailable"
    status = 503
    title = "Service unavailable"
    advice = "Wait as many seconds as `Retry-After` says, then send it again with the same `Idempotency-Key`."
    retry_after_seconds = 2

    def __init__(
        self, detail: str = "A service PayFlow depends on is not answering. Try again shortly."
    ) -> None:
        super().__init__(detail)
        self.detail = detail


class StorageFull(Transient):
    """Too little is free where the data lie: nothing is written until there is room. Reading goes on."""

    code = "storage_full"
    title = "Storage full"
    advice = (
        "Wait as many seconds as `Retry-After` says, then send it again with the same `Idempotency-Key`."
        " Where it goes on, the operator has to make room."
    )
    retry_after_seconds = 10

    def __init__(self, detail: str = "There is too little room to store anything. Try again later.") -> None:
        super().__init__(detail)


class NotFound(Refused):
    """No such thing, or not one that the caller may know of."""

    code = "not_found"
    status = 404
    title = "Not found"
    advice = "Check the address and the ids in it."


class NotAuthenticated(Refused):
    """The request carries no valid credentials."""

    code = "not_authenticated"
    status = 401
    title = "Not authenticated"
    advice = "Send an access token as `Authorization: Bearer ...`; refresh it or sign in for a new one."


class PermissionRefused(Refused):
    """The caller is known and may not do this."""

    code = "permission_denied"
    status = 403
    title = "Permission denied"
    advice = "Have somebody do it who may."


class AlreadyExists(Refused):
    """What was to be created is there already."""

    code = "already_exists"
    status = 409
    title = "Already exists"
    advice = "Use what is there, or another name for what you create."


class IdempotencyInProgress(Refused):
    """The first request with this idempotency key has not been answered yet."""

    code = "idempotency_in_progress"
    status = 409
    title = "Idempotency key in progress"
    advice = "Send it again in a second, unchanged and with the same key."
    detail = "The first request with this idempotency key is still running; ask again in a moment."
    headers = {"Retry-After": "1"}


class IdempotencyKeyReused(Refused):
    """The idempotency key has been used for a different request."""

    code = "idempotency_key_reused"
    status = 422
    title = "Idempotency key reused"
    advice = "Use a new key for a new request; repeat a request unchanged."
    detail = "This idempotency key was used for another request; use a new one."
