"""Amounts and times as people of a locale write them (Unicode CLDR, by babel). Pure.

What must stay true: an amount is shown exactly, never rounded; a time says that it is UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal

from babel import Locale, UnknownLocaleError
from babel.dates import format_datetime
from babel.numbers import format_currency, format_decimal

from payflow.money import EXPONENTS

DEFAULT_LOCALE = "en_US"
LOCALE_LENGTH_MAX = 15
# Language, script, territory (Unicode TR 35, 3.1), in either separator. babel opens a file of this name.
_LOCALE = re.compile(r"[A-Za-z]{2,3}([_-][A-Za-z]{4})?([_-]([A-Za-z]{2}|[0-9]{3}))?", re.ASCII)
_CODE_BEFORE_DIGITS = re.compile(r"(?<=[A-Z])(?=\d)")


def normal_locale(text: str) -> str:
    """Return the one spelling of a locale, such as `de_DE` for `de-de`. Raises ValueError if unknown."""
    if not _LOCALE.fullmatch(text):
        raise ValueError("not the form of a locale")
    try:
        return str(Locale.parse(text.replace("-", "_")))
    except UnknownLocaleError:
        raise ValueError("not a known locale") from None


def known_locale(text: str) -> str:
    """Return the one spelling of a locale, or the default one for what was stored and is unknown now."""
    try:
        return normal_locale(text)
    except ValueError:
        return DEFAULT_LOCALE


def amount_text(minor: int, currency: str, locale: str) -> str:
    """Return an amount with its currency's sign: 1050 EUR is `10,50\N{NO-BREAK SPACE}€` in de_DE."""
    amount = Decimal(minor).scaleb(-EXPONENTS[currency])
    text = format_currency(amount, currency, locale=locale, decimal_quantization=False)
    # Unicode TR 35, part 3, 4.2: a code of letters before digits is set off; babel leaves that out.
    return _CODE_BEFORE_DIGITS.sub("\N{NO-BREAK SPACE}", text)


def number_text(number: int, locale: str) -> str:
    """Return a whole number with its groups set apart: 5131 is `5.131` in de_DE."""
    return format_decimal(number, locale=locale)


def time_text(moment: datetime, locale: str) -> str:
    """Return a time to the second, in UTC, and say so."""
    return f"{format_datetime(moment, 'medium', tzinfo=UTC, locale=locale)} UTC"
