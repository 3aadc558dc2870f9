"""Transactions as the ledger's audit needs them: the ledger may not import this app, so it is handed them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any

from ledger.keys import INSTRUCTION_FIELDS, transaction_mac_fault
from ledger.reading import LENIENT, read_ahead
from ledger.verification import TransactionFact
from payflow import clock
from payflow.mongodb import collection, unavailable_is_transient
from transfers.documents import Transaction
from transfers.states import TERMINAL
from wallets import selectors as wallets

BATCH_TRANSACTIONS = 1_000
_FIELDS = (
    *INSTRUCTION_FIELDS,
    "key_id",
    "mac",
    "status",
    "settlement",
    "failure.refunded",
    "due_at",
)
# Recovery never puts a transaction off for so long.
DUE_AHEAD_SECONDS_MAX = 86_400.0
# Every type an id can have that is no text.
_NO_TEXT = ["number", "object", "binData", "objectId", "bool", "date", "null", "regex", "timestamp"]


class StoredTransactions:
    """Every transaction there is, read as a stream: see `ledger.crosscheck.Transactions`."""

    def stream(self, *, wallet_id: str | None) -> Iterator[TransactionFact]:
        """Yield every transaction, or those that name a wallet, in order of its id."""
        query = {} if wallet_id is None else _naming(wallet_id)
        stored = collection(Transaction).with_options(codec_options=LENIENT)
        cursor = stored.find(query, _FIELDS, batch_size=BATCH_TRANSACTIONS).sort("_id", 1)
        with unavailable_is_transient():
            for rows in read_ahead(cursor):
                yield from map(_fact, rows)

    def page(self, *, before: str | None, limit: int) -> list[TransactionFact]:
        """Return up to `limit` transactions with an id below `before`, in descending order of their ids."""
        query = {"_id": {"$type": "string"}} if before is None else {"_id": {"$lt": before}}
        return self._read(query, limit)

    def has_odd_ids(self) -> bool:
        """Say whether there are transactions whose id is no text, so that no page shows them."""
        return bool(self._read({"_id": {"$type": _NO_TEXT}}, 1))

    def _read(self, query: dict[str, Any], limit: int) -> list[TransactionFact]:
        with unavailable_is_transient():
            rows = collection(Transaction).with_options(codec_options=LENIENT).find(query, _FIELDS)
            return [_fact(row) for row in rows.sort("_id", -1).limit(limit)]

    def find(self, transaction_ids: Collection[str]) -> dict[str, TransactionFact]:
        """Return those of the transactions that exist."""
        query = {"_id": {"$in": list(transaction_ids)}}
        with unavailable_is_transient():
            rows = collection(Transaction).with_options(codec_options=LENIENT).find(query, _FIELDS)
            return {row["_id"]: _fact(row) for row in rows}


def _naming(wallet_id: str) -> dict[str, Any]:
    """Select by the wallet's owner too: that is what the indexes know."""
    wallet = wallets.find_wallet_by_id(wallet_id=wallet_id)
    owner = (
        {"sender": {"sender_id": wallet.user_id}, "receiver": {"receiver_id": wallet.user_id}}
        if wallet
        else {}
    )
    sides = ({f"{side}_wallet_id": wallet_id, **owner.get(side, {})} for side in ("sender", "receiver"))
    return {"$or": list(sides)}


def _fact(row: dict[str, Any]) -> TransactionFact:
    """Whatever a row holds must arrive: the audit judges it."""
    status = str(row.get("status", ""))
    return TransactionFact(
        id=str(row["_id"]),
        status=status,
        settlement=row.get("settlement"),
        amount_minor=row.get("amount_minor", 0),
        currency=row.get("currency", ""),
        sender_wallet_id=row.get("sender_wallet_id", ""),
        receiver_wallet_id=row.get("receiver_wallet_id", ""),
        refunded=_is_refunded(row.get("failure")),
        mac_fault=transaction_mac_fault(row),
        is_odd=not isinstance(row["_id"], str),
        is_abandoned=status not in TERMINAL and not _is_due(row.get("due_at")),
    )


def _is_refunded(failure: Any) -> bool:
    """Say whether a stored failure says that the money was refunded."""
    return isinstance(failure, dict) and bool(failure.get("refunded"))


def _is_due(due_at: Any) -> bool:
    """Say whether recovery looks at a transaction with this due time sooner or later."""
    return isinstance(due_at, datetime) and due_at < clock.after(clock.now(), DUE_AHEAD_SECONDS_MAX)
