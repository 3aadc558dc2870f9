"""Which refusals an endpoint can answer, worked out from what it is: one rule here for all endpoints."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from payflow.api import problems
from payflow.api.describing import PART_PROBLEM, Operation, record, text
from payflow.errors import IdempotencyKeyReused, NotAuthenticated, PermissionRefused, Refused, Transient
from payflow.money import InvalidAmount

PROBLEM = "Problem"


@dataclass(frozen=True, order=True)
class Refusal:
    """One way to be refused."""

    status: int
    code: str
    title: str
    detail: str


def _of(refused: type[Refused] | type[Transient]) -> Refusal:
    detail = (refused.__doc__ or refused.title).splitlines()[0]
    return Refusal(refused.status, refused.code, refused.title, detail)


INVALID = Refusal(400, "validation_error", "Invalid request", "2 fields are not valid; see errors.")
TOKEN_EXPIRED = Refusal(401, "token_expired", "Token expired", "The token has expired.")
IN_PROGRESS = Refusal(
    409,
    "idempotency_in_progress",
    "Request in progress",
    "The first request with this idempotency key still runs.",
)
TOO_LARGE = Refusal(413, "payload_too_large", "Payload too large", "The body must be at most 65536 bytes.")
NOT_JSON = Refusal(
    415, "unsupported_media_type", "Unsupported media type", "Send the body as application/json."
)
RATE_LIMITED = Refusal(429, "rate_limited", "Too many requests", "Too many requests. Try again in 7 seconds.")


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What decides how an endpoint can refuse."""

    is_authenticated: bool
    is_guarded: bool
    """It takes idempotency keys."""
    is_limited: bool
    takes_body: bool
    takes_amount: bool


def refusals_of(operation: Operation, traits: Traits) -> list[Refusal]:
    """Return every refusal that the endpoint can answer, by status and code."""
    own = [_of(refused) for refused in operation.refusals]
    return sorted({*own, *_common(operation, traits)})


def _common(operation: Operation, traits: Traits) -> Iterator[Refusal]:
    if traits.takes_body or traits.is_guarded or operation.query:
        yield INVALID
    if traits.takes_amount:
        yield _of(InvalidAmount)
    if traits.is_authenticated:
        yield from (_of(NotAuthenticated), TOKEN_EXPIRED, _of(PermissionRefused))
    if traits.is_guarded:
        yield from (IN_PROGRESS, _of(IdempotencyKeyReused))
    if traits.takes_body:
        yield from (TOO_LARGE, NOT_JSON)
    if traits.is_limited:
        yield RATE_LIMITED
    if operation.needs_servers:
        yield _of(Transient)


def answer(status: int, refusals: Collection[Refusal]) -> dict[str, Any]:
    """Return the response object of one status."""
    codes = sorted({refusal.code for refusal in refusals})
    narrowed = {"properties": {"status": {"const": status}, "code": {"enum": codes}}}
    return {
        "description": ". ".join(dict.fromkeys(refusal.title for refusal in refusals)) + ".",
        "content": {
            problems.MEDIA_TYPE: {
                "schema": {"allOf": [{"$ref": f"#/components/schemas/{PROBLEM}"}, narrowed]},
                "examples": {r.code: {"$ref": f"#/components/examples/{_name(r)}"} for r in refusals},
            }
        },
    }


def examples(refusals: Iterable[Refusal]) -> dict[str, dict[str, Any]]:
    """Return the components that `answer` refers to, by name."""
    return {_name(refusal): {"value": _example(refusal)} for refusal in refusals}


def _name(refusal: Refusal) -> str:
    return f"{refusal.status}_{refusal.code}"


def _example(refusal: Refusal) -> dict[str, Any]:
    errors = []
    if refusal is INVALID:
        errors = [
            {"field": "amount", "code": "required", "detail": "This field is required."},
            {"field": "color", "code": "unknown_field", "detail": "There is no such field."},
        ]
    return {
        "type": f"{problems.TYPE}:{refusal.code}",
        "title": refusal.title,
        "status": refusal.status,
        "detail": refusal.detail,
        "code": refusal.code,
        "errors": errors,
        "correlation_id": "checkout-7f3a",
    }


def problem_schema(codes: Iterable[str]) -> dict[str, Any]:
    """Return the schema of every problem document (RFC 9457)."""
    properties = {
        **PART_PROBLEM.schema["properties"],
        "code": text("A stable word: decide by this.", enum=sorted(set(codes))),
        "correlation_id": text("Name it when you ask for help."),
    }
    return record("Why a request was refused (RFC 9457).", **properties)
