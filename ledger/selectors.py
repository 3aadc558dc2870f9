"""Reading the ledger: heads, pages, moments."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from ledger.chain import Entry, Kind, from_document
from ledger.documents import LedgerEntry
from payflow.mongodb import collection, unavailable_is_transient

HEADS_MAX = 2_000


def read_heads(wallet_ids: Collection[str]) -> dict[str, Entry]:
    """Return the newest entry of each wallet that has one, in one round trip.

    `$sort` + `$group`/`$first` on the unique index runs as a DISTINCT_SCAN: it touches one key per wallet,
    however long the histories are.
    """
    if len(wallet_ids) > HEADS_MAX:
        raise ValueError(f"at most {HEADS_MAX} wallets at once")
    with unavailable_is_transient():
        rows = collection(LedgerEntry).aggregate(heads_pipeline(wallet_ids))
        return {row["_id"]: from_document(row["head"]) for row in rows}


def heads_pipeline(wallet_ids: Iterable[str]) -> list[dict]:
    """Return the aggregation behind `read_heads`; a test explains it."""
    return [
        {"$match": {"wallet_id": {"$in": list(wallet_ids)}}},
        {"$sort": {"wallet_id": -1, "sequence": -1}},
        {"$group": {"_id": "$wallet_id", "head": {"$first": "$$ROOT"}}},
    ]


def find_head(*, wallet_id: str) -> Entry | None:
    """Return the newest entry of a wallet; its balance is the wallet's balance."""
    return read_heads([wallet_id]).get(wallet_id)


def find_entries(operation_ids: Iterable[str]) -> dict[str, Entry]:
    """Return those of the operations that have an entry."""
    with unavailable_is_transient():
        rows = collection(LedgerEntry).find({"_id": {"$in": list(operation_ids)}})
        return {row["_id"]: from_document(row) for row in rows}


def find_entry(*, operation_id: str) -> Entry | None:
    """Return the entry of one operation."""
    return find_entries([operation_id]).get(operation_id)


def list_entries(
    *, wallet_id: str, limit: int, kind: Kind | None = None, before_sequence: int | None = None
) -> list[Entry]:
    """Return up to `limit` entries of a wallet, newest first."""
    query: dict = {"wallet_id": wallet_id}
    if kind:
        query["kind"] = kind.value
    if before_sequence is not None:
        query["sequence"] = {"$lt": before_sequence}
    with unavailable_is_transient():
        rows = collection(LedgerEntry).find(query).sort("sequence", -1).limit(limit)
        return [from_document(row) for row in rows]


def find_entry_at(*, wallet_id: str, at: datetime) -> Entry | None:
    """Return the wallet's newest entry not younger than `at`.

    Times never go back within a chain, so the newest by time is the newest by sequence too.
    """
    order = [("created_at", -1), ("sequence", -1)]
    with unavailable_is_transient():
        row = collection(LedgerEntry).find_one(
            {"wallet_id": wallet_id, "created_at": {"$lte": at}}, sort=order
        )
    return from_document(row) if row else None
