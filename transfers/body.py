"""A transaction as the world sees it: the API's answers and the events' data. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from payflow import clock
from payflow.money import format_amount
from transfers.states import Status

Row = Mapping[str, Any]


def transaction_body(row: Row) -> dict[str, Any]:
    """Return the representation of a stored transaction."""
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
