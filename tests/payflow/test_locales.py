"""Amounts and times in the spelling of a locale: exact, and in UTC."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from babel.numbers import get_currency_precision, parse_decimal

from payflow import locales
from payflow.money import AMOUNT_MINOR_MAX, EXPONENTS

NBSP, NARROW, RLM = "\N{NO-BREAK SPACE}", "\N{NARROW NO-BREAK SPACE}", "\N{RIGHT-TO-LEFT MARK}"
QUOTE = "\N{RIGHT SINGLE QUOTATION MARK}"


@pytest.mark.parametrize(
    ("minor", "currency", "locale", "text"),
    [
        (123_456, "USD", "en_US", "$1,234.56"),
        (123_456, "USD", "en_CA", "US$1,234.56"),
        (1, "USD", "en_US", "$0.01"),
        (123_456, "EUR", "de_DE", f"1.234,56{NBSP}€"),
        (123_456, "EUR", "fr_FR", f"1{NARROW}234,56{NBSP}€"),
        (123_456, "EUR", "en_IE", "€1,234.56"),
        (1_234, "JPY", "ja_JP", "￥1,234"),
        (1_234, "JPY", "en_US", "¥1,234"),
        (1_234_567, "KWD", "en_US", f"KWD{NBSP}1,234.567"),
        (1_234_567, "KWD", "de_DE", f"1.234,567{NBSP}KWD"),
        (123_456, "USD", "ar", f"{RLM}1,234.56{NBSP}US$"),
        (123_456_789, "INR", "hi_IN", "₹12,34,567.89"),
        (10**15, "CHF", "de_CH", f"CHF{NBSP}10{QUOTE}000{QUOTE}000{QUOTE}000{QUOTE}000.00"),
    ],
)
def test_writes_amounts_as_people_do(minor: int, currency: str, locale: str, text: str) -> None:
    assert locales.amount_text(minor, currency, locale) == text


@pytest.mark.parametrize("currency", sorted(EXPONENTS))
def test_shows_every_currency_exactly(currency: str) -> None:
    assert get_currency_precision(currency) == EXPONENTS[currency]
    for minor in (1, 10, AMOUNT_MINOR_MAX - 1):
        text = locales.amount_text(minor, currency, "en_US")
        digits = "".join(char for char in text if char.isdigit() or char == ".")
        assert parse_decimal(digits, locale="en_US").scaleb(EXPONENTS[currency]) == minor


@pytest.mark.parametrize(
    ("locale", "text"),
    [
        ("en_US", f"Jan 31, 2026, 9:30:00{NARROW}AM UTC"),
        ("de_DE", "31.01.2026, 09:30:00 UTC"),
        ("ja_JP", "2026/01/31 9:30:00 UTC"),
    ],
)
def test_says_that_times_are_utc(locale: str, text: str) -> None:
    moment = datetime(2026, 1, 31, 11, 30, tzinfo=timezone(timedelta(hours=2)))
    assert locales.time_text(moment, locale) == text


@pytest.mark.parametrize(
    ("text", "normal"),
    [("en_US", "en_US"), ("de-de", "de_DE"), ("EN", "en"), ("zh-tw", "zh_Hant_TW"), ("es_419", "es_419")],
)
def test_knows_locales_in_one_spelling(text: str, normal: str) -> None:
    assert locales.normal_locale(text) == normal
    assert locales.normal_locale(normal) == normal


@pytest.mark.parametrize("text", ["", "e", "root", "xx_YY", "de_US", "../en", "en_US_POSIX", "en\n", "én"])
def test_refuses_what_is_no_locale(text: str) -> None:
    with pytest.raises(ValueError, match="locale"):
        locales.normal_locale(text)
    assert locales.known_locale(text) == "en_US"
