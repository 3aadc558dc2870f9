"""The kernel's small parts: ids, clock, correlation, idempotency keys, crash points."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from unittest.mock import patch

import pytest
from django.conf import settings
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory

from payflow import clock, correlation, idempotency
from payflow.ids import new_id

# --- Ids --------------------------------------------------------------------------------------------------


def test_an_id_has_a_prefix_and_32_digits() -> None:
    assert re.fullmatch(r"txn_[0-9a-f]{32}", new_id("txn"))


def test_ids_do_not_repeat() -> None:
    assert len({new_id("txn") for _ in range(10_000)}) == 10_000


def test_later_ids_sort_later() -> None:
    moments = [1, 999_999_999_999, 1_700_000_000_000, 1_700_000_000_001, 9_999_999_999_999]
    with patch("payflow.ids.time.time_ns", side_effect=[ms * 1_000_000 for ms in moments]):
        ids = [new_id("txn") for _ in moments]
    assert ids == sorted(ids)


# --- Clock ------------------------------------------------------------------------------------------------


def test_now_is_utc_in_whole_milliseconds() -> None:
    moment = clock.now()
    assert moment.tzinfo is UTC
    assert moment.microsecond % 1000 == 0
    assert abs(moment - datetime.now(UTC)) < timedelta(seconds=5)


@pytest.mark.parametrize(
    ("moment", "milliseconds", "text"),
    [
        (datetime(1970, 1, 1, tzinfo=UTC), 0, "1970-01-01T00:00:00.000Z"),
        (datetime(2026, 1, 31, 9, 30, 0, 125_000, UTC), 1_769_851_800_125, "2026-01-31T09:30:00.125Z"),
        (datetime(1969, 12, 31, 23, 59, 59, 999_000, UTC), -1, "1969-12-31T23:59:59.999Z"),
        (
            datetime(2026, 1, 31, 9, 30, tzinfo=timezone(timedelta(hours=2))),
            1_769_844_600_000,
            "2026-01-31T07:30:00.000Z",
        ),
    ],
)
def test_moments_as_milliseconds_and_as_text(moment: datetime, milliseconds: int, text: str) -> None:
    assert clock.epoch_ms(moment) == milliseconds
    assert clock.rfc3339(moment) == text


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_milliseconds_survive_the_way_through_a_datetime(milliseconds: int) -> None:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    assert clock.epoch_ms(moment) == milliseconds


# --- Correlation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["a", "A-1_b.c:d/e+f=g@h", "x" * 128])
def test_a_safe_correlation_id_is_kept(value: str) -> None:
    assert correlation.enter(value) == correlation.current() == value


@pytest.mark.parametrize(
    "value", [None, "", "x" * 129, "a b", "a\nb", "a\n", "é", "<script>", '"', "a;b", "a\x00"]
)
def test_an_unsafe_correlation_id_is_replaced(value: str | None) -> None:
    chosen = correlation.enter(value)
    assert re.fullmatch(r"cor_[0-9a-f]{32}", chosen)
    assert correlation.current() == chosen


# --- Idempotency keys -------------------------------------------------------------------------------------


def key_in(**headers: str) -> str | None:
    return idempotency.key_of(Request(APIRequestFactory().post("/", headers=headers)))


@pytest.mark.parametrize("name", ["Idempotency_Key", "X_Idempotency_Key"])
@pytest.mark.parametrize("key", ["a", "A-Z_09", "x" * 64])
def test_reads_the_key_from_either_header(name: str, key: str) -> None:
    assert key_in(**{name.replace("_", "-"): key}) == key


def test_no_header_is_no_key() -> None:
    assert key_in() is None


def test_both_headers_may_agree() -> None:
    assert key_in(**{"Idempotency-Key": "a", "X-Idempotency-Key": "a"}) == "a"


@pytest.mark.parametrize("key", ["", " ", "x" * 65, "a b", "a.b", "a/b", "a:b", "é", "a\n", "\uff11", "a,b"])
def test_refuses_a_malformed_key(key: str) -> None:
    with pytest.raises(idempotency.MalformedKey) as refusal:
        key_in(**{"Idempotency-Key": key})
    assert refusal.value.status == 400


def test_refuses_headers_that_differ() -> None:
    with pytest.raises(idempotency.MalformedKey, match="differ"):
        key_in(**{"Idempotency-Key": "a", "X-Idempotency-Key": "b"})


def test_a_fingerprint_ignores_the_order_of_fields_and_nothing_else() -> None:
    base = {"amount": "1.00", "to": {"x": 1, "y": 2}}
    assert idempotency.fingerprint(base) == idempotency.fingerprint(
        {"to": {"y": 2, "x": 1}, "amount": "1.00"}
    )
    others = [{**base, "amount": "1.0"}, {**base, "amount": 1}, {**base, "note": None}, {"amount": "1.00"}]
    assert len({idempotency.fingerprint(data) for data in [base, *others]}) == 5


# --- Crash points -----------------------------------------------------------------------------------------


def run_to(point: str, data_dir: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    script = f"from payflow.crashpoints import crash_point; crash_point({point!r}); print('alive')"
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=settings.BASE_DIR,
        env={**os.environ, "PAYFLOW_DATA_DIR": str(data_dir), **environment},
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=60,
        check=False,
    )


def test_an_armed_process_dies_once(tmp_path: Path) -> None:
    armed = {"PAYFLOW_ENV": "test", "PAYFLOW_CRASH_AT": "here"}
    assert run_to("elsewhere", tmp_path, **armed).stdout == "alive\n"
    assert run_to("here", tmp_path, **armed).returncode == -signal.SIGKILL
    assert run_to("here", tmp_path, **armed).stdout == "alive\n"


@pytest.mark.parametrize("environment", [{"PAYFLOW_ENV": "production", "PAYFLOW_CRASH_AT": "here"}, {}])
def test_nothing_dies_in_production_or_unarmed(tmp_path: Path, environment: dict[str, str]) -> None:
    assert run_to("here", tmp_path, **environment).stdout == "alive\n"
    assert list(tmp_path.iterdir()) == []
