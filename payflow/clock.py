"""The time as MongoDB keeps it: UTC, aware, whole milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache


def now() -> datetime:
    """Return the current time in UTC, truncated to the millisecond that the database stores."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def epoch_ms(moment: datetime) -> int:
    """Return whole milliseconds since 1970-01-01T00:00:00Z, without going through a float."""
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000


# A transfer has some twenty times to tell, and shares most of them with its batch.
@lru_cache(maxsize=4_096)
def rfc3339(moment: datetime) -> str:
    """Format an aware time as RFC 3339 in UTC with milliseconds, e.g. `2026-01-31T09:30:00.125Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def after(moment: datetime, seconds: float) -> datetime:
    """Return the time `seconds` later, in whole milliseconds."""
    return moment + timedelta(milliseconds=round(seconds * 1000))
