"""Reading the ledger: heads, pages, moments.

Invariants:
- An Entry that is returned was written by PayFlow: its hash covers its content, and its MAC proves the hash.
- Anything else is a BrokenEntry in `read_heads` and `read_entries`, so that it stops no other wallet. It
  never counts as an entry that is missing. The other functions raise Unreadable.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ledger.chain import Entry, Kind, digest, from_document
from ledger.documents import LedgerEntry
from ledger.errors import Unreadable
from ledger.keys import entry_mac_fault, ledger_keys
from ledger.reading import LENIENT
from ledger.verification import malformation
from payflow.money import INT64_MAX
from payflow.mongodb import collection, unavailable_is_transient

HEADS_MAX = 2_000


@dataclass(frozen=True, slots=True)
class BrokenEntry:
    """What is stored is no entry of PayFlow's, or one that no other can follow."""

    reason: str


def read_heads(wallet_ids: Collection[str]) -> dict[str, Entry | BrokenEntry]:
    """Return the newest entry of each wallet that has one, in one round trip.

    `$sort` + `$group`/`$first` on the unique index runs as a DISTINCT_SCAN: it touches one key per wallet,
    however long the histories are.
    """
    if len(wallet_ids) > HEADS_MAX:
        raise ValueError(f"at most {HEADS_MAX} wallets at once")
    with unavailable_is_transient():
        rows = _stored().aggregate(heads_pipeline(wallet_ids))
        heads: dict[str, Entry | BrokenEntry] = {}
        for row in rows:
            if isinstance(row["_id"], str):
                heads.setdefault(row["_id"], entry_in(row["head"]))
            else:
                # `$in` finds a list that holds the id.
                heads |= dict.fromkeys(
                    [id_ for id_ in wallet_ids if id_ in row["_id"]],
                    BrokenEntry("the wallet's id is no text"),
                )
        return heads


def heads_pipeline(wallet_ids: Iterable[str]) -> list[dict]:
    """Return the aggregation behind `read_heads`; a test explains it."""
    return [
        {"$match": {"wallet_id": {"$in": list(wallet_ids)}}},
        {"$sort": {"wallet_id": -1, "sequence": -1}},
        {"$group": {"_id": "$wallet_id", "head": {"$first": "$$ROOT"}}},
    ]


def find_head(*, wallet_id: str) -> Entry | None:
    """Return the newest entry of a wallet; its balance is the wallet's balance. Raises Unreadable."""
    return find_heads([wallet_id]).get(wallet_id)


def find_heads(wallet_ids: Collection[str]) -> dict[str, Entry]:
    """Return the newest entry of each wallet that has one. Raises Unreadable."""
    return {id_: _readable(head) for id_, head in read_heads(wallet_ids).items()}


def read_entries(operation_ids: Iterable[str]) -> dict[str, Entry | BrokenEntry]:
    """Return what is stored of those operations that have an entry."""
    with unavailable_is_transient():
        rows = _stored().find({"_id": {"$in": list(operation_ids)}})
        return {row["_id"]: entry_in(row) for row in rows}


def find_entries(operation_ids: Iterable[str]) -> dict[str, Entry]:
    """Return those of the operations that have an entry. Raises Unreadable."""
    return {id_: _readable(entry) for id_, entry in read_entries(operation_ids).items()}


def find_entry(*, operation_id: str) -> Entry | None:
    """Return the entry of one operation."""
    return find_entries([operation_id]).get(operation_id)


def list_entries(
    *, wallet_id: str, limit: int, kind: Kind | None = None, before_sequence: int | None = None
) -> list[Entry]:
    """Return up to `limit` entries of a wallet, newest first. Raises Unreadable."""
    rows = list_documents(wallet_id=wallet_id, limit=limit, kind=kind, before_sequence=before_sequence)
    return [_readable(entry_in(row)) for row in rows]


def list_documents(
    *, wallet_id: str, limit: int, kind: Kind | None = None, before_sequence: int | None = None
) -> list[dict[str, Any]]:
    """Return up to `limit` stored documents of a wallet, newest first; each has a number as `sequence`."""
    # The type: what has no number has no place on any page.
    query: dict[str, Any] = {"wallet_id": wallet_id, "sequence": {"$lte": INT64_MAX}}
    if kind:
        query["kind"] = kind.value
    if before_sequence is not None:
        query["sequence"] = {"$lt": before_sequence}
    with unavailable_is_transient():
        return list(_stored().find(query).sort("sequence", -1).limit(limit))


def find_entry_at(*, wallet_id: str, at: datetime) -> Entry | None:
    """Return the wallet's newest entry not younger than `at`.

    Times never go back within a chain, so the newest by time is the newest by sequence too.
    """
    order = [("created_at", -1), ("sequence", -1)]
    with unavailable_is_transient():
        row = _stored().find_one({"wallet_id": wallet_id, "created_at": {"$lte": at}}, sort=order)
    return _readable(entry_in(row)) if row else None


def _stored() -> Any:
    return collection(LedgerEntry).with_options(codec_options=LENIENT)


def entry_in(document: dict[str, Any]) -> Entry | BrokenEntry:
    """Return the entry that a stored document holds, if PayFlow has written it and another can follow."""
    if reason := malformation(document):
        return BrokenEntry(reason)
    if not 0 < document["sequence"] < INT64_MAX:
        return BrokenEntry(f"nothing can follow sequence {document['sequence']}")
    entry = from_document(document)
    if digest(entry) != entry.hash:
        return BrokenEntry("its hash does not cover it")
    if reason := entry_mac_fault(document, ledger_keys()):
        return BrokenEntry(reason)
    return entry


def _readable(entry: Entry | BrokenEntry) -> Entry:
    if isinstance(entry, BrokenEntry):
        raise Unreadable
    return entry
