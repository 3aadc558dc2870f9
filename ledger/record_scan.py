"""Adding the audit's record up again: are its checkpoints and findings those that its state counts?

The continuous audit takes some of them a tick and needs no snapshot: what a commit changes where the scan has
passed already changes the scan's sum as well. The full audit reads them all at once.
"""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from ledger.audit_record import FINDINGS, REGISTERS, Record, as_hex, trusted_state
from ledger.reading import committed
from ledger.sealing import seal_fault, weight
from ledger.verification import Document

# One scan may have met a failover.
MISMATCHES_MIN = 2
COMPARE_ATTEMPTS = 5
COMPARE_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Scan:
    """The next documents of a register, the register as the state is to have it, and what they disprove."""

    documents: list[Document]
    register: dict[str, Any]
    fault: str


def scan(record: Record, name: str, limit: int) -> Scan:
    """Add up the next documents of a register; at the end compare the sum with the one in the state."""
    register = deepcopy(record.state["registers"][name])
    part = register["scan"]
    rows = committed(REGISTERS[name]).find({"_id": {"$gt": part["after"]}}).sort("_id", 1).limit(limit)
    documents = list(rows)
    current = []
    fault = ""
    for document in documents:
        if document.get("beginning") == record.beginning:
            current.append(document)
        if _is_newer(document, record.state) and not seal_fault(name, document):
            fault = f"the audit's record is older than its {name}"
    part["count"] += len(current)
    part["sum"] = as_hex(int(part["sum"], 16) + sum(map(weight, current)))
    if len(documents) == limit:
        part["after"] = documents[-1]["_id"]
        return Scan(current, register, fault)
    is_right = (part["count"], part["sum"]) == (register["count"], register["sum"])
    register["mismatches"] = 0 if is_right else register["mismatches"] + 1
    register["scan"] = {"after": "", "count": 0, "sum": as_hex(0)}
    if register["mismatches"] >= MISMATCHES_MIN:
        fault = fault or mismatch(name)
    return Scan(current, register, fault)


def mismatch(name: str) -> str:
    """Return what it means that a register's documents are not those that the state counts."""
    return f"the {name} are not those that the audit has written: some were deleted, put back or added"


def _is_newer(document: Document, state: Document) -> bool:
    marks = [document.get("beginning"), document.get("counter")]
    if not all(isinstance(mark, int) for mark in marks):
        return False
    return bool(marks > [state["beginning"], state["counter"]])


def find_mismatch() -> str:
    """Return which register does not add up to what the state counts, or an empty string.

    For the full audit, which writes nothing: it reads all of them between two readings of one state, and
    tries again while the continuous audit goes on.
    """
    for _ in range(COMPARE_ATTEMPTS):
        state = trusted_state()
        if state is None:
            return ""
        wrong = [name for name in REGISTERS if not _adds_up(name, state)]
        after = trusted_state()
        if after is not None and after["counter"] == state["counter"]:
            return mismatch(wrong[0]) if wrong else ""
        time.sleep(COMPARE_PAUSE_SECONDS)
    # It never stood still: the rounds of the continuous audit add up.
    return ""


def _adds_up(name: str, state: Document) -> bool:
    intended = {item["document"]["_id"]: item for item in state["intent"] if item["in"] == name}
    count = sum_ = 0
    for document in committed(REGISTERS[name]).find({}, batch_size=10_000):
        if name == FINDINGS and seal_fault(name, document):
            return False
        item = intended.pop(document["_id"], None)
        is_waiting = item and (
            document.get("mac") == item["old"] or document.get("beginning") != state["beginning"]
        )
        if item and is_waiting:
            document = item["document"]
        if document.get("beginning") == state["beginning"]:
            count, sum_ = count + 1, sum_ + weight(document)
    for item in intended.values():
        if item["old"] is None:
            count, sum_ = count + 1, sum_ + weight(item["document"])
    register = state["registers"][name]
    return (count, as_hex(sum_)) == (register["count"], register["sum"])
