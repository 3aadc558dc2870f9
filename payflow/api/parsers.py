"""JSON as money needs it: exact numbers, no duplicate keys, no NaN, valid UTF-8, a bounded body."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import IO, Any

from django.conf import settings
from rest_framework.parsers import BaseParser

from payflow.errors import Refused

_DEPTH_MAX = 20
# The closing quote is optional, so that every quote is passed once: linear, whatever is sent.
_STRING = re.compile(r'"(?:[^"\\]+|\\.)*+"?')


class MalformedBody(Refused):
    """The body is not a JSON object that can be read in exactly one way."""


class PayloadTooLarge(Refused):
    """The body is longer than the service reads."""

    code = "payload_too_large"
    status = 413
    title = "Payload too large"
    advice = "Send less at once; `detail` says how much is read."


class StrictJSONParser(BaseParser):
    """Parses `application/json` (RFC 8259), numbers as int or Decimal."""

    media_type = "application/json"

    def parse(
        self,
        stream: IO[bytes],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the parsed body. Raises MalformedBody or PayloadTooLarge."""
        request = (parser_context or {}).get("request")
        bytes_max = body_bytes_max(request.path if request else "")
        raw = stream.read(bytes_max + 1)
        if len(raw) > bytes_max:
            raise PayloadTooLarge(f"The body must be at most {bytes_max} bytes.")
        return loads(raw)


def body_bytes_max(path: str) -> int:
    """Return how long a body that is sent to this path may be."""
    return settings.BODY_BYTES_MAX_BY_PATH.get(path, settings.REQUEST_BODY_BYTES_MAX)


def loads(raw: bytes) -> dict[str, Any]:
    """Parse one JSON object. Raises MalformedBody with the reason."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedBody("The body is not valid UTF-8.") from error
    if text.count("{") + text.count("[") > _DEPTH_MAX and _depth(text) > _DEPTH_MAX:
        raise MalformedBody(f"The body is nested deeper than {_DEPTH_MAX} levels.")
    try:
        data = json.loads(
            text,
            parse_int=_integer,
            parse_float=_decimal,
            parse_constant=_refuse_constant,
            object_pairs_hook=_refuse_duplicates,
        )
    except ValueError as error:
        raise MalformedBody(f"The body is not valid JSON: {error}.") from error
    if not isinstance(data, dict):
        raise MalformedBody("The body must be a JSON object.")
    if "\\u" in text:
        _refuse_lone_surrogates(data)
    return data


def _integer(digits: str) -> int | Decimal:
    # Python refuses to build ints of thousands of digits; nothing here accepts more than 20 anyway.
    return int(digits) if len(digits) <= 40 else Decimal(digits)


def _decimal(digits: str) -> Decimal:
    try:
        return Decimal(digits)
    except InvalidOperation:
        # An exponent of twenty digits is beyond Decimal itself. Whoever reads the field refuses infinity.
        return Decimal("Infinity")


def _refuse_constant(name: str) -> None:
    raise MalformedBody(f"{name} is not a JSON number.")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise MalformedBody("The body names the same field twice.")
    return data


def _refuse_lone_surrogates(data: dict[str, Any]) -> None:
    try:
        json.dumps(data, ensure_ascii=False, default=str).encode("utf-8")
    except UnicodeEncodeError as error:
        raise MalformedBody("The body holds half of a surrogate pair.") from error


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in _STRING.sub("", text):
        if character in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "}]":
            depth -= 1
    return deepest
