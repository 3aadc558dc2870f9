"""The parts of a tick of the continuous audit (`ledger/monitor.py`): each reads a bounded piece and remembers
where the next tick goes on.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from django.conf import settings
from pymongo.errors import ExecutionTimeout

from ledger import checkpoints, record_scan, rounds
from ledger.audit_record import CHECKPOINTS, FINDINGS, REGISTERS, Change, Record
from ledger.documents import Checkpoint
from ledger.incremental import Suspicion, Targets, Verifier
from ledger.keys import is_current
from ledger.sealing import seal_fault
from ledger.verification import Document
from payflow.mongodb import collection

logger = logging.getLogger(__name__)

# A wallet's first entry may bear a time this long before it landed: writers' clocks differ.
NEW_WALLET_SECONDS = 3_600.0
COUNT_MS_MAX = 2_000
SUSPICIONS_MAX = 500
# One over the entries in the order of their chains, one over the transactions from new to old.
ROUNDS = ("entries", "transactions")


@dataclass(slots=True)
class Tick:
    """What one tick did."""

    verified: int = 0
    reverified: int = 0
    behind: int = 0
    news: int = 0
    seconds: float = 0.0
    # The audit's record cannot be trusted; or another tick was faster.
    is_halted: bool = False
    is_overtaken: bool = False


def add_up(record: Record, now: datetime) -> list[Document]:
    """Add up the next documents of the registers; return the findings among them."""
    scans = {name: record_scan.scan(record, name, settings.AUDIT_WALLETS_MAX) for name in REGISTERS}
    found = scans[FINDINGS].documents
    faults = [scan.fault for scan in scans.values() if scan.fault]
    faults += ["a finding was altered" for row in found if seal_fault(FINDINGS, row)]
    registers = {name: scan.register for name, scan in scans.items()}
    unverified = record.state["unverified"]
    if faults and unverified is None:
        unverified = {"reason": faults[0], "since": now}
        logger.error("the audit's record cannot be trusted", extra={"reason": faults[0]})
    genuine = [row for row in found if not seal_fault(FINDINGS, row)]
    # So that an old key can be forgotten.
    old = [Change(FINDINGS, row, row) for row in genuine if not is_current(row)]
    record.commit(old, registers=registers, unverified=unverified)
    return genuine if not old else []


def look(
    verifier: Verifier, record: Record, position: dict[str, Any], done: Tick, now: datetime
) -> dict[str, Any]:
    """Take the readings; return what changes in the state beside the position."""
    beginning = record.beginning
    suspected = suspected_wallets(record.state)
    unseen = verifier.verify(
        {id_: suspicion.until for id_, suspicion in suspected.items()},
        entries_max=settings.AUDIT_NEW_ENTRIES_MAX,
    )
    targets, is_drained = rounds.newest(
        beginning, entries_max=settings.AUDIT_NEW_ENTRIES_MAX, report=verifier.report
    )
    left = verifier.verify(targets, entries_max=settings.AUDIT_NEW_ENTRIES_MAX)
    changes: dict[str, Any] = {}
    if verifier.has_time:
        targets, position["wallets"] = rounds.next_wallets(
            beginning, after=position["wallets"], limit=settings.AUDIT_WALLETS_MAX
        )
        left |= verifier.verify(targets, entries_max=settings.AUDIT_NEW_ENTRIES_MAX)
    if verifier.has_time:
        changes |= _take_slice(verifier, record, position, done, now)
    _take_transactions(verifier, position, now)
    suspicions = {id_: suspected[id_] for id_ in unseen} | verifier.suspicions
    position["suspicions"] = [
        {"wallet_id": id_, "until": suspicion.until, "since": suspicion.since}
        for id_, suspicion in islice(suspicions.items(), SUSPICIONS_MAX)
    ]
    done.behind = _behind(left | {id_: suspicion.until for id_, suspicion in suspicions.items()}, beginning)
    if is_drained and not left and not suspicions:
        position["caught_up_at"] = now
    return changes


def suspected_wallets(state: Document) -> dict[str, Suspicion]:
    """Return what was missing at the last tick."""
    rows = state["position"].get("suspicions", ())
    return {row["wallet_id"]: Suspicion(row["until"], row["since"]) for row in rows}


def _take_slice(
    verifier: Verifier, record: Record, position: dict[str, Any], done: Tick, now: datetime
) -> dict[str, Any]:
    """Verify the next slice of history, and move `position` behind it if all of it was done."""
    since, beginning = record.state["complete_since"], record.beginning
    # Until everything was visited once, there is more to find than to repeat.
    entries_max = settings.AUDIT_OLD_ENTRIES_MAX if since else settings.AUDIT_NEW_ENTRIES_MAX
    part = rounds.next_history(beginning, position=position["history"], entries_max=entries_max)
    for violation in part.violations:
        verifier.report(violation)
    done.reverified = part.entries
    if verifier.verify(part.targets, entries_max=part.entries + 1):
        return {}
    position["history"] = part.position
    began_at = go_on(position, "entries", part.entries, now, at_end=part.position is None)
    # The round is complete: whatever was there when it began has its checkpoint now.
    if began_at is None or not record.state["registers"][CHECKPOINTS]["count"]:
        return {}
    complete = began_at - timedelta(seconds=NEW_WALLET_SECONDS)
    return {"complete_since": max(complete, since) if since else complete, **_recount(beginning)}


def _take_transactions(verifier: Verifier, position: dict[str, Any], now: datetime) -> None:
    """Check what was suspected, and the next part of the round over transactions."""
    verifier.check_suspected({row["id"]: row["since"] for row in position.get("suspected_transactions", ())})
    visited = 0
    while (
        verifier.has_time
        and visited < settings.AUDIT_TRANSACTIONS_MAX
        and len(verifier.suspected_transactions) < SUSPICIONS_MAX
    ):
        part = verifier.check_part(before=position["transactions"])
        position["transactions"] = part.before
        visited += part.visited
        if go_on(position, "transactions", part.visited, now, at_end=part.before is None):
            break
    position["suspected_transactions"] = [
        {"id": id_, "since": since} for id_, since in verifier.suspected_transactions.items()
    ]


def new_round(now: datetime) -> dict[str, Any]:
    """Return a round that has visited nothing."""
    return {"began_at": now, "ended_at": None, "visited": 0}


def go_on(
    position: dict[str, Any], name: str, visited: int, now: datetime, *, at_end: bool
) -> datetime | None:
    """Count what a round has visited; at its end begin the next, and return when this one began."""
    round_ = position["rounds"][name]
    if not at_end:
        position["rounds"][name] = {**round_, "visited": round_["visited"] + visited}
        return None
    position["rounds"][name] = {**new_round(now), "ended_at": now}
    began_at: datetime = round_["began_at"]
    return began_at


def _recount(beginning: int) -> dict[str, Any]:
    """Count the verified entries anew: what ticks have added was lost where two of them met."""
    pipeline: list[dict[str, Any]] = [
        {"$match": {"beginning": beginning}},
        {"$group": {"_id": None, "entries": {"$sum": "$sequence"}}},
    ]
    try:
        rows = list(collection(Checkpoint).aggregate(pipeline, maxTimeMS=COUNT_MS_MAX))
    except ExecutionTimeout:
        return {}
    return {"entries": rows[0]["entries"]} if rows else {}


def _behind(left: Targets, beginning: int) -> int:
    known = checkpoints.find(left, beginning)
    return sum(until - known.get(wallet_id, {}).get("sequence", 0) for wallet_id, until in left.items())
