"""Identifiers: opaque to clients, ordered by time so that the newest rows sort last by `_id`."""

from __future__ import annotations

import secrets
import time


def new_id(prefix: str) -> str:
    """Return `<prefix>_` + 12 hex digits of milliseconds since 1970 + 20 random hex digits."""
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
