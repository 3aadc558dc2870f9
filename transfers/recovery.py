"""Recovery: every transaction that has not ended is looked at again, until it has.

The only thing that must run for every transaction to finish; messages, the inbox and the chain of tasks
are accelerators. It drives the saga's own steps, which are safe to repeat, so it may race with anyone: that
recoveries take turns (payflow/duties.py) saves work and decides nothing. One transaction that cannot be
driven stops no other, and no batch that cannot be finished stops any.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded
from django.conf import settings

from payflow import clock, metrics, mongodb, redisdb
from payflow.crashpoints import crash_point
from payflow.errors import Transient
from payflow.mongodb import collection, unavailable_is_transient
from transfers import batches, proof, saga, selectors, states
from transfers.documents import Transaction
from transfers.moves import Row, flag, ids_of
from transfers.selectors import log_ids
from transfers.states import Status

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """What one tick did: transactions it drove, those it flagged for staff, those it could not drive."""

    driven: int = 0
    flagged: int = 0
    undriven: int = 0


def recover_stalled(*, taken_until: datetime | None = None) -> Report:
    """Re-drive up to RECOVERY_BATCH_MAX transactions that are due, the longest overdue first.

    `taken_until`: what was made by then had been taken from the inbox SAGA_STALLED_AFTER_SECONDS ago. Only
    that is stalled: else a rush that makes all of them wait would have recovery do what is about to be done
    anyway, at a higher price, and so grow. None where nobody knows: then all that is due is.

    Safe to run anywhere, several times at once. Raises Transient when a server does not answer; what was
    claimed comes up again later.
    """
    # First: what they write down waits in no inbox.
    _finish_batches()
    now = clock.now()
    due_by = _due_by(now, taken_until)
    rows = selectors.find_stalled(due_by=due_by, limit=settings.RECOVERY_BATCH_MAX)
    if not rows:
        return Report()
    rows, flagged = _claim(rows, now)
    forged = proof.mac_faults(rows)
    flagged += proof.set_aside(rows, forged)
    undriven, newly_flagged = _drive_apart([row for row in rows if row["_id"] not in forged])
    undriven += len(forged)
    crash_point("recovery.driven")
    report = Report(len(rows) - undriven, flagged + newly_flagged, undriven)
    metrics.TRANSACTIONS_RECOVERED.inc(report.driven)
    logger.info("stalled transactions driven", extra={"driven": report.driven, "undriven": report.undriven})
    return report


def _due_by(now: datetime, taken_until: datetime | None) -> datetime:
    """Return since when a transaction must be due to count as stalled.

    Whatever the inbox says, one that is not in it any more must be driven well before it expires.
    """
    if taken_until is None:
        return now
    stalled = clock.after(taken_until, settings.SAGA_STALLED_AFTER_SECONDS)
    return min(now, max(stalled, clock.after(now, -settings.SAGA_EXPIRES_AFTER_SECONDS / 2)))


def _finish_batches() -> None:
    """Finish batches that are due. Transactions are driven whatever is wrong with these."""
    try:
        finished = batches.finish_stalled()
    except (Transient, SoftTimeLimitExceeded):
        raise
    except Exception:
        logger.exception("stalled batches not finished")
        return
    if finished:
        logger.info("stalled batches finished", extra={"count": finished})


def _claim(rows: list[Row], now: datetime) -> tuple[list[Row], int]:
    """Move each row's next look into the future, so that other ticks take other rows; count the tries.

    Return the rows, as they are claimed, without those that another recovery was quicker to claim, and how
    many were flagged.
    """
    by_attempts: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_attempts[states.tries_of(row)].append(row)
    claimed: list[Row] = []
    flagged = 0
    for attempts, group in sorted(by_attempts.items()):
        pause = states.next_look_seconds(
            attempts=attempts + 1, stalled_after_seconds=settings.SAGA_STALLED_AFTER_SECONDS
        )
        query = {"_id": {"$in": ids_of(group)}, "due_at": {"$lte": now}}
        change: dict[str, Any] = {"$set": {"due_at": clock.after(now, pause), "attempts": attempts + 1}}
        with unavailable_is_transient():
            count = collection(Transaction).update_many(query, change).modified_count
        crash_point("recovery.claimed")
        # With some of them taken and some not, driving all of them does no harm.
        claimed += [{**row, **change["$set"]} for row in group] if count else []
        if count and attempts + 1 >= settings.SAGA_ATTENTION_AFTER_ATTEMPTS:
            flagged += flag(group, "tried too often")
    return claimed, flagged


def _drive_apart(rows: list[Row]) -> tuple[int, int]:
    """Drive rows together; halve a batch that fails until the one at fault stands alone.

    Those flagged before go last and apart from the others. Return how many could not be driven, and how many
    of them were flagged now. Raises Transient when it is not a row that is at fault but a server.
    """
    deadline = time.monotonic() + settings.RECOVERY_TICK_SECONDS_MAX
    suspects = [row for row in rows if row.get("needs_attention")]
    others = [row for row in rows if not row.get("needs_attention")]
    waiting = [group for group in (suspects, others) if group]
    undriven = flagged = 0
    tried: set[str] = set()
    try:
        while waiting and time.monotonic() < deadline:
            group = waiting.pop()
            tried.update(ids_of(group))
            try:
                drive(group)
            except SoftTimeLimitExceeded:
                raise
            except Exception as error:
                if isinstance(error, Transient) and not _servers_answer():
                    raise
                if len(group) > 1:
                    # The step that failed may have moved some of them on.
                    group = selectors.load(ids_of(group))
                    half = len(group) // 2
                    waiting += [group[half:], group[:half]]
                    continue
                undriven += 1
                flagged += _set_apart(group[0], error)
                _tell_of_failed_refund(group[0])
    finally:
        _give_back([row for group in waiting for row in group if row["_id"] not in tried])
    undriven += sum(len(group) for group in waiting)
    return undriven, flagged


def _give_back(rows: list[Row]) -> None:
    """Undo the claim of rows that were not tried after all, as far as it still stands and MongoDB answers."""
    claims: dict[tuple[datetime, int], list[Row]] = defaultdict(list)
    for row in rows:
        claims[row["due_at"], row["attempts"]].append(row)
    with suppress(Transient), unavailable_is_transient():
        for (due_at, attempts), group in claims.items():
            query = {"_id": {"$in": ids_of(group)}, "due_at": due_at, "attempts": attempts}
            change = {"$set": {"due_at": clock.now(), "attempts": attempts - 1}}
            collection(Transaction).update_many(query, change)


def _servers_answer() -> bool:
    try:
        mongodb.ping()
        redisdb.ping()
    except Transient:
        return False
    return True


def _set_apart(row: Row, error: Exception) -> int:
    """Note that a row cannot be driven; return 1 if it was flagged now. A busy wallet gets free by itself."""
    extra = {**log_ids(row), "error": type(error).__name__}
    if isinstance(error, Transient):
        logger.warning("transaction not driven; it comes up again", extra=extra)
        return 0
    logger.error("transaction cannot be driven", extra=extra, exc_info=error)
    return flag([row], "cannot be driven")


def _tell_of_failed_refund(row: Row) -> None:
    """Say that a refund could not be made yet, if that is what could not be; the next try says it again."""
    try:
        saga.announce_failed_refunds([row["_id"]])
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:
        # One that cannot be driven can perhaps not be told of either.
        extra = {**log_ids(row), "error": type(error).__name__}
        logger.warning("failed refund not told", extra=extra, exc_info=error)


def drive(rows: list[Row]) -> None:
    """Run the steps that the rows' states call for, announcing everything: their executor may have died."""
    ids: dict[Status, list[str]] = {status: [] for status in Status}
    for row in rows:
        ids[Status(row["status"])].append(row["_id"])
    debited = saga.debit(ids[Status.INITIATED], tell_all=True)
    step = saga.credit([*ids[Status.DEBITED], *debited], tell_all=True)
    saga.complete([*ids[Status.CREDITED], *step.credited], tell_all=True)
    saga.refund([*ids[Status.REFUNDING], *step.refused], tell_all=True)
    # Whoever waited for them has given up or died; there is no need to wait again.
    saga.refund(step.hanging, undecided_because=states.CREDIT_EXHAUSTED, tell_all=True)
    saga.announce_in_full([*ids[Status.COMPLETED], *ids[Status.FAILED]])
