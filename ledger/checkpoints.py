"""Checkpoints: up to where each wallet's chain has been verified, and which hash and balance stood there.

A chain of hashes cannot show that its newest entries are gone, nor that all of them were computed anew by
somebody who has the ledger's keys. A checkpoint remembers what they were. What must stay true:
- It is a part of the audit's record (`ledger/audit_record.py`): nobody who can merely write to the database
  changes, deletes or puts back one unseen. And where one is gone, the wallet can be named: every wallet that
  had entries before `complete_since` has one.
- It is read before the entries that are compared with it. These only become more, so whatever it says about
  them was true before and must be true now.
- One with sequence 0 says that staff have accepted that the wallet holds no entry.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime

from ledger.audit_record import CHECKPOINTS, Change
from ledger.chain import GENESIS_HASH
from ledger.documents import Checkpoint, LedgerEntry
from ledger.keys import is_known, ledger_keys
from ledger.reading import committed
from ledger.sealing import seal_fault as seal_fault_of
from ledger.verdict import Tally
from ledger.verification import Document, Fault, entry_faults, malformation

PAGE_CHECKPOINTS = 200
MISSING = Fault("L1", "the wallet's checkpoint is missing")


# --- Reading and moving -----------------------------------------------------------------------------------


def find(wallet_ids: Collection[str], beginning: int) -> dict[str, Document]:
    """Return the checkpoints of those wallets that have one."""
    query = {"_id": {"$in": list(wallet_ids)}, "beginning": beginning}
    return {row["_id"]: row for row in committed(Checkpoint).find(query)}


def page(beginning: int, *, after: str, limit: int) -> list[Document]:
    """Return up to `limit` checkpoints in order of their wallets' ids."""
    query = {"_id": {"$gt": after}, "beginning": beginning}
    return list(committed(Checkpoint).find(query).sort("_id", 1).limit(limit))


def move(known: Document | None, entry: Document, now: datetime) -> Change:
    """Return the change that moves a wallet's checkpoint to an entry that was verified."""
    new = {
        "_id": entry["wallet_id"],
        "sequence": entry["sequence"],
        "hash": entry["hash"],
        "balance_minor": entry["balance_minor"],
        "verified_at": now,
    }
    return Change(CHECKPOINTS, known, new)


def empty(known: Document | None, wallet_id: str, now: datetime) -> Change:
    """Return the change that notes that a wallet holds no entry: staff have accepted that."""
    none = {"wallet_id": wallet_id, "sequence": 0, "hash": GENESIS_HASH, "balance_minor": 0}
    return move(known, none, now)


# --- Judging ----------------------------------------------------------------------------------------------


def seal_fault(checkpoint: Document) -> Fault | None:
    """Return what is wrong with a checkpoint in itself."""
    if not seal_fault_of(CHECKPOINTS, checkpoint):
        return None
    if not is_known(checkpoint):
        return Fault("L1", "the checkpoint's MAC was made with a key that is not known here")
    return Fault("L1", "the checkpoint was altered: its MAC does not fit")


def entry_fault(checkpoint: Document, entry: Document | None) -> Fault | None:
    """Return how a genuine checkpoint contradicts the entry that is stored at its sequence."""
    position = f"#{checkpoint['sequence']}"
    if checkpoint["sequence"] == 0 and entry is None:
        return None
    if entry is None:
        return Fault("L1", f"{position} was verified and is gone: the tail was cut, or the entry deleted")
    if reason := malformation(entry):
        return Fault("L1", reason)
    for fault in entry_faults(entry, ledger_keys()):
        return fault
    if entry["hash"] != checkpoint["hash"] or entry["balance_minor"] != checkpoint["balance_minor"]:
        return Fault("L1", f"{position} is not the entry that was verified: the chain was computed anew")
    return None


def missing_fault(first: Document, complete_since: datetime | None) -> Fault | None:
    """Return what is wrong about a wallet that begins with this entry and has no checkpoint."""
    if complete_since is None or first["created_at"] >= complete_since:
        return None
    return MISSING


# --- For the full audit -----------------------------------------------------------------------------------


def compare(tally: Tally, beginning: int, *, wallet_id: str | None = None) -> None:
    """Report every checkpoint, or one wallet's, that was altered or that the ledger contradicts."""
    after = ""
    while True:
        found = (
            page(beginning, after=after, limit=PAGE_CHECKPOINTS)
            if wallet_id is None
            else [*find([wallet_id], beginning).values()]
        )
        for checkpoint, fault in _contradictions(found):
            where = {"wallet_id": checkpoint["_id"], "sequence": checkpoint.get("sequence")}
            tally.report(fault, where)
        if wallet_id is not None or len(found) < PAGE_CHECKPOINTS:
            return
        after = found[-1]["_id"]


def _contradictions(found: Sequence[Document]) -> Iterator[tuple[Document, Fault]]:
    faults = {checkpoint["_id"]: seal_fault(checkpoint) for checkpoint in found}
    genuine = [checkpoint for checkpoint in found if faults[checkpoint["_id"]] is None]
    places = [{"wallet_id": c["_id"], "sequence": c["sequence"]} for c in genuine]
    rows = committed(LedgerEntry).find({"$or": places}) if places else ()
    entries = {row["wallet_id"]: row for row in rows}
    for checkpoint in found:
        wallet_id = checkpoint["_id"]
        fault = faults[wallet_id] or entry_fault(checkpoint, entries.get(wallet_id))
        if fault:
            yield checkpoint, fault


class MissingCheckpoints:
    """Tells of wallets without a checkpoint, as the full audit comes upon their first entries."""

    def __init__(self, tally: Tally, state: Document | None) -> None:
        self._tally = tally
        self._since: datetime | None = state["complete_since"] if state else None
        self._beginning: int = state["beginning"] if state else 0
        self._waiting: dict[str, Document] = {}

    def meet(self, first: Document) -> None:
        """Note a chain's first entry; a page of them is looked up together."""
        if missing_fault(first, self._since):
            self._waiting[first["wallet_id"]] = first
        if len(self._waiting) >= PAGE_CHECKPOINTS:
            self.report()

    def report(self) -> None:
        """Look up those that were noted."""
        known = find(self._waiting, self._beginning) if self._waiting else {}
        for wallet_id, first in self._waiting.items():
            fault = missing_fault(first, self._since)
            if wallet_id not in known and fault:
                self._tally.report(fault, first)
        self._waiting = {}
