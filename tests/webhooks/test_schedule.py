"""Retries: how long after which attempt, what a receiver may ask for, and when an endpoint is left alone."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.conf import settings
from hypothesis import given
from hypothesis import strategies as st

from webhooks import schedule

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
DEFAULT = (5, 300, 1_800, 7_200, 18_000, 28_800, 28_800)


def delay(tries: int, retry_after: float = 0.0, delivery_id: str = "dlv_1") -> float | None:
    return schedule.retry_delay_seconds(
        delivery_id=delivery_id, tries=tries, retry_seconds=DEFAULT, retry_after_seconds=retry_after
    )


def test_the_default_is_eight_attempts_over_about_a_day() -> None:
    assert tuple(settings.WEBHOOK_RETRY_SECONDS) == DEFAULT
    assert schedule.attempts_max(DEFAULT) == 8
    delays = [delay(tries) for tries in range(1, 8)]
    assert 23 * 3600 < sum(each for each in delays if each) < 26 * 3600
    assert delay(8) is None


@given(tries=st.integers(1, 7), number=st.integers(0, 10**9))
def test_a_delay_is_stretched_by_a_tenth_at_most_and_never_shortened(tries: int, number: int) -> None:
    found = delay(tries, delivery_id=f"dlv_{number}")
    assert found is not None
    assert DEFAULT[tries - 1] <= found <= DEFAULT[tries - 1] * 1.1


def test_many_deliveries_do_not_come_back_at_once_and_each_always_at_its_own_time() -> None:
    delays = [delay(2, delivery_id=f"dlv_{number}") for number in range(1_000)]
    assert len(set(delays)) > 990
    assert delays == [delay(2, delivery_id=f"dlv_{number}") for number in range(1_000)]
    tenths = [sum(300 + 3 * n <= each < 303 + 3 * n for each in delays if each) for n in range(10)]
    assert min(tenths) > 50


def test_a_receiver_may_ask_for_more_time_but_not_for_less_and_not_for_ever() -> None:
    assert delay(1, retry_after=60.0) == 60.0
    assert delay(2, retry_after=60.0) == delay(2)
    assert delay(1, retry_after=10**9) == schedule.RETRY_AFTER_SECONDS_MAX


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30),
        ("Monday, 23-Nov-26 12:00:30 GMT", 30),
        ("Mon Nov 23 12:00:30 2026", 30),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0),
        ("99999999999999999999", 6 * 3600),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 6 * 3600),
        ("-5", 0),
        ("1.5", 0),
        ("soon", 0),
        ("\u0661", 0),
        ("Mon, 99 Nov 2026 12:00:30 GMT", 0),
        ("Mon, 23 Nov 999999999999 12:00:30 GMT", 0),
        ("", 0),
        (None, 0),
    ],
)
def test_reads_retry_after(value: str | None, seconds: float) -> None:
    assert schedule.retry_after_seconds(value, now=NOW) == seconds


@given(st.text(max_size=60))
def test_no_retry_after_breaks_anything(value: str) -> None:
    assert 0 <= schedule.retry_after_seconds(value, now=NOW) <= schedule.RETRY_AFTER_SECONDS_MAX


def test_a_circuit_opens_for_longer_and_longer_up_to_a_limit() -> None:
    found = [
        schedule.circuit_seconds(failures=failures, opens_after=5, first_seconds=30.0)
        for failures in (0, 4, 5, 6, 7, 9, 10, 10**9)
    ]
    assert found == [0, 0, 30, 60, 120, 480, 900, 900]
