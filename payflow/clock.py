"""The time as MongoDB keeps it: UTC, aware, whole milliseconds."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,30}))?"
    r"([Zz]|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))?",
    re.ASCII,
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


class NotATime(ValueError):  # noqa: N818 - it reads as what happened
    """The text is not a time of RFC 3339."""


class NoOffset(NotATime):
    """The time does not say its offset from UTC."""


class OutOfRange(NotATime):
    """The time is outside the years 1 to 9999 of UTC."""


def now() -> datetime:
    """Return the current time in UTC, truncated to the millisecond that the database stores."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def epoch_ms(moment: datetime) -> int:
    """Return whole milliseconds since 1970-01-01T00:00:00Z, without going through a float."""
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000


# A transfer has some twenty times to tell, and shares most of them with its batch.
@lru_cache(maxsize=4_096)
def rfc3339(moment: datetime) -> str:
    """Format an aware time as RFC 3339 in UTC with milliseconds, e.g. `2026-01-31T09:30:00.125Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_rfc3339(text: str) -> datetime:
    """Return the time that `text` names, in UTC, with its fraction cut to microseconds (RFC 3339, 5.6).

    A leap second, which only the end of a month can have, is the first second of the next day. Raises
    NotATime, NoOffset, OutOfRange.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise NotATime("not a time of RFC 3339")
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    if year == 0:
        raise OutOfRange("the year 0000")
    try:
        moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
    except ValueError:
        raise NotATime("no such day or time of day") from None
    fraction, offset, sign, hours, minutes = match.groups()[6:]
    if offset is None:
        raise NoOffset("no offset from UTC")
    east = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    try:
        moment = moment + east if sign == "-" else moment - east
        if second > 59:
            return _after_leap_second(moment, second)
    except OverflowError:
        raise OutOfRange("outside the years 1 to 9999 of UTC") from None
    return moment.replace(microsecond=int((fraction or "0")[:6].ljust(6, "0")))


def _after_leap_second(last: datetime, second: int) -> datetime:
    following = last + timedelta(seconds=1)
    if second > 60 or (following.day, following.hour, following.minute) != (1, 0, 0):
        raise NotATime("no such leap second")
    return following


def read_date(text: str) -> date:
    """Return the day that `text` names, as YYYY-MM-DD (RFC 3339, full-date). Raises NotATime."""
    try:
        return date.fromisoformat(text if _DATE.fullmatch(text) else "")
    except ValueError:
        raise NotATime("not a date of RFC 3339") from None


def after(moment: datetime, seconds: float) -> datetime:
    """Return the time `seconds` later, in whole milliseconds."""
    return moment + timedelta(milliseconds=round(seconds * 1000))
