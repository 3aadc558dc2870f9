"""Which refusals an endpoint can answer, worked out from what it is: one rule here for all endpoints."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from payflow.api import problems
from payflow.api.describing import PART_PROBLEM, Operation, record, text
from payflow.api.limits import RateLimited
from payflow.api.parsers import PayloadTooLarge
from payflow.errors import (
    IdempotencyInProgress,
    IdempotencyKeyReused,
    NotAuthenticated,
    PermissionRefused,
    Refused,
    Transient,
)
from payflow.money import InvalidAmount

PROBLEM = "Problem"
Kind = type[Refused] | type[Transient]


@dataclass(frozen=True, order=True)
class Refusal:
    """One way to be refused."""

    status: int
    code: str
    title: str
    detail: str


def _of(kind: Kind) -> Refusal:
    return Refusal(kind.status, kind.code, kind.title, " ".join((kind.__doc__ or "").split()))


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
    """Return every refusal that the endpoint can answer, by status and code; one of each."""
    kinds = [*_common(operation, traits), *operation.refusals]
    found = {(kind.status, kind.code): _of(kind) for kind in kinds}
    return [found[key] for key in sorted(found)]


def _common(operation: Operation, traits: Traits) -> Iterator[Kind]:
    if traits.takes_body or traits.is_guarded or operation.query:
        yield Refused
    if traits.takes_amount:
        yield InvalidAmount
    if traits.is_authenticated:
        yield from (kind for kind in problems.all_kinds() if issubclass(kind, NotAuthenticated))
        yield PermissionRefused
    if traits.is_guarded:
        yield from (IdempotencyInProgress, IdempotencyKeyReused)
    if traits.takes_body:
        yield from (problems.LengthRequired, PayloadTooLarge, problems.UnsupportedMediaType)
    if traits.is_limited:
        yield RateLimited
    if operation.needs_servers:
        yield Transient


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
    detail, errors = refusal.detail, []
    if refusal.code == Refused.code:
        detail = "2 fields are not valid; see errors."
        errors = [
            {"field": "name", "code": "required", "detail": "This field is required."},
            {"field": "color", "code": "unknown_field", "detail": "There is no such field."},
        ]
    return {
        "type": f"{problems.TYPE}:{refusal.code}",
        "title": refusal.title,
        "status": refusal.status,
        "detail": detail,
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
