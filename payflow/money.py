"""Money: integers in minor units with an ISO 4217 currency beside them. No float, anywhere.

What must stay true: an amount that cannot be expressed exactly in its currency is refused, never rounded.
"""

from __future__ import annotations

import re
from decimal import Decimal

from payflow.errors import Refused

INT64_MAX = 2**63 - 1
AMOUNT_MINOR_MAX = 10**15
# A wallet stops receiving here. What lies between this and int64 is headroom for credits that were decided
# at the same moment by other workers: a decided credit must always fit (docs/guarantees.md).
BALANCE_MINOR_SOFT_MAX = 4 * 10**18

# ISO 4217: digits after the point.
EXPONENTS = {
    "AED": 2, "AUD": 2, "BHD": 3, "BRL": 2, "CAD": 2, "CHF": 2, "CLP": 0, "CNY": 2, "CZK": 2, "DKK": 2,
    "EGP": 2, "EUR": 2, "GBP": 2, "GHS": 2, "HKD": 2, "HUF": 2, "IDR": 2, "ILS": 2, "INR": 2, "JOD": 3,
    "JPY": 0, "KES": 2, "KRW": 0, "KWD": 3, "MXN": 2, "MYR": 2, "NGN": 2, "NOK": 2, "NZD": 2, "OMR": 3,
    "PHP": 2, "PLN": 2, "RON": 2, "SAR": 2, "SEK": 2, "SGD": 2, "THB": 2, "TND": 3, "TRY": 2, "UAH": 2,
    "USD": 2, "VND": 0, "XAF": 0, "XOF": 0, "ZAR": 2,
}  # fmt: skip

_DECIMAL = re.compile(r"[0-9]{1,40}(\.[0-9]{1,40})?", re.ASCII)


class InvalidAmount(Refused):
    """The amount is not a positive number that the currency can express."""

    code = "invalid_amount"
    status = 400
    title = "Invalid amount"
    advice = "Send a positive amount with no more decimal places than its currency has."


def parse_amount(value: object, currency: str) -> int:
    """Return `value` in minor units of `currency`.

    Accepts a decimal string ("100.50") or a JSON number that the parser delivered as int or Decimal.
    Raises InvalidAmount when it is anything else, not positive, finer than the currency, or above 10^15
    minor units. `currency` must be a key of EXPONENTS.
    """
    exponent = EXPONENTS[currency]
    sign, digits, power = _as_decimal(value).as_tuple()
    coefficient = int("".join(map(str, digits)))
    if sign or coefficient == 0:
        raise InvalidAmount("The amount must be greater than zero.")
    # Integers all the way: Decimal arithmetic would round at 28 digits without a word.
    shift = int(power) + exponent
    minor, rest = (coefficient * 10**shift, 0) if shift >= 0 else divmod(coefficient, 10**-shift)
    if rest:
        allowed = f"at most {exponent} decimal places" if exponent else "no decimal places"
        raise InvalidAmount(f"{currency} has {allowed}.")
    if minor > AMOUNT_MINOR_MAX:
        raise InvalidAmount(
            f"The amount must be at most {format_amount(AMOUNT_MINOR_MAX, currency)} {currency}."
        )
    return minor


def _as_decimal(value: object) -> Decimal:
    if isinstance(value, str):
        if not _DECIMAL.fullmatch(value):
            raise InvalidAmount('The amount must be a plain decimal number such as "100.50".')
        return Decimal(value)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise InvalidAmount('The amount must be a decimal string such as "100.50".')
    number = Decimal(value)
    # Bounded before any arithmetic: 1e999999999 must not be expanded to its digits.
    in_range = number.is_finite() and abs(number.adjusted()) <= 40 and len(number.as_tuple().digits) <= 80
    if not in_range:
        raise InvalidAmount("The amount is out of range.")
    return number


def format_amount(minor: int, currency: str) -> str:
    """Return `minor` as the decimal string the API speaks: 10050 USD is "100.50", 7 JPY is "7"."""
    exponent = EXPONENTS[currency]
    sign, digits = ("-" if minor < 0 else ""), str(abs(minor)).rjust(exponent + 1, "0")
    return f"{sign}{digits[:-exponent]}.{digits[-exponent:]}" if exponent else f"{sign}{digits}"
