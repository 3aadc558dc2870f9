"""Which refusals an endpoint can answer, worked out from what it is: one rule here for all endpoints."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rest_framework.exceptions import ValidationError

from payflow.api import problems
from payflow.api.describing import PART_PROBLEM, Operation, Refusal, record, text
from payflow.api.fields import NoInput
from payflow.api.limits import RateLimited
from payflow.api.parsers import PayloadTooLarge
from payflow.errors import (
    IdempotencyInProgress,
    IdempotencyKeyReused,
    NotAuthenticated,
    PermissionRefused,
    Refused,
    StorageFull,
    Transient,
)
from payflow.money import InvalidAmount
from payflow.stored_data import StoredDataInvalid

PROBLEM = "Problem"
# Of a request without anything particular.
_CORRELATION_ID = "checkout-7f3a"


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What decides how an endpoint can refuse."""

    is_authenticated: bool
    is_guarded: bool
    """It takes idempotency keys."""
    is_limited: bool
    reads_query: bool
    """It refuses parameters that it does not know."""
    takes_body: bool
    takes_amount: bool
    body_bytes_max: int
    writes: bool
    """It is refused while the storage is nearly full."""


def refusals_of(operation: Operation, traits: Traits) -> list[Refusal]:
    """Return every refusal that the endpoint can answer, by status and code."""
    return sorted(
        [*operation.refusals, *_common(operation, traits)], key=lambda each: (each.status, each.code)
    )


def _common(operation: Operation, traits: Traits) -> Iterator[Refusal]:
    if traits.takes_body or traits.is_guarded or traits.reads_query:
        yield _invalid(operation)
    if traits.takes_amount:
        yield InvalidAmount("The amount must be greater than zero.", field="amount")
    if traits.is_authenticated:
        yield NotAuthenticated("Authentication credentials were not provided.")
        yield from (kind() for kind in NotAuthenticated.__subclasses__())
        yield PermissionRefused("You may not do this.")
    if traits.is_guarded:
        yield IdempotencyInProgress()
        yield IdempotencyKeyReused()
    # Refused before anybody asks whether a body is wanted.
    yield problems.LengthRequired()
    yield PayloadTooLarge(f"The body must be at most {traits.body_bytes_max} bytes.")
    if traits.takes_body:
        yield problems.BodyTooSlow()
        yield problems.UnsupportedMediaType()
    if traits.is_limited:
        yield RateLimited(
            "At most 20 such requests are allowed in 60 seconds. Wait 12 seconds, then try again."
        )
    yield problems.InternalError()
    if traits.is_authenticated and operation.needs_servers:
        yield StoredDataInvalid()
    if operation.needs_servers:
        yield Transient()
        yield problems.Overloaded()
    if traits.writes:
        yield StorageFull()


def _invalid(operation: Operation) -> Refused:
    """Return what the endpoint's own serializer says of a request that is not valid."""
    serializer = operation.takes or operation.query or NoInput
    fields = serializer().fields
    sent = {"limit": "0"} if "limit" in fields else {"color": "red"}
    if any(field.required for field in fields.values()):
        sent = {}
    try:
        serializer(data=sent).is_valid(raise_exception=True)
    except ValidationError as error:
        return problems.invalid(error)
    raise AssertionError(f"{serializer.__name__} takes {sent}")


def answer(status: int, refusals: Collection[Refusal], examples: Mapping[str, Any]) -> dict[str, Any]:
    """Return the response object of one status."""
    codes = sorted({refusal.code for refusal in refusals})
    narrowed = {"properties": {"status": {"const": status}, "code": {"enum": codes}}}
    return {
        "description": ". ".join(dict.fromkeys(refusal.title for refusal in refusals)) + ".",
        "content": {
            problems.MEDIA_TYPE: {
                "schema": {"allOf": [{"$ref": f"#/components/schemas/{PROBLEM}"}, narrowed]},
                "examples": examples,
            }
        },
    }


def example(refusal: Refusal) -> dict[str, Any]:
    """Return the problem document that this refusal is answered as."""
    return {**problems.as_part(refusal), "correlation_id": _CORRELATION_ID}


def problem_schema(codes: Iterable[str]) -> dict[str, Any]:
    """Return the schema of every problem document (RFC 9457)."""
    properties = {
        **PART_PROBLEM.schema["properties"],
        "code": text("A stable word: decide by this.", enum=sorted(set(codes))),
        "correlation_id": text("Name it when you ask for help."),
    }
    return record("Why a request was refused (RFC 9457).", **properties)
