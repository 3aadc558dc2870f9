"""Checkpoints: up to where each wallet's chain has been verified, and which hash and balance stood there.

A chain of hashes cannot show that its newest entries are gone, nor that all of them were computed anew; a
checkpoint remembers what they were. What must stay true:
- Nobody who can write to the database but does not know the key can move a checkpoint: it is sealed
  (`ledger/sealing.py`). Nor can one vanish unseen: every wallet that had entries before `complete_since`,
  which is sealed as well, has one.
- It only moves forward: an update names the checkpoint that its writer has read.
- It is read before the entries that are compared with it. These only become more, so whatever it says about
  them was true before and must be true now.

What it cannot show: that somebody has put back an older copy of a checkpoint and, with it, a chain that was
computed anew from there. The transactions (L4, L7) and the receipts that people hold contradict such a chain.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any

from pymongo import InsertOne, UpdateOne
from pymongo.errors import BulkWriteError

from ledger import sealing
from ledger.documents import AuditState, Checkpoint, LedgerEntry
from ledger.keys import ledger_keys
from ledger.reading import committed
from ledger.verdict import Tally
from ledger.verification import Document, Fault, entry_faults, malformation
from payflow import clock
from payflow.mongodb import DUPLICATE_KEY_CODE, collection

PAGE_CHECKPOINTS = 200
STATE_ID = "latest"

_SIGNED = ("_id", "sequence", "hash", "balance_minor")


MISSING = Fault("L1", "the wallet's checkpoint is missing")


class Untrusted(Exception):  # noqa: N818 - it reads as what happened
    """The audit's own record is not what the audit has written, so nothing can be judged by it."""


# --- Reading and moving -----------------------------------------------------------------------------------


def find(wallet_ids: Collection[str]) -> dict[str, Document]:
    """Return the checkpoints of those wallets that have one."""
    return {row["_id"]: row for row in committed(Checkpoint).find({"_id": {"$in": list(wallet_ids)}})}


def page(*, after: str, limit: int) -> list[Document]:
    """Return up to `limit` checkpoints in order of their wallets' ids."""
    return list(committed(Checkpoint).find({"_id": {"$gt": after}}).sort("_id", 1).limit(limit))


def advance(moves: Sequence[tuple[Document | None, Document]], now: datetime) -> None:
    """Move each wallet's checkpoint from where it was read to an entry that was verified.

    Where somebody else has moved it meanwhile, that stands.
    """
    if not moves:
        return
    requests: list[Any] = []
    for known, entry in moves:
        content = _content(entry, now)
        if known is None:
            requests.append(InsertOne(content))
        else:
            unmoved = {"_id": known["_id"], "sequence": known["sequence"], "mac": known["mac"]}
            requests.append(UpdateOne(unmoved, {"$set": content}))
    try:
        collection(Checkpoint).bulk_write(requests, ordered=False)
    except BulkWriteError as error:
        if any(failure["code"] != DUPLICATE_KEY_CODE for failure in error.details.get("writeErrors", [])):
            raise


def put(entry: Document, now: datetime) -> None:
    """Set a wallet's checkpoint to an entry, whatever it was: staff have accepted the chain as it is."""
    content = _content(entry, now)
    collection(Checkpoint).replace_one({"_id": content["_id"]}, content, upsert=True)


def remove(wallet_id: str) -> None:
    """Forget a wallet's checkpoint: staff have accepted that it holds no entry."""
    collection(Checkpoint).delete_one({"_id": wallet_id})


def forget_all() -> None:
    """Forget every checkpoint: the next audits begin anew, from the ledger as it is then."""
    # The state first: without it no audit begins, so none can put new checkpoints between the old ones.
    collection(AuditState).delete_many({})
    collection(Checkpoint).delete_many({})


def _content(entry: Document, now: datetime) -> dict[str, Any]:
    content = {
        "_id": entry["wallet_id"],
        "sequence": entry["sequence"],
        "hash": entry["hash"],
        "balance_minor": entry["balance_minor"],
    }
    return {**content, "verified_at": now, **sealing.seal([content[name] for name in _SIGNED])}


# --- Judging ----------------------------------------------------------------------------------------------


def seal_fault(checkpoint: Document) -> Fault | None:
    """Return what is wrong with a checkpoint in itself."""
    values = [checkpoint.get(name) for name in _SIGNED]
    sealable = [value for value in values if isinstance(value, str | int)]
    if sealable == values and sealing.fits(checkpoint, sealable):
        return None
    if not sealing.is_known(checkpoint):
        return Fault("L1", "the checkpoint was sealed with a key that is not known here")
    return Fault("L1", "the checkpoint was altered: its seal does not fit")


def entry_fault(checkpoint: Document, entry: Document | None) -> Fault | None:
    """Return how a genuine checkpoint contradicts the entry that is stored at its sequence."""
    position = f"#{checkpoint['sequence']}"
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


# --- The seal over all of them ----------------------------------------------------------------------------


def sealed_state(complete_since: datetime | None) -> dict[str, Any]:
    """Return the sealed part of the audit's state."""
    return {"complete_since": complete_since, **sealing.seal(_state_values(complete_since))}


def trusted_state() -> Document | None:
    """Return the audit's state, None before the first audit. Raises Untrusted."""
    # In this order: whoever writes a first checkpoint has written the state before.
    has_checkpoints = committed(Checkpoint).find_one({}, {"_id": 1}) is not None
    state = committed(AuditState).find_one({"_id": STATE_ID})
    if state is None and has_checkpoints:
        raise Untrusted("the audit's own record is gone, but not the checkpoints")
    if state is None:
        return None
    since = state.get("complete_since")
    if not isinstance(since, datetime | None) or not sealing.fits(state, _state_values(since)):
        raise Untrusted(
            "the audit's own record was altered, or DJANGO_SECRET_KEY was changed and the old key is not "
            "in DJANGO_SECRET_KEY_FALLBACKS"
        )
    if since is not None and not has_checkpoints:
        raise Untrusted("every checkpoint is gone")
    return state


def _state_values(since: datetime | None) -> list[str | int]:
    return ["complete since", 0 if since is None else clock.epoch_ms(since)]


# --- For the full audit -----------------------------------------------------------------------------------


def compare(tally: Tally, *, wallet_id: str | None = None) -> None:
    """Report every checkpoint, or one wallet's, that was altered or that the ledger contradicts."""
    after = ""
    while True:
        found = (
            page(after=after, limit=PAGE_CHECKPOINTS) if wallet_id is None else [*find([wallet_id]).values()]
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

    def __init__(self, tally: Tally, since: datetime | None) -> None:
        self._tally = tally
        self._since = since
        self._waiting: dict[str, Document] = {}

    def meet(self, first: Document) -> None:
        """Note a chain's first entry; a page of them is looked up together."""
        if missing_fault(first, self._since):
            self._waiting[first["wallet_id"]] = first
        if len(self._waiting) >= PAGE_CHECKPOINTS:
            self.report()

    def report(self) -> None:
        """Look up those that were noted."""
        known = find(self._waiting) if self._waiting else {}
        for wallet_id, first in self._waiting.items():
            fault = missing_fault(first, self._since)
            if wallet_id not in known and fault:
                self._tally.report(fault, first)
        self._waiting = {}
