"""Serializer pieces: strict objects, amounts, currencies, times."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rest_framework import serializers

from payflow import clock, money
from payflow.api.describing import CURRENCY

UNKNOWN_TOLD_MAX = 10
UNKNOWN_LENGTH_MAX = 64
ID_PATTERN = "[A-Za-z0-9_.:-]{1,160}"


class StrictSerializer(serializers.Serializer):
    """A body or a query that refuses names it does not know: a typing error must not change what moves, nor
    widen what is shown."""

    def to_internal_value(self, data: Any) -> Any:
        """Validate `data`; unknown names become errors beside the others."""
        if isinstance(data, Mapping):
            unknown = set(data) - set(self.fields)
            if unknown:
                raise serializers.ValidationError(_no_such_fields(sorted(unknown)))
        return super().to_internal_value(data)


def _no_such_fields(names: list[str]) -> dict[str, list[serializers.ErrorDetail]]:
    """Return the errors for unknown names: few and short, as a batch keeps them for each of its transfers."""
    told = {name[:UNKNOWN_LENGTH_MAX]: "There is no such field." for name in names[:UNKNOWN_TOLD_MAX]}
    if more := names[UNKNOWN_TOLD_MAX:]:
        told[more[0][:UNKNOWN_LENGTH_MAX]] = f"There is no such field, and {len(more) - 1} more are unknown."
    return {name: [serializers.ErrorDetail(text, "unknown_field")] for name, text in told.items()}


class StrictCharField(serializers.CharField):
    """A string that must be a JSON string: numbers and booleans are not quietly converted."""

    def to_internal_value(self, data: Any) -> str:
        """Return the trimmed string."""
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


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


class TimeField(serializers.DateTimeField):
    """A time with its offset (RFC 3339)."""

    json_schema = {"type": "string", "format": "date-time"}
    default_error_messages = {
        "naive": "The time needs its offset, e.g. 2026-01-31T09:30:00Z.",
        "out_of_range": "The time must lie in the years 1 to 9999 of UTC.",
    }

    def to_internal_value(self, value: Any) -> datetime:
        """Return the time in UTC; digits of other scripts are not digits here."""
        if not (isinstance(value, str) and value.isascii()):
            self.fail("invalid", format="YYYY-MM-DDThh:mm:ss[.uuuuuu]+HH:MM|-HH:MM|Z")
        return super().to_internal_value(value)

    def enforce_timezone(self, value: datetime) -> datetime:
        """Return the time in UTC; refuse one that does not say where it is."""
        if value.tzinfo is None:
            self.fail("naive")
        try:
            return value.astimezone(UTC)
        except OverflowError:
            return self.fail("out_of_range")

    def to_representation(self, value: Any) -> str | None:
        """Return RFC 3339 in UTC with milliseconds."""
        return clock.rfc3339(value) if value else None
