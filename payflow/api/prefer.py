"""`Prefer: wait=N` (RFC 7240): hold an answer until something has happened, within bounds.

At most PREFER_WAITERS_MAX requests of a process wait at once; past it the answer comes at once.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from django.conf import settings
from rest_framework.request import Request

from payflow import circuits

HEADER = "Preference-Applied"
_WAIT = re.compile(r"wait\s*=\s*\"?([0-9]{1,9})\"?", re.ASCII | re.IGNORECASE)
_POLL_SECONDS_MIN = 0.01
_POLL_SECONDS_MAX = 0.1
_places = threading.BoundedSemaphore(settings.PREFER_WAITERS_MAX)
Value = TypeVar("Value")


def wait_seconds(request: Request) -> int | None:
    """Return how long the caller wants to wait, at most PREFER_WAIT_SECONDS_MAX, or None.

    A preference that is not understood is ignored, as RFC 7240 (section 2) asks, and so are the parameters
    that follow one after a semicolon.
    """
    for preference in request.headers.get("Prefer", "").split(","):
        match = _WAIT.fullmatch(preference.partition(";")[0].strip())
        if match:
            return min(int(match[1]), settings.PREFER_WAIT_SECONDS_MAX)
    return None


def wait_for(
    first: Value, read: Callable[[], Value], is_done: Callable[[Value], bool], seconds: int
) -> tuple[Value, bool]:
    """Read until `is_done` or `seconds` have passed; return the last value and whether this waited at all.

    Where there is no place to wait, that is `first`, and nothing is read. Each read has a budget of its own.
    """
    if not _places.acquire(blocking=False):
        return first, False
    try:
        deadline, pause = time.monotonic() + seconds, _POLL_SECONDS_MIN
        value = _read(read)
        while not is_done(value) and time.monotonic() < deadline:
            time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
            pause = min(pause * 1.3, _POLL_SECONDS_MAX)
            value = _read(read)
        return value, True
    finally:
        _places.release()


def _read(read: Callable[[], Value]) -> Value:
    with circuits.request_budgets():
        return read()
