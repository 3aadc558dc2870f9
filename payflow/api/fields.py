"""Serializer pieces: strict objects, visible text, ids, numbers, amounts, currencies, times."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rest_framework import serializers

from payflow import clock, money, text
from payflow.api.describing import CURRENCY

UNKNOWN_TOLD_MAX = 10
UNKNOWN_LENGTH_MAX = 64


class StrictSerializer(serializers.Serializer):
    """A body or a query that refuses names it does not know: a typing error must not change what moves, nor
    widen what is shown."""

    def to_internal_value(self, data: Any) -> Any:
        """Validate `data`; unknown names become errors beside the others."""
        if isinstance(data, Mapping):
            unknown = set(data) - set(self.fields)
            if unknown:
                raise serializers.ValidationError(no_such_fields(sorted(unknown)))
        return super().to_internal_value(data)


def no_such_fields(names: list[str]) -> dict[str, list[serializers.ErrorDetail]]:
    """Return the errors for unknown names: few and short, as a batch keeps them for each of its transfers."""
    told = {name[:UNKNOWN_LENGTH_MAX]: "There is no such field." for name in names[:UNKNOWN_TOLD_MAX]}
    if more := names[UNKNOWN_TOLD_MAX:]:
        told[more[0][:UNKNOWN_LENGTH_MAX]] = f"There is no such field, and {len(more) - 1} more are unknown."
    return {name: [serializers.ErrorDetail(why, "unknown_field")] for name, why in told.items()}


class StrictCharField(serializers.CharField):
    """A JSON string, exactly as sent: nothing is converted to one, and no blanks around it are dropped."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"trim_whitespace": False, **kwargs})

    def to_internal_value(self, data: Any) -> str:
        """Return the string."""
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class NameField(StrictCharField):
    """A name in any script, on one line, without the blanks around it (`payflow.text.is_name`)."""

    default_error_messages = {"invalid_name": "The name must be visible text on one line."}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trim_whitespace=True, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        """Return the trimmed name in its composed form (Unicode NFC)."""
        name = unicodedata.normalize("NFC", super().to_internal_value(data))
        if not text.is_name(name):
            self.fail("invalid_name")
        return name


class IdField(StrictCharField):
    """The id of something. Another text is nobody's id, but one with blanks in it is a mistake."""

    default_error_messages = {"invalid_id": "An id has no blanks in it or around it."}

    def to_internal_value(self, data: Any) -> str:
        """Return the id."""
        id_ = super().to_internal_value(data)
        if any(character.isspace() for character in id_):
            self.fail("invalid_id")
        return id_


class NumberField(serializers.Field):
    """A whole number in a query: plain ASCII digits, without sign, blanks or leading zeros."""

    default_error_messages = {"invalid": "A whole number from {minimum} to {maximum} is required."}

    def __init__(self, *, minimum: int, maximum: int, **kwargs: Any) -> None:
        self.minimum, self.maximum = minimum, maximum
        self.json_schema = {"type": "integer", "minimum": minimum, "maximum": maximum}
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> int:
        """Return the number; Python's own reading would take `1_0` and digits of other scripts, too."""
        number = text.read_number(data, minimum=self.minimum, maximum=self.maximum)
        if number is None:
            raise self.fail("invalid", minimum=self.minimum, maximum=self.maximum)
        return number


class FlagField(serializers.Field):
    """JSON's true or false: words and numbers are not quietly converted."""

    json_schema = {"type": "boolean"}
    default_error_messages = {"invalid": "Must be true or false."}

    def to_internal_value(self, data: Any) -> bool:
        """Return the flag."""
        if not isinstance(data, bool):
            self.fail("invalid")
        return data


class NoInput(StrictSerializer):
    """A request whose body says nothing."""


class CurrencyField(StrictCharField):
    """An ISO 4217 code that PayFlow handles, in capitals."""

    json_schema = CURRENCY
    default_error_messages = {
        "unknown_currency": "This is not a currency PayFlow handles; use a code such as USD."
    }

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("max_length", 3)
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> str:
        """Return the code."""
        code = super().to_internal_value(data)
        if code not in money.EXPONENTS:
            self.fail("unknown_currency")
        return code


class RawAmountField(serializers.Field):
    """An amount as sent; it means something only beside its currency, so `in_minor_units` finishes it."""

    # A pattern says something of strings only, and a limit of numbers only.
    json_schema = {
        "type": ["string", "number"],
        "pattern": r"^(?!0+(\.0+)?$)[0-9]{1,40}(\.[0-9]{1,40})?$",
        "exclusiveMinimum": 0,
        "maximum": money.AMOUNT_MINOR_MAX,
        "description": "Greater than zero and no finer than the currency. Strings keep every digit.",
    }

    def to_internal_value(self, data: Any) -> Any:
        """Return the value untouched."""
        return data


def in_minor_units(amount: object, currency: str) -> int:
    """Return `amount` in minor units, or raise a ValidationError on the field `amount`."""
    try:
        return money.parse_amount(amount, currency)
    except money.InvalidAmount as error:
        raise serializers.ValidationError(
            {"amount": [serializers.ErrorDetail(error.detail, "invalid_amount")]}
        ) from error


class TimeField(serializers.Field):
    """A time with its offset (RFC 3339)."""

    json_schema = {"type": "string", "format": "date-time"}
    default_error_messages = {
        "invalid": "Send a time of RFC 3339, such as 2026-01-31T09:30:00Z.",
        "naive": "The time needs its offset, e.g. 2026-01-31T09:30:00Z.",
        "out_of_range": "The time must lie in the years 1 to 9999 of UTC.",
    }

    def to_internal_value(self, data: Any) -> datetime:
        """Return the time in UTC."""
        if not isinstance(data, str):
            self.fail("invalid")
        try:
            return clock.read_rfc3339(data)
        except clock.NoOffset:
            return self.fail("naive")
        except clock.OutOfRange:
            return self.fail("out_of_range")
        except clock.NotATime:
            return self.fail("invalid")

    def to_representation(self, value: Any) -> str | None:
        """Return RFC 3339 in UTC with milliseconds."""
        return clock.rfc3339(value) if value else None
