"""Rates as operators write them, and what is none."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured

from payflow.rates import Rate, read_rates


@pytest.mark.parametrize(
    ("text", "rate"),
    [("300/m", Rate(300, 60)), ("1/s", Rate(1, 1)), ("20/10m", Rate(20, 600)), ("5/h", Rate(5, 3_600)),
     (" 9/2d ", Rate(9, 172_800)), ("999999999/m", Rate(999_999_999, 60)),
     ("", None), ("off", None), ("OFF", None), (" ", None)],
)  # fmt: skip
def test_reads_a_rate(text: str, rate: Rate | None) -> None:
    assert read_rates({"group": ("RATE_LIMIT_GROUP", text)}) == {"group": rate}


@pytest.mark.parametrize(
    "text",
    ["300", "/m", "300/", "300/x", "0/m", "-1/m", "1.5/m", "300/0m", "300 / m", "300/m/s", "1e3/m", "none",
     "0", "300/M", "300/1000m", "1000000000/m", "\u0663/m", "300/m\n300/m"],
)  # fmt: skip
def test_refuses_what_is_no_rate_and_names_its_variable(text: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        read_rates({"a": ("RATE_LIMIT_A", text), "b": ("RATE_LIMIT_B", "1/s"), "c": ("RATE_LIMIT_C", "?")})
    assert "RATE_LIMIT_A, RATE_LIMIT_C must be a rate such as 300/m" in str(caught.value)
