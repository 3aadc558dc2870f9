"""Identifiers: opaque to clients, ordered by time so that the newest rows sort last by `_id`."""

from __future__ import annotations

import re
import secrets
import time

_OURS = re.compile(r"[a-z]+_([0-9a-f]{12})[0-9a-f]{20}")


def new_id(prefix: str) -> str:
    """Return `<prefix>_` + 12 hex digits of milliseconds since 1970 + 20 random hex digits."""
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def made_at_ms(id_: str) -> int | None:
    """Return the milliseconds since 1970 that an id of `new_id` begins with; None for any other text."""
    found = _OURS.fullmatch(id_)
    return int(found[1], 16) if found else None
