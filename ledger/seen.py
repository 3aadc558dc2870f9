"""The highest counter of the audit's record that was seen, kept where the record itself is not.

Each process remembers it, Redis remembers it across processes, and a metric shows it to Prometheus. A record
that was put back from a copy shows a lower one. Only when the whole database was restored, Redis was emptied
and every process was restarted, nothing here remembers: then `manage.py audit --against FILE` must.
"""

from __future__ import annotations

import time
from contextlib import suppress

from django.conf import settings

from payflow import metrics, redisdb
from payflow.errors import Transient

KEY = "payflow:ledger-audit-seen"


class _Memory:
    """What this process remembers."""

    counter = 0
    # On the monotonic clock: since when the record has looked as if it could not be trusted.
    doubted_since: float | None = None


def highest() -> int:
    """Return the highest counter that this process or, as far as it answers, Redis remembers."""
    if not redisdb.is_spared():
        with suppress(Transient), redisdb.unavailable_is_transient():
            _Memory.counter = max(_Memory.counter, int(redisdb.client().zscore(KEY, _member()) or 0))
    return _Memory.counter


def note(counter: int) -> None:
    """Remember a counter in this process and in the metrics."""
    _Memory.counter = max(_Memory.counter, counter)
    metrics.AUDIT_COUNTER.set(counter)


def share() -> None:
    """Remember in Redis what this process remembers; a Redis that does not answer goes without."""
    if not redisdb.is_spared():
        with suppress(Transient), redisdb.unavailable_is_transient():
            redisdb.client().zadd(KEY, {_member(): _Memory.counter}, gt=True)


def doubted_for() -> float:
    """Note that the record cannot be trusted; return for how many seconds that has been so."""
    if _Memory.doubted_since is None:
        _Memory.doubted_since = time.monotonic()
    return time.monotonic() - _Memory.doubted_since


def trust() -> None:
    """Note that the record can be trusted."""
    _Memory.doubted_since = None


def forget() -> None:
    """Forget everything in this process: for tests, which empty their database."""
    _Memory.counter, _Memory.doubted_since = 0, None


def _member() -> str:
    """One Redis may serve several databases."""
    return str(settings.MONGODB_DATABASE)
