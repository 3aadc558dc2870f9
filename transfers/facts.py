"""Transactions as the ledger's audit needs them: the ledger may not import this app, so it is handed them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from ledger.reading import read_ahead
from ledger.verification import TransactionFact
from payflow.mongodb import collection, unavailable_is_transient
from transfers.documents import Transaction
from wallets import selectors as wallets

BATCH_TRANSACTIONS = 1_000
_FIELDS = (
    "status",
    "settlement",
    "amount_minor",
    "currency",
    "sender_wallet_id",
    "receiver_wallet_id",
    "failure.refunded",
)


class StoredTransactions:
    """Every transaction there is, read as a stream: see `ledger.crosscheck.Transactions`."""

    def stream(self, *, wallet_id: str | None) -> Iterator[TransactionFact]:
        """Yield every transaction, or those that name a wallet, in order of its id."""
        query = {} if wallet_id is None else _naming(wallet_id)
        cursor = collection(Transaction).find(query, _FIELDS, batch_size=BATCH_TRANSACTIONS).sort("_id", 1)
        with unavailable_is_transient():
            for rows in read_ahead(cursor):
                yield from map(_fact, rows)

    def find(self, transaction_ids: Collection[str]) -> dict[str, TransactionFact]:
        """Return those of the transactions that exist."""
        query = {"_id": {"$in": list(transaction_ids)}}
        with unavailable_is_transient():
            rows = collection(Transaction).find(query, _FIELDS)
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
    return TransactionFact(
        id=str(row["_id"]),
        status=row.get("status", ""),
        settlement=row.get("settlement"),
        amount_minor=row.get("amount_minor", 0),
        currency=row.get("currency", ""),
        sender_wallet_id=row.get("sender_wallet_id", ""),
        receiver_wallet_id=row.get("receiver_wallet_id", ""),
        refunded=bool((row.get("failure") or {}).get("refunded")),
    )
