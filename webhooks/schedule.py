"""When a delivery is tried again, and how long an endpoint that fails is left alone. Pure.

The default schedule begins like the example in the Standard Webhooks specification: eight attempts within
about a day. Jitter is drawn from the delivery's id and the attempt's number, so that every worker
and every repeat computes the same time, and the retries of many deliveries do not come at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# The share by which a delay is stretched at most. It is never shortened: an attempt is not early.
JITTER_SHARE_MAX = 0.1
# However long a receiver asks to be left alone.
RETRY_AFTER_SECONDS_MAX = 6 * 3600.0
CIRCUIT_SECONDS_MAX = 900.0
_DOUBLINGS_MAX = 16
# Answers whose Retry-After counts: RFC 9110, section 10.2.3, and RFC 6585, section 4.
THROTTLING = frozenset({429, 503})


def attempts_max(retry_seconds: Sequence[float]) -> int:
    """Return how many attempts a schedule of delays between them allows."""
    return len(retry_seconds) + 1


def retry_delay_seconds(
    *,
    delivery_id: str,
    tries: int,
    retry_seconds: Sequence[float],
    retry_after_seconds: float = 0.0,
) -> float | None:
    """Return how long to wait after the `tries`-th attempt has failed, None when it was the last.

    A receiver may ask for more time than the schedule gives, not for less.
    """
    if tries >= attempts_max(retry_seconds):
        return None
    delay = retry_seconds[max(0, tries - 1)]
    jittered = delay * (1 + JITTER_SHARE_MAX * _share(f"{delivery_id}:{tries}"))
    return max(jittered, min(retry_after_seconds, RETRY_AFTER_SECONDS_MAX))


def retry_after_seconds(value: str | None, *, now: datetime) -> float:
    """Read a Retry-After header (RFC 9110, section 10.2.3): seconds or a date; 0 where it says neither."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), RETRY_AFTER_SECONDS_MAX)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - now).total_seconds()), RETRY_AFTER_SECONDS_MAX)


def circuit_seconds(*, failures: int, opens_after: int, first_seconds: float) -> float:
    """Return how long an endpoint is left alone after so many failures in a row: doubling, capped."""
    if failures < opens_after:
        return 0.0
    return min(first_seconds * 2 ** min(failures - opens_after, _DOUBLINGS_MAX), CIRCUIT_SECONDS_MAX)


def _share(text: str) -> float:
    """Return a number from 0 to 1 that follows from the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) / 0xFFFFFFFF
