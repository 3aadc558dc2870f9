"""Proof: the saga acts only on what a MAC proves, never on what a transaction merely says.

Anybody who can write to the database can write a transaction. Only PayFlow can make the MAC over what it
orders, or a ledger entry with a good MAC.

Invariants:
- A transaction is driven or announced only when its MAC proves what it orders.
- It is credited, refunded, completed or announced only when its entries prove how far it is.
- A transaction that is not proven is logged, flagged for staff and left as it is.
- A race raises no alarm: a contradiction counts only if the transaction did not move while it was read.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ledger import selectors as ledger
from ledger.chain import Entry, Kind
from ledger.keys import transaction_mac_fault
from ledger.selectors import BrokenEntry
from transfers.moves import Row, flag, ids_of
from transfers.selectors import load, log_ids
from transfers.states import Settlement, Status

logger = logging.getLogger(__name__)

Entries = Mapping[str, Entry | BrokenEntry]
# The kinds that the entry of an operation can have.
_KINDS = {"debit": (Kind.DEBIT, Kind.DECLINED), "credit": (Kind.CREDIT,), "refund": (Kind.REFUND,)}


def genuine(rows: list[Row]) -> list[Row]:
    """Return the rows whose MAC proves what they order; flag the others. Raises Transient."""
    return _without(rows, mac_faults(rows))


def mac_faults(rows: list[Row]) -> dict[str, str]:
    """Return for each row whose MAC does not prove what it orders, by id, why. Pure but for the keys."""
    return {row["_id"]: fault for row in rows if (fault := transaction_mac_fault(row))}


def proven(rows: list[Row]) -> list[Row]:
    """Return the rows whose entries bear out what they say; flag the others. Raises Transient.

    The rows must have been loaded just now.
    """
    rows = genuine(rows)
    if not rows:
        return []
    entries = ledger.read_entries(f"{row['_id']}:{each}" for row in rows for each in _operations(row))
    faults = {row["_id"]: fault for row in rows if (fault := contradiction(row, entries))}
    return _without(rows, faults)


def contradiction(row: Row, entries: Entries) -> str:
    """Return why a transaction's entries do not bear it out, or an empty string. Pure."""
    required, excluded = _demands(row)
    for operation, kind in required.items():
        if fault := entry_fault(row, operation, entries.get(f"{row['_id']}:{operation}"), kind):
            return fault
    for operation in excluded:
        if f"{row['_id']}:{operation}" in entries:
            return f"there is a {operation} as well"
    return ""


def entry_fault(row: Row, operation: str, entry: Entry | BrokenEntry | None, kind: Kind | None = None) -> str:
    """Return why an entry is not a transaction's debit, credit or refund, or an empty string. Pure.

    With `kind` it must be of that kind, else of any kind that the operation can have.
    """
    if entry is None:
        return f"there is no {operation}"
    if isinstance(entry, BrokenEntry):
        return f"the {operation} is not as PayFlow has written it: {entry.reason}"
    kinds = (kind,) if kind else _KINDS[operation]
    wallet_id = row["receiver_wallet_id" if operation == "credit" else "sender_wallet_id"]
    if entry.kind not in kinds or (entry.wallet_id, entry.requested_minor, entry.currency) != (
        wallet_id,
        row["amount_minor"],
        row["currency"],
    ):
        return (
            f"the {operation} is a {entry.kind} of {entry.requested_minor} {entry.currency}"
            f" in wallet {entry.wallet_id}"
        )
    return ""


def _demands(row: Row) -> tuple[dict[str, Kind], tuple[str, ...]]:
    """Return which operations a transaction must have, each with its kind, and which it must not have."""
    match row["status"]:
        case Status.DEBITED:
            is_decided = row.get("settlement") == Settlement.CREDIT
            return {"debit": Kind.DEBIT}, ("refund",) if is_decided else ("credit", "refund")
        case Status.CREDITED | Status.COMPLETED:
            # Its debit was proven before the credit was posted, and only PayFlow posts.
            return {"credit": Kind.CREDIT}, ("refund",)
        case Status.REFUNDING:
            return {"debit": Kind.DEBIT}, ("credit",)
        case Status.FAILED if _is_refunded(row.get("failure")):
            return {"debit": Kind.DEBIT, "refund": Kind.REFUND}, ("credit",)
        case Status.FAILED:
            return {"debit": Kind.DECLINED}, ("credit", "refund")
        case _:
            return {}, ("credit", "refund")


def _operations(row: Row) -> list[str]:
    """Return the operations whose entries decide whether a transaction is proven."""
    required, excluded = _demands(row)
    return [*required, *excluded]


def _is_refunded(failure: Any) -> bool:
    return isinstance(failure, Mapping) and bool(failure.get("refunded"))


def _without(rows: list[Row], faults: Mapping[str, str]) -> list[Row]:
    if not faults:
        return rows
    set_aside(rows, faults)
    return [row for row in rows if row["_id"] not in faults]


def set_aside(rows: list[Row], faults: Mapping[str, str]) -> int:
    """Log and flag the rows that have a fault, by id, and did not move meanwhile: others may drive them.

    Return how many had not been flagged. Raises Transient.
    """
    flagged = 0
    wrong = [row for row in rows if row["_id"] in faults]
    stored = {row["_id"]: row for row in load(ids_of(wrong))}
    for row in wrong:
        current = stored.get(row["_id"], {})
        if [current.get(name) for name in ("status", "settlement")] == [row["status"], row.get("settlement")]:
            extra = {**log_ids(row), "reason": faults[row["_id"]]}
            logger.error("transaction not proven; it is not driven", extra=extra)
            flagged += flag([row], "not proven")
    return flagged
