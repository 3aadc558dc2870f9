"""Idempotency keys as the caller sends them. What a key has done is written beside the money it moved."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from rest_framework.request import Request

from payflow.errors import Refused

HEADERS = ("Idempotency-Key", "X-Idempotency-Key")
REPLAYED_HEADER = "Idempotent-Replayed"
_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


class MalformedKey(Refused):
    """The Idempotency-Key header cannot be used."""

    title = "Malformed idempotency key"


def key_of(request: Request) -> str | None:
    """Return the request's idempotency key, or None. Raises MalformedKey when it has another form."""
    sent = {request.headers[name] for name in HEADERS if name in request.headers}
    if not sent:
        return None
    if len(sent) > 1:
        raise MalformedKey(f"{HEADERS[0]} and {HEADERS[1]} differ; send one of them.")
    key = sent.pop()
    if not _KEY.fullmatch(key):
        raise MalformedKey("An idempotency key is 1 to 64 characters of A-Z, a-z, 0-9, _ and -.")
    return key


def fingerprint(request_data: Mapping[str, Any]) -> str:
    """Return a digest of what was asked for, the same for any order of fields."""
    canonical = json.dumps(request_data, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()
