"""Times as RFC 3339 (section 5.6) has them, and nothing else of what ISO 8601 and Python would take."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payflow import clock

READ = {
    "2026-01-31T09:30:00Z": datetime(2026, 1, 31, 9, 30, tzinfo=UTC),
    "2026-01-31t09:30:00z": datetime(2026, 1, 31, 9, 30, tzinfo=UTC),
    "2026-01-31T09:30:00.5Z": datetime(2026, 1, 31, 9, 30, 0, 500_000, tzinfo=UTC),
    "2026-01-31T09:30:00.123456789Z": datetime(2026, 1, 31, 9, 30, 0, 123_456, tzinfo=UTC),
    "2026-01-31T09:30:00+05:30": datetime(2026, 1, 31, 4, 0, tzinfo=UTC),
    "2026-01-31T09:30:00.25-23:59": datetime(2026, 2, 1, 9, 29, 0, 250_000, tzinfo=UTC),
    "2026-01-31T09:30:00-00:00": datetime(2026, 1, 31, 9, 30, tzinfo=UTC),
    "2024-02-29T00:00:00Z": datetime(2024, 2, 29, tzinfo=UTC),
    "0001-01-01T00:00:00Z": datetime(1, 1, 1, tzinfo=UTC),
    "9999-12-31T23:59:59Z": datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
    # The RFC's own example of a leap second.
    "1990-12-31T23:59:60Z": datetime(1991, 1, 1, tzinfo=UTC),
    "1990-12-31T15:59:60-08:00": datetime(1991, 1, 1, tzinfo=UTC),
}
NOT_TIMES = [
    "", "yesterday", "2026-01-31", "2026-W05-6T09:30:00Z", "2026-031T09:30:00Z", "20260131T093000Z",
    "2026-01-31T09:30:00,5Z", "2026-01-31T09:30Z", "2026-01-31T09Z", "2026-01-31 09:30:00Z",
    "2026-01-31T09:30:00.Z",
    "2026-01-31T09:30:00+0000", "2026-01-31T09:30:00+00", "2026-01-31T09:30:00+00:00:00",
    "2026-01-31T09:30:00+24:00",
    "2026-01-31T09:30:00+00:60", "2026-01-31T24:00:00Z", "2026-01-31T09:60:00Z", "2026-01-31T09:30:60Z",
    "2026-01-30T23:59:60Z", "1990-12-31T23:59:61Z", "2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z",
    "2026-00-10T00:00:00Z",
    "+2026-01-31T09:30:00Z", "12026-01-31T09:30:00Z", "26-01-31T09:30:00Z", " 2026-01-31T09:30:00Z",
    "2026-01-31T09:30:00Z\n", "\uff12\uff10\uff12\uff16-01-31T09:30:00Z", "2026-01-31T09:30:00\u2124",
    "2026-01-31T09:30:00." + "1" * 31 + "Z", "2026\u201001\u201031T09:30:00Z",
]  # fmt: skip
OUT_OF_RANGE = [
    "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "9999-12-31T23:59:60Z",
]  # fmt: skip


@pytest.mark.parametrize("text", READ)
def test_reads_a_time(text: str) -> None:
    assert clock.read_rfc3339(text) == READ[text]
    assert clock.read_rfc3339(text).tzinfo is UTC


@pytest.mark.parametrize("text", NOT_TIMES, ids=ascii)
def test_reads_nothing_else(text: str) -> None:
    with pytest.raises(clock.NotATime):
        clock.read_rfc3339(text)


@pytest.mark.parametrize("text", OUT_OF_RANGE)
def test_says_when_a_time_is_out_of_range(text: str) -> None:
    with pytest.raises(clock.OutOfRange):
        clock.read_rfc3339(text)


def test_says_when_the_offset_is_missing() -> None:
    with pytest.raises(clock.NoOffset):
        clock.read_rfc3339("2026-01-31T09:30:00")


_FIRST, _LAST = (datetime(year, 1, 1, tzinfo=UTC).replace(tzinfo=None) for year in (2, 9998))
_OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(_FIRST, _LAST, timezones=_OFFSETS))
def test_reads_what_python_writes(moment: datetime) -> None:
    assert clock.read_rfc3339(moment.isoformat()) == moment
    milliseconds = clock.rfc3339(moment)
    assert clock.rfc3339(clock.read_rfc3339(milliseconds)) == milliseconds


def test_reads_a_day() -> None:
    assert clock.read_date("2026-01-31") == date(2026, 1, 31)
    for text in ("20260131", "2026-W05-6", "2026-02-30", "2026-1-31", "", "2026-01-31T00:00:00Z"):
        with pytest.raises(clock.NotATime):
            clock.read_date(text)
