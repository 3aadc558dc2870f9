"""One way to write any JSON value, so that two requests that mean the same have one digest. Pure.

Other than `signing.canonical` this takes every number: what is compared here is whatever a client sends.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any


def canonical_json(value: Any) -> str:
    """Return `value` as text that does not depend on the order of fields or on how a number is spelt.

    Numbers are int or Decimal, as `payflow.api.parsers` reads them; 1, 1.0 and 1e0 are one number. Nothing is
    rounded.
    """
    if isinstance(value, Mapping):
        members = (f"{json.dumps(name)}:{canonical_json(value[name])}" for name in sorted(value))
        return "{" + ",".join(members) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(map(canonical_json, value)) + "]"
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return _number(Decimal(value))
    return json.dumps(value)


def digest(value: Any) -> str:
    """Return SHA-256 over `canonical_json`, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _number(number: Decimal) -> str:
    sign, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int):
        # What is beyond Decimal itself was read as infinity.
        return str(number)
    text = "".join(map(str, digits)).lstrip("0")
    significant = text.rstrip("0")
    if not significant:
        return "0"
    return f"{'-' if sign else ''}{significant}e{exponent + len(text) - len(significant)}"
