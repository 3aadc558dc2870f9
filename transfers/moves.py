"""Moves: how a batch of transactions goes from one state to the next, and how the world hears of it.

What must stay true:
- A move is one conditional update that names the state it leaves, so a stale executor changes nothing.
- A step hands a transaction on only when every event up to its present state has been published. What it
  moved itself, it announces; what it finds moved already, it announces in full, because the other executor
  may have died in between. `due_at` goes last: until then recovery comes back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from payflow import clock, events, metrics
from payflow.crashpoints import crash_point
from payflow.events import EventType
from payflow.mongodb import collection, unavailable_is_transient
from transfers import notices, states
from transfers.body import transaction_body
from transfers.documents import Transaction
from transfers.selectors import load, log_ids
from transfers.states import Failure, Status
from webhooks.fanout import fan_out

logger = logging.getLogger(__name__)
Row = dict[str, Any]
IDS_LOGGED_MAX = 20


def in_status(rows: Iterable[Row], status: Status) -> list[Row]:
    """Return those of the rows that are in a state."""
    return [row for row in rows if row["status"] == status]


def ids_of(*groups: Iterable[Row]) -> list[str]:
    """Return the ids of all rows."""
    return [row["_id"] for group in groups for row in group]


# Their facts are the ledger's entries, which do last: a transaction that falls back from here is moved again.
PASSED_THROUGH = frozenset({Status.DEBITED, Status.CREDITED})


def move(
    rows: list[Row],
    leaving: Status,
    to: Status,
    *,
    reason: str = "",
    requiring: dict[str, Any] | None = None,
    also: dict[str, Any] | None = None,
    tell_all: bool = False,
) -> list[Row]:
    """Move rows from one state to another and announce it; return the rows that are in `to` now."""
    if not rows:
        return []
    now = clock.now()
    step = {"status": to.value, "at": now, "reason": reason}
    change = {"status": to.value, **(also or {}), **notices.wanted_after(to, now)}
    query = {"_id": {"$in": ids_of(rows)}, "status": leaving.value, **(requiring or {})}
    with unavailable_is_transient():
        update = {"$set": change, "$push": {"history": step}}
        count = (
            collection(Transaction, lasting=to not in PASSED_THROUGH)
            .update_many(query, update)
            .modified_count
        )
    if to in states.TERMINAL:
        metrics.TRANSACTIONS_ENDED.labels(to.value, reason).inc(count)
    crash_point(f"saga.moved_to_{to.value.lower()}")
    if count < len(rows):
        # Somebody else moved some of them, and may have died before telling: tell everything.
        moved = in_status(load(ids_of(rows)), to)
        announce(moved)
    else:
        moved = [{**row, **change, "history": [*row["history"], step]} for row in rows]
        # The first move also tells of the start: the request that began it only wrote it down.
        announce(moved, new_only=not tell_all and leaving is not Status.INITIATED)
    crash_point(f"saga.told_of_{to.value.lower()}")
    return moved


def announce(rows: Iterable[Row], *, new_only: bool = False) -> None:
    """Tell the events of the rows' last move, or of their whole history, to everybody. Raises Transient."""
    told = []
    for row in rows:
        history, body = row["history"], transaction_body(row)
        for position, event_type in _events_of(tuple([step["status"] for step in history]), new_only):
            told.append(events.Event(row["_id"], event_type, history[position]["at"], body))
    fan_out(told)
    events.publish(told)


@lru_cache(maxsize=64)
def _events_of(statuses: tuple[str, ...], new_only: bool) -> list[tuple[int, EventType]]:
    """Return the events of a whole history or of its last move; there are only so many histories."""
    since = len(statuses) - 1 if new_only else 0
    return states.events_of([Status(status) for status in statuses], since=since)


def fail(rows: list[Row], leaving: Status, failure: Failure, *, refunded: bool, tell_all: bool) -> list[Row]:
    """Move rows to FAILED; return those that are there now."""
    also = {"failure": {**asdict(failure), "refunded": refunded}, "completed_at": clock.now()}
    return move(rows, leaving, Status.FAILED, reason=failure.code, also=also, tell_all=tell_all)


def finish(rows: list[Row]) -> None:
    """Take terminal rows, of which everything has been told, off recovery's list and off the staff's."""
    if not rows:
        return
    query = {"_id": {"$in": ids_of(rows)}, "status": {"$in": sorted(states.TERMINAL)}}
    with unavailable_is_transient():
        change = {"$unset": {"due_at": ""}, "$set": {"needs_attention": False}}
        collection(Transaction, lasting=False).update_many(query, change)
    crash_point("saga.finished")
    for row in rows:
        code = (row.get("failure") or {}).get("code", "")
        logger.info("transaction ended", extra={**log_ids(row), "status": row["status"], "reason": code})


def flag(rows: list[Row], reason: str) -> int:
    """Flag for staff until an operator's retry or the end clears it; return how many had not been flagged."""
    fresh = [row["_id"] for row in rows if not row.get("needs_attention")]
    query = {"_id": {"$in": fresh}, "due_at": {"$exists": True}, "needs_attention": {"$ne": True}}
    if not fresh:
        return 0
    with unavailable_is_transient():
        change = {"$set": {"needs_attention": True}}
        count = collection(Transaction).update_many(query, change).modified_count
    if count:
        extra = {"reason": reason, "count": count, "transaction_ids": fresh[:IDS_LOGGED_MAX]}
        if len(rows) == 1:
            extra |= log_ids(rows[0])
        metrics.TRANSACTIONS_FLAGGED.inc(count)
        logger.warning("transactions need attention", extra=extra)
    return count
