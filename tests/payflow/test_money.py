"""Amounts: what is exact in its currency passes, everything else is refused with a reason, never rounded."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payflow.money import AMOUNT_MINOR_MAX, EXPONENTS, InvalidAmount, format_amount, parse_amount

currencies = st.sampled_from(sorted(EXPONENTS))


@pytest.mark.parametrize(
    ("value", "currency", "minor"),
    [
        ("100.50", "USD", 10_050),
        ("100.5", "USD", 10_050),
        ("100", "USD", 10_000),
        ("0.01", "USD", 1),
        ("007.10", "USD", 710),
        ("7", "JPY", 7),
        ("1.234", "KWD", 1_234),
        ("0.001", "KWD", 1),
        # Digits beyond the currency's are no fault while they are zeros: the amount is exact.
        ("1.000", "JPY", 1),
        ("1.10000", "USD", 110),
        ("10000000000000.00", "USD", AMOUNT_MINOR_MAX),
        ("1000000000000000", "JPY", AMOUNT_MINOR_MAX),
        # JSON numbers, as the parser delivers them.
        (5, "USD", 500),
        (Decimal("5.25"), "USD", 525),
        (Decimal("1E+2"), "USD", 10_000),
        (Decimal("1.5E+1"), "JPY", 15),
        (Decimal("100E-2"), "JPY", 1),
    ],
)
def test_accepts_what_is_exact(value: object, currency: str, minor: int) -> None:
    assert parse_amount(value, currency) == minor


NOT_NUMBERS = [
    "", " ", " 1", "1 ", "1\n", "\u00a01", "1\u0000",
    "+1", "-1", "--1", ".5", "5.", "1.2.3", "1,000.00", "1_000", "0x10", "1e5", "1E2", "1e-2",
    "NaN", "Infinity", "-Infinity", "inf", "abc", "$5", "5 USD", "1" * 41, "0." + "0" * 41,
    # Digits to Python, not to us: full-width, Arabic, a half, a superscript.
    "\uff11\uff10\uff10", "\u0661\u0662\u0663", "\u00bd", "\u00b2",
    None, True, False, [], ["1"], {}, {"amount": "1"}, 1.5, 100.0, b"1",
]  # fmt: skip


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=ascii)
@pytest.mark.parametrize("currency", ["USD", "JPY", "KWD"])
def test_refuses_what_is_no_plain_decimal(value: object, currency: str) -> None:
    with pytest.raises(InvalidAmount) as refusal:
        parse_amount(value, currency)
    assert refusal.value.code == "invalid_amount"
    assert refusal.value.status == 400


@pytest.mark.parametrize(
    "value",
    ["0", "0.00", "000", "0.0000", 0, -1, Decimal("0"), Decimal("-0"), Decimal("-0.00"), Decimal("-5.25")],
)
def test_refuses_what_is_not_positive(value: object) -> None:
    with pytest.raises(InvalidAmount, match="greater than zero"):
        parse_amount(value, "USD")


@pytest.mark.parametrize("value", ["-0", "-0.00"])
def test_refuses_a_signed_zero_as_text(value: str) -> None:
    with pytest.raises(InvalidAmount):
        parse_amount(value, "USD")


@pytest.mark.parametrize(
    ("value", "currency", "reason"),
    [
        ("0.001", "USD", "at most 2 decimal places"),
        ("100.505", "USD", "at most 2 decimal places"),
        (Decimal("0.1"), "JPY", "no decimal places"),
        ("1.5", "JPY", "no decimal places"),
        ("1.2345", "KWD", "at most 3 decimal places"),
        (Decimal("1E-30"), "USD", "at most 2 decimal places"),
        ("0." + "0" * 39 + "1", "USD", "at most 2 decimal places"),
        # 28 digits is where Decimal arithmetic would begin to round.
        (Decimal("1." + "0" * 70 + "1"), "USD", "at most 2 decimal places"),
        (Decimal("1000000000000.0000000000000000001"), "USD", "at most 2 decimal places"),
    ],
)
def test_refuses_what_is_finer_than_the_currency(value: object, currency: str, reason: str) -> None:
    with pytest.raises(InvalidAmount, match=reason):
        parse_amount(value, currency)


@pytest.mark.parametrize(
    ("value", "currency"),
    [
        ("10000000000000.01", "USD"),
        ("1000000000000001", "JPY"),
        ("1000000000000.001", "KWD"),
        (10**30, "USD"),
        ("1" + "0" * 30, "USD"),
        pytest.param(10**5_000, "USD", id="5000 digits"),
        (Decimal("1E+30"), "USD"),
        (Decimal("1E+40"), "USD"),
    ],
)
def test_refuses_what_is_too_large(value: object, currency: str) -> None:
    with pytest.raises(InvalidAmount):
        parse_amount(value, currency)


@pytest.mark.parametrize(
    "number",
    [
        *("NaN", "-NaN", "sNaN", "Infinity", "-Infinity", "1E+999999", "1E-999999", "9" * 81, "0E+999999"),
        "1." + "1" * 90,
    ],
)
def test_refuses_numbers_that_would_cost_more_than_they_say(number: str) -> None:
    with pytest.raises(InvalidAmount, match="out of range"):
        parse_amount(Decimal(number), "USD")


def test_the_upper_bound_is_named_in_the_currencys_own_terms() -> None:
    with pytest.raises(InvalidAmount, match=r"at most 1000000000000\.000 KWD"):
        parse_amount("1000000000001", "KWD")


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [
        (10_050, "USD", "100.50"),
        (5, "USD", "0.05"),
        (0, "USD", "0.00"),
        (-5, "USD", "-0.05"),
        (-10_050, "USD", "-100.50"),
        (7, "JPY", "7"),
        (0, "JPY", "0"),
        (-7, "JPY", "-7"),
        (1, "KWD", "0.001"),
        (2**63 - 1, "USD", "92233720368547758.07"),
    ],
)
def test_formats_minor_units(minor: int, currency: str, text: str) -> None:
    assert format_amount(minor, currency) == text


@given(st.integers(1, AMOUNT_MINOR_MAX), currencies)
def test_formatting_and_parsing_are_inverse(minor: int, currency: str) -> None:
    text = format_amount(minor, currency)
    assert parse_amount(text, currency) == minor
    assert parse_amount(Decimal(text), currency) == minor


@given(st.decimals(allow_nan=True, allow_infinity=True) | st.integers() | st.text(), currencies)
def test_anything_is_exact_or_refused(value: object, currency: str) -> None:
    try:
        minor = parse_amount(value, currency)
    except InvalidAmount:
        return
    assert isinstance(minor, int)
    assert 0 < minor <= AMOUNT_MINOR_MAX
    assert Decimal(value) == Decimal(minor).scaleb(-EXPONENTS[currency])  # type: ignore[arg-type]
