"""Headers as the OpenAPI document describes them: those of requests (parameters) and those of answers."""

from __future__ import annotations

from typing import Any

_SECONDS = {"type": "integer", "minimum": 0}

# What names one request has its example within the schema: Swagger UI would send a parameter's own example
# with every request from its page, and all but the first would be taken for repeats.
PARAMETERS: dict[str, dict[str, Any]] = {
    "CorrelationId": {
        "name": "X-Correlation-Id",
        "in": "header",
        "description": "A word of your own for this request: 1 to 128 of `A-Z a-z 0-9 . _ : / + = @ -`. It "
        "comes back on the answer and stands in every log line that the request causes. Anything else is "
        "replaced.",
        "schema": {"type": "string", "examples": ["checkout-7f3a"]},
    },
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Makes it safe to send the request again: a repeat with the same key and body is "
        "answered like the first and does nothing. Keys belong to you and to this endpoint, and are kept "
        "24 hours; where money moves, for ever. (`X-Idempotency-Key` is read, too.)",
        "schema": {
            "type": "string",
            "pattern": "^[A-Za-z0-9_-]{1,64}$",
            "examples": ["dinner-2026-11-23"],
        },
    },
    "Prefer": {
        "name": "Prefer",
        "in": "header",
        "description": "`wait=5` holds the answer until the transaction has ended or so many seconds have "
        "passed, 30 at most (RFC 7240). Anything else is ignored.",
        "schema": {"type": "string"},
        "example": "wait=5",
    },
}

HEADERS: dict[str, dict[str, Any]] = {
    "X-Correlation-Id": {
        "description": "The request's correlation id: the one you sent, or a new one.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:/+=@-]{1,128}$"},
    },
    "RateLimit-Limit": {
        "description": "How many requests the tightest limit allows per period. Absent while limits are not "
        "counted.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "RateLimit-Remaining": {"description": "How many of them are left.", "schema": _SECONDS},
    "RateLimit-Reset": {"description": "Seconds until they are counted anew.", "schema": _SECONDS},
    "Retry-After": {
        "description": "Seconds to wait before the request is sent again.",
        "required": True,
        "schema": _SECONDS,
    },
    "Retry-After-Perhaps": {
        "description": "Seconds to wait before the request is sent again, where waiting may help.",
        "schema": _SECONDS,
    },
    "Accept-Encoding": {
        "description": "`identity` where the body came in another coding (RFC 9110, 15.5.16).",
        "schema": {"type": "string", "const": "identity"},
    },
    "WWW-Authenticate": {
        "description": "What to authenticate with (RFC 6750).",
        "required": True,
        "schema": {"type": "string", "pattern": "^Bearer"},
    },
    "Idempotent-Replayed": {
        "description": "`true` when an earlier request with this idempotency key did the work.",
        "schema": {"type": "string", "const": "true"},
    },
    "Preference-Applied": {
        "description": "The `Prefer: wait` that was honoured.",
        "schema": {"type": "string", "pattern": "^wait=[0-9]{1,2}$"},
    },
    "Location": {
        "description": "Where what was created can be read.",
        "required": True,
        "schema": {"type": "string", "format": "uri-reference"},
    },
}
# One header with two descriptions.
NAMES = {"Retry-After-Perhaps": "Retry-After"}
RATE_LIMIT = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
