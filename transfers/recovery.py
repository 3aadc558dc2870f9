"""Recovery: every transaction that has not ended is looked at again, until it has.

The only thing that must run for every transaction to finish; messages, the inbox and the chain of tasks
are accelerators. It drives the saga's own steps, which are safe to repeat, so it may race with anyone.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings

from payflow import clock
from payflow.mongodb import collection, unavailable_is_transient
from transfers import saga, selectors, states
from transfers.documents import Transaction
from transfers.states import Status

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """What one tick did."""

    driven: int
    flagged: int


def recover_stalled() -> Report:
    """Re-drive up to RECOVERY_BATCH_MAX transactions that are due, the longest overdue first.

    Safe to run anywhere, several times at once. Raises Transient; what was claimed comes up again later.
    """
    now = clock.now()
    rows = selectors.find_stalled(now=now, limit=settings.RECOVERY_BATCH_MAX)
    if not rows:
        return Report(0, 0)
    flagged = _claim(rows, now)
    _drive(rows)
    logger.info("stalled transactions driven", extra={"driven": len(rows), "flagged": flagged})
    return Report(len(rows), flagged)


def _claim(rows: list[dict[str, Any]], now: datetime) -> int:
    """Move each row's next look into the future, so that other ticks take other rows; count the tries."""
    flagged = 0
    by_attempts: dict[int, list[str]] = {}
    for row in rows:
        by_attempts.setdefault(row.get("attempts", 0), []).append(row["_id"])
    for attempts, ids in sorted(by_attempts.items()):
        pause = states.next_look_seconds(
            attempts=attempts + 1, stalled_after_seconds=settings.SAGA_STALLED_AFTER_SECONDS
        )
        needs_attention = attempts + 1 >= settings.SAGA_ATTENTION_AFTER_ATTEMPTS
        flagged += len(ids) if needs_attention else 0
        change: dict[str, Any] = {"due_at": clock.after(now, pause)}
        if needs_attention:
            change["needs_attention"] = True
        with unavailable_is_transient():
            collection(Transaction).update_many(
                {"_id": {"$in": ids}, "due_at": {"$lte": now}}, {"$set": change, "$inc": {"attempts": 1}}
            )
    return flagged


def _drive(rows: list[dict[str, Any]]) -> None:
    """Run the steps that the rows' states call for, announcing everything: their executor may have died."""
    ids = {status: [row["_id"] for row in rows if row["status"] == status] for status in Status}
    debited = saga.debit(ids[Status.INITIATED], tell_all=True)
    step = saga.credit([*ids[Status.DEBITED], *debited], tell_all=True)
    saga.complete([*ids[Status.CREDITED], *step.credited], tell_all=True)
    saga.refund([*ids[Status.REFUNDING], *step.refused], tell_all=True)
    # Whoever waited for them has given up or died; there is no need to wait again.
    saga.refund(step.hanging, undecided_because=states.CREDIT_EXHAUSTED, tell_all=True)
    saga.announce_in_full([*ids[Status.COMPLETED], *ids[Status.FAILED]])
