"""A transaction as the world sees it: the API's answers and the events' data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from payflow import clock
from payflow.money import AMOUNT_MINOR_MAX, format_amount
from payflow.stored_data import (
    Check,
    is_count,
    is_currency,
    is_text,
    is_time,
    one_of,
    optional,
    require,
)
from transfers.states import Status

Row = Mapping[str, Any]
_is_status = one_of(*(status.value for status in Status))


def _is_failure(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and is_text(value.get("code"))
        and is_text(value.get("detail"))
        and isinstance(value.get("refunded"), bool)
    )


def _is_history(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_move, value))


def _is_move(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _is_status(value.get("status"))
        and is_time(value.get("at"))
        and optional(is_text)(value.get("reason", 0))
    )


_CHECKS: dict[str, Check] = {
    "_id": is_text,
    "sender_id": is_text,
    "receiver_id": is_text,
    "amount_minor": lambda value: is_count(value) and 0 < value <= AMOUNT_MINOR_MAX,
    "currency": is_currency,
    "status": _is_status,
    "description": optional(is_text),
    "reference": optional(is_text),
    "batch_id": optional(is_text),
    "failure": optional(_is_failure),
    "history": _is_history,
    "initiated_at": is_time,
    "completed_at": optional(is_time),
}


def check(row: Row) -> Row:
    """Return a stored transaction that can be shown. Raises StoredDataInvalid."""
    require("transactions", row, _CHECKS)
    return row


def checked_body(row: Row) -> dict[str, Any]:
    """Return the representation of a stored transaction, for the API. Raises StoredDataInvalid."""
    return transaction_body(check(row))


def transaction_body(row: Row) -> dict[str, Any]:
    """Return the representation of a good transaction. Events are made of it too, twenty a transfer."""
    failure = row.get("failure")
    return {
        "id": row["_id"],
        "sender_id": row["sender_id"],
        "receiver_id": row["receiver_id"],
        "amount": format_amount(row["amount_minor"], row["currency"]),
        "currency": row["currency"],
        "status": row["status"],
        "description": row.get("description") or None,
        "reference": row.get("reference"),
        "batch_id": row.get("batch_id"),
        "failure": {name: failure[name] for name in ("code", "detail", "refunded")} if failure else None,
        "history": [
            {"status": move["status"], "at": clock.rfc3339(move["at"]), "reason": move["reason"] or None}
            for move in row["history"]
        ],
        "initiated_at": clock.rfc3339(row["initiated_at"]),
        "completed_at": clock.rfc3339(row["completed_at"]) if row.get("completed_at") else None,
    }


def as_initiated(row: Row) -> Row:
    """Return the transaction as it was first answered, for a repeat that must get the same body."""
    first = {"status": Status.INITIATED.value, "history": row["history"][:1]}
    return {**row, **first, "failure": None, "completed_at": None}
