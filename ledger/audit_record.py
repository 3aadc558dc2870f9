"""The audit's own record: its state, and with it the checkpoints and findings, as one whole under a MAC.

Who can write to the database, but has no ledger key, can change, delete or put back nothing of it unseen:
- One document, the state, is under a MAC. It holds, for the checkpoints and for the findings (the registers),
  how many there are and the sum of their MACs (modulo 2^256: a multiset hash that is updated in O(1)).
- Its counter only grows, and each document of a register carries the counter that it was written under.
  `ledger/seen.py` remembers the highest one outside the database.
- Round after round all documents of a register are added up again: one that is gone, was put back or slipped
  in makes another sum. Two rounds must agree on that, because one may have met a failover.

Invariants:
- The state is replaced only by a write that names the counter and the MAC that it follows: of two writers
  one is Overtaken. What a writer reads between two of its own writes is therefore what the state counts.
- The state is written ahead: it lists the changes to the registers that it counts already (`intent`), and
  whoever reads it next makes them before anything else. A process may die anywhere.
- A change names the MAC that it replaces, so a writer that was overtaken, or stopped for an hour, changes
  nothing.
- Documents of an earlier beginning do not count: accepting a new one is a single write.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import mongoengine
from pymongo import ReplaceOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from ledger import seen
from ledger.documents import AuditState, Checkpoint, Finding, LedgerEntry
from ledger.keys import is_known
from ledger.reading import committed
from ledger.sealing import seal, seal_fault, weight
from ledger.verification import Document
from payflow import clock
from payflow.crashpoints import crash_point
from payflow.mongodb import DUPLICATE_KEY_CODE, collection

logger = logging.getLogger(__name__)

STATE_ID = "latest"
CHECKPOINTS, FINDINGS = "checkpoints", "findings"
REGISTERS: dict[str, type[mongoengine.Document]] = {CHECKPOINTS: Checkpoint, FINDINGS: Finding}
# Just after an election a new primary may show less than the old one did: what looks older, or is not there,
# is read again after so long.
DOUBT_SECONDS = 5.0
BEGINNINGS_MAX = 20
_MODULUS = 1 << 256


class Unverified(Exception):  # noqa: N818 - it reads as what happened
    """The record is not what the audit has written last, so no verdict can rest on it."""


class Overtaken(Exception):  # noqa: N818 - it reads as what happened
    """Another writer was faster; what was about to be written is not."""


@dataclass(frozen=True, slots=True)
class Change:
    """A document of a register as it is to be, without what `seal` adds; `old` is what it replaces."""

    register: str
    old: Document | None
    new: Document


@dataclass(frozen=True, slots=True)
class Reading:
    """The state as it was read, and why it cannot be trusted.

    `may_pass`: perhaps it only cannot be seen yet.
    """

    state: Document | None
    fault: str = ""
    may_pass: bool = False


# --- Reading ----------------------------------------------------------------------------------------------


def read_state() -> Reading:
    """Return the state, and why it cannot be trusted."""
    # In this order: what is read afterwards is at least as new.
    highest = seen.highest()
    state = committed(AuditState).find_one({"_id": STATE_ID})
    if state is None:
        if not highest and _is_ledger_empty():
            return Reading(None)
        return Reading(None, "the audit's record is gone", may_pass=True)
    if fault := seal_fault("state", state):
        if not is_known(state):
            return Reading(state, f"the audit's record cannot be read: {fault}")
        return Reading(state, "the audit's record was altered: its MAC does not fit")
    if state["counter"] < highest:
        fault = f"the audit's record is older than one seen before ({state['counter']} after {highest})"
        return Reading(state, fault, may_pass=True)
    seen.note(state["counter"])
    return Reading(state)


def trusted_state() -> Document | None:
    """Return the state; None before the first entry. Waits where a doubt may pass. Raises Unverified."""
    reading = read_state()
    if reading.may_pass:
        time.sleep(DOUBT_SECONDS)
        reading = read_state()
    if reading.fault:
        raise Unverified(reading.fault)
    return reading.state


def load() -> Record:
    """Return the record, with all changes made that its state counts. Raises Unverified."""
    state = trusted_state()
    if state is None:
        ensure_begun()
        state = trusted_state()
    if state is None:
        raise Unverified("the audit's record could not be begun")
    record = Record(state)
    record.make_changes()
    return record


def _is_ledger_empty() -> bool:
    return committed(LedgerEntry).find_one({}, {"_id": 1}) is None


# --- Beginning --------------------------------------------------------------------------------------------


class _Begun:
    """Whether this process has seen to it that the record began."""

    is_done = False


def ensure_begun() -> None:
    """Begin the record if the ledger is empty. Whoever posts a first entry has called this before."""
    if _Begun.is_done:
        return
    # In this order: whoever has posted since has begun the record before.
    if _is_ledger_empty() and read_state() == Reading(None):
        now = clock.now()
        beginning = {"at": now, "by": "PayFlow", "reason": "the ledger was empty", "instead_of": ""}
        with suppress(DuplicateKeyError):
            collection(AuditState).insert_one(seal("state", new_state(1, 1, [beginning])))
    _Begun.is_done = True


def forget_that_it_began() -> None:
    """Have `ensure_begun` look again: for tests, which empty their database."""
    _Begun.is_done = False


def new_state(counter: int, beginning: int, beginnings: Sequence[Document]) -> dict[str, Any]:
    """Return a state in which nothing was verified yet, without its MAC."""
    empty: dict[str, Any] = {
        "count": 0,
        "sum": as_hex(0),
        "mismatches": 0,
        "scan": {"after": "", "count": 0, "sum": as_hex(0)},
    }
    return {
        "_id": STATE_ID,
        "counter": counter,
        "beginning": beginning,
        "beginnings": list(beginnings)[-BEGINNINGS_MAX:],
        "complete_since": None,
        "registers": {name: deepcopy(empty) for name in REGISTERS},
        "unverified": None,
        "position": {},
        "verdict": {},
        "intent": [],
    }


def begin_anew(*, by: str, reason: str, instead_of: str, changes: Sequence[Change]) -> None:
    """Begin the record anew, whatever it was: somebody has decided that the ledger is right as it is."""
    reading = read_state()
    genuine = reading.state if reading.state and not seal_fault("state", reading.state) else None
    now = clock.now()
    # Higher than whatever any process remembers, also where all that this one could ask is lost.
    counter = max(seen.highest(), genuine["counter"] if genuine else 0, clock.epoch_ms(now)) + 1
    before = genuine["beginnings"] if genuine else []
    beginnings = [*before, {"at": now, "by": by, "reason": reason, "instead_of": instead_of}]
    state = Record(new_state(counter, counter, beginnings)).following(changes, {})
    collection(AuditState).replace_one({"_id": STATE_ID}, state, upsert=True)
    seen.note(state["counter"])
    seen.share()
    for document in REGISTERS.values():
        collection(document).delete_many({"beginning": {"$ne": counter}})
    Record(state).make_changes()
    logger.warning("the audit begins anew", extra={"by": by, "reason": reason, "instead_of": instead_of})


# --- Writing ----------------------------------------------------------------------------------------------


class Record:
    """A state that was read, and the way to write the next one."""

    def __init__(self, state: Document) -> None:
        self.state: Document = state

    @property
    def beginning(self) -> int:
        """The beginning whose documents count."""
        beginning: int = self.state["beginning"]
        return beginning

    def commit(self, changes: Sequence[Change] = (), **fields: Any) -> None:
        """Write the next state with these fields, and make the changes. Raises Overtaken, Transient."""
        unmoved = {"_id": STATE_ID, "counter": self.state["counter"], "mac": self.state["mac"]}
        state = self.following(changes, fields)
        if not collection(AuditState).replace_one(unmoved, state).matched_count:
            raise Overtaken
        self.state = state
        seen.note(state["counter"])
        crash_point("audit.recorded")
        self.make_changes()
        crash_point("audit.changed")

    def make_changes(self) -> None:
        """Make the changes that the state counts already; those that are made stay as they are."""
        for name, document in REGISTERS.items():
            requests = [_request(item, self.beginning) for item in self.state["intent"] if item["in"] == name]
            if not requests:
                continue
            try:
                collection(document).bulk_write(requests, ordered=False)
            except BulkWriteError as error:
                failures = error.details.get("writeErrors", [])
                if any(failure["code"] != DUPLICATE_KEY_CODE for failure in failures):
                    raise

    def following(self, changes: Sequence[Change], fields: Mapping[str, Any]) -> Document:
        """Return the state that follows this one with some changes and fields."""
        counter = self.state["counter"] + 1
        state = {**self.state, **fields, "counter": counter, "intent": []}
        state["registers"] = deepcopy(state["registers"])
        for change in changes:
            marks = {"beginning": self.beginning, "counter": counter}
            new = seal(change.register, {**change.new, **marks})
            old = change.old if change.old and change.old.get("beginning") == self.beginning else None
            _recount(state["registers"][change.register], new["_id"], old, new)
            item = {"in": change.register, "old": old.get("mac") if old else None, "document": new}
            state["intent"].append(item)
        return seal("state", state)


def _recount(register: dict[str, Any], id_: str, old: Document | None, new: Document) -> None:
    """Count a change in a register's sum; in the scan's, too, where the scan has passed already."""
    for part in (register, register["scan"]):
        if part is register or id_ <= register["scan"]["after"]:
            part["count"] += old is None
            part["sum"] = as_hex(int(part["sum"], 16) + weight(new) - (weight(old) if old else 0))


def _request(item: Document, beginning: int) -> ReplaceOne[Any]:
    document = item["document"]
    if item["old"] is not None:
        return ReplaceOne({"_id": document["_id"], "mac": item["old"]}, document)
    # What is there of an earlier beginning is replaced; what is there of this one makes a duplicate key.
    return ReplaceOne({"_id": document["_id"], "beginning": {"$lt": beginning}}, document, upsert=True)


def as_hex(number: int) -> str:
    """Return a sum of MACs as it is stored."""
    return f"{number % _MODULUS:064x}"
