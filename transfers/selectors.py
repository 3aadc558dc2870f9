"""Reading transactions. Rows are plain dicts: a batch of 500 passes through here several times a second."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from typing import Any

from django.conf import settings
from mongoengine import Document

from ledger.reading import LENIENT, after_prefix
from payflow import clock
from payflow.errors import Transient
from payflow.health import Report
from payflow.mongodb import collection, unavailable_is_transient
from transfers import inbox, states
from transfers.documents import Notice, Transaction, TransferBatch
from transfers.states import TERMINAL, Status

QUERY_TIME_MS_MAX = 2_000
# Beyond a limit, whom a user has paid is known from so many of their newest transfers.
ID_PREFIX = "txn_"
PAID_LOOKED_AT_MAX = 1_000
# A time that is none would make no age; the audit names such a batch.
_UNFINISHED = {"due_at": {"$exists": True}, "created_at": {"$type": "date"}}


class Direction(StrEnum):
    """Which side of a transaction the caller is on."""

    SENT = "sent"
    RECEIVED = "received"


def _stored(document: type[Document]) -> Any:
    """Return a collection whose every document can be read: one date beyond Python's stops no other row."""
    return collection(document).with_options(codec_options=LENIENT)


def _transactions() -> Any:
    return _stored(Transaction)


def _batches() -> Any:
    return _stored(TransferBatch)


def load(transaction_ids: Collection[str]) -> list[dict[str, Any]]:
    """Return those transactions that exist, oldest first."""
    if not transaction_ids:
        return []
    with unavailable_is_transient():
        return list(_transactions().find({"_id": {"$in": list(transaction_ids)}}).sort("_id", 1))


def log_ids(row: Mapping[str, Any]) -> dict[str, str]:
    """Return what a log line about one transaction names: its id, and the request that asked for it."""
    return {"transaction_id": row["_id"], "correlation_id": row.get("correlation_id") or ""}


def find_transaction(*, transaction_id: str) -> dict[str, Any] | None:
    """Return one transaction."""
    with unavailable_is_transient():
        return _transactions().find_one({"_id": transaction_id})


def find_by_key(*, sender_id: str, key: str) -> dict[str, Any] | None:
    """Return the transaction that an idempotency key of this sender has started."""
    with unavailable_is_transient():
        return _transactions().find_one({"sender_id": sender_id, "idempotency_key": _indexed(key)})


def list_transactions_by_key(*, key: str, sender_id: str | None, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` transactions that an idempotency key has started, of one sender or of all."""
    return _list_by_key(Transaction, key, sender_id, limit)


def list_batches_by_key(*, key: str, sender_id: str | None, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` batches that an idempotency key has started, of one sender or of all."""
    return _list_by_key(TransferBatch, key, sender_id, limit)


def _list_by_key(
    document: type[Transaction | TransferBatch], key: str, sender_id: str | None, limit: int
) -> list[dict[str, Any]]:
    query = {"idempotency_key": key, **({"sender_id": sender_id} if sender_id else {})}
    with unavailable_is_transient():
        cursor = _stored(document).find(query).sort("_id", -1).limit(limit)
        return list(cursor.max_time_ms(QUERY_TIME_MS_MAX))


def find_by_reference(*, sender_id: str, reference: str) -> dict[str, Any] | None:
    """Return the transaction that a sender has named so."""
    with unavailable_is_transient():
        return _transactions().find_one({"sender_id": sender_id, "reference": _indexed(reference)})


def list_transactions(
    *,
    user_id: str,
    limit: int,
    status: Status | None = None,
    direction: Direction | None = None,
    batch_id: str | None = None,
    reference: str | None = None,
    before_id: str | None = None,
    of_anybody: bool = False,
) -> list[dict[str, Any]]:
    """Return up to `limit` of a user's transactions, newest first; `of_anybody` within a batch.

    A reference is one of the user's own: it selects what they have sent.
    """
    sides = {Direction.SENT: [{"sender_id": user_id}], Direction.RECEIVED: [{"receiver_id": user_id}]}
    either = [*sides[Direction.SENT], *sides[Direction.RECEIVED]]
    query: dict[str, Any] = {}
    if direction or not (of_anybody and batch_id):
        query["$or"] = sides[direction] if direction else either
    if reference:
        query |= {"sender_id": user_id, "reference": _indexed(reference)}
    if status:
        query["status"] = status.value
    if batch_id:
        query["batch_id"] = batch_id
    # Only ids: what else may be stored under `_id` could be the place of no page.
    query["_id"] = {"$gte": ID_PREFIX, "$lt": before_id or after_prefix(ID_PREFIX)}
    with unavailable_is_transient():
        cursor = _transactions().find(query).sort("_id", -1).limit(limit)
        return list(cursor.max_time_ms(QUERY_TIME_MS_MAX))


def find_batch(*, batch_id: str) -> dict[str, Any] | None:
    """Return one batch without its items."""
    with unavailable_is_transient():
        return _batches().find_one({"_id": batch_id}, {"items": 0})


def find_batch_by_key(*, sender_id: str, key: str) -> dict[str, Any] | None:
    """Return the batch that an idempotency key of this sender has started."""
    with unavailable_is_transient():
        return _batches().find_one({"sender_id": sender_id, "idempotency_key": _indexed(key)})


def find_paid(*, sender_id: str, limit: int = PAID_LOOKED_AT_MAX) -> set[str]:
    """Return whom a user has paid, or has tried to pay, in their newest transfers. Raises Transient."""
    with unavailable_is_transient():
        rows = _transactions().find({"sender_id": sender_id}, {"receiver_id": 1}).sort("_id", -1)
        found = [row.get("receiver_id") for row in rows.limit(limit).max_time_ms(QUERY_TIME_MS_MAX)]
    return {receiver_id for receiver_id in found if isinstance(receiver_id, str)}


def find_stalled_batches(*, now: datetime, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` batches that are due for recovery, the longest overdue first."""
    with unavailable_is_transient():
        found = _batches().find({"due_at": {"$lte": now}}).sort("due_at", 1)
        return list(found.limit(limit))


def list_unfinished_batches(*, limit: int) -> list[str]:
    """Return the ids of up to `limit` batches that are not all written down yet."""
    with unavailable_is_transient():
        found = _batches().find({"due_at": {"$exists": True}}, {"_id": 1}).limit(limit)
        return [row["_id"] for row in found.max_time_ms(QUERY_TIME_MS_MAX)]


def count_outcomes(*, batch_id: str) -> list[dict[str, Any]]:
    """Return for each status and currency of a batch's transactions how many there are and their sum.

    A transaction whose amount is no amount is not among them.
    """
    stages: list[dict[str, Any]] = [
        {"$match": {"batch_id": batch_id, "amount_minor": {"$type": ["int", "long"], "$gt": 0}}},
        {
            "$group": {
                "_id": {"status": "$status", "currency": "$currency"},
                "count": {"$sum": 1},
                "amount_minor": {"$sum": "$amount_minor"},
            }
        },
        {"$replaceWith": {"$mergeObjects": ["$_id", "$$ROOT"]}},
    ]
    with unavailable_is_transient():
        return list(_transactions().aggregate(stages, maxTimeMS=QUERY_TIME_MS_MAX))


def find_stalled(*, due_by: datetime, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` transactions that were due for recovery by then, the longest overdue first."""
    with unavailable_is_transient():
        found = _transactions().find({"due_at": {"$lte": due_by}}).sort("due_at", 1)
        return list(found.limit(limit))


def list_sagas(
    *,
    limit: int,
    due_before: datetime | None = None,
    needs_attention: bool = False,
    status: Status | None = None,
) -> list[dict[str, Any]]:
    """Return up to `limit` transactions for an operator.

    Those that have not ended, the longest due first; of a terminal status, the newest first.
    """
    ended = status in TERMINAL
    query: dict[str, Any] = {"due_at": {"$lte": due_before} if due_before else {"$exists": not ended}}
    if needs_attention:
        query["needs_attention"] = True
    if status:
        query["status"] = status.value
    order = ("_id", -1) if ended else ("due_at", 1)
    with unavailable_is_transient():
        cursor = _transactions().find(query).sort(*order).limit(limit)
        return list(cursor.max_time_ms(QUERY_TIME_MS_MAX))


def find_notice(*, notice_id: str) -> dict[str, Any] | None:
    """Return one e-mail with its attempts, for staff."""
    with unavailable_is_transient():
        return _stored(Notice).find_one({"_id": notice_id})


def report_notices() -> Report:
    """Say for how long an e-mail has been due and none has been handled, whosoever's.

    One user's many mails do not count, as long as mails are handled. Reads one row of each sparse list.
    """
    if not settings.NOTIFICATIONS_ENABLED:
        return Report(is_well=True, facts={"status": "off"})
    oldest = [_first_due(Notice, "next_attempt_at"), _first_due(Transaction, "notices_due_at")]
    handled_at = _last_handled()
    now = clock.now()
    waiting_since = [max(at, handled_at or at) for at in oldest if at]
    overdue_seconds = (now - min(waiting_since, default=now)).total_seconds()
    is_well = overdue_seconds < settings.NOTIFICATIONS_OVERDUE_SECONDS_MAX
    facts = {"status": "up" if is_well else "behind", "overdue_seconds": round(max(0.0, overdue_seconds), 3)}
    return Report(is_well, facts)


def _first_due(document: type[Notice | Transaction], field: str) -> datetime | None:
    with unavailable_is_transient():
        found = _stored(document).find({field: {"$exists": True}}, {field: 1}).sort(field, 1)
        rows = list(found.limit(1).max_time_ms(QUERY_TIME_MS_MAX))
    return rows[0][field] if rows else None


def _last_handled() -> datetime | None:
    with unavailable_is_transient():
        found = _stored(Notice).find({"finished_at": {"$exists": True}}, {"finished_at": 1})
        rows = list(found.sort("finished_at", -1).limit(1).max_time_ms(QUERY_TIME_MS_MAX))
    return rows[0]["finished_at"] if rows else None


def report_saga() -> Report:
    """Say how long the oldest transaction or batch that has not ended has been under way.

    It grows with no worker, and with a batch that cannot be finished. What only waits, in a line that moves,
    is no fault: somebody asks for more than is made at once. Reads the oldest few of the sparse list that
    recovery works on, however many transactions there are; of batches all that are unfinished, which are few
    unless something is wrong with them.
    """
    query = {"due_at": {"$exists": True}, "status": {"$nin": sorted(states.TERMINAL)}}
    with unavailable_is_transient():
        cursor = _transactions().find(query, {"initiated_at": 1, "attempts": 1}).sort("due_at", 1)
        oldest = list(cursor.limit(1).max_time_ms(QUERY_TIME_MS_MAX))
        batches = _batches().find(_UNFINISHED, {"created_at": 1}).sort("created_at", 1)
        unfinished = [row["created_at"] for row in batches.limit(1).max_time_ms(QUERY_TIME_MS_MAX)]
    now = clock.now()
    ages = [(now - row["initiated_at"]).total_seconds() for row in oldest]
    batch_ages = [(now - created_at).total_seconds() for created_at in unfinished]
    too_old = [age >= settings.SAGA_QUEUE_AGE_SECONDS_MAX for age in (*ages, *batch_ages)]
    is_well = not any(too_old) or (not any(too_old[len(ages) :]) and _only_waits(oldest[0]))
    age_seconds = max([*ages, *batch_ages], default=0.0)
    return Report(
        is_well, {"status": "up" if is_well else "stalled", "queue_age_seconds": round(age_seconds, 3)}
    )


def _only_waits(transaction: dict[str, Any]) -> bool:
    """Say whether what is under way longest waits for its turn, in a line from which workers take."""
    if states.tries_of(transaction):
        return False
    with suppress(Transient):
        return inbox.is_moving()
    return False


def _indexed(key: str) -> dict[str, str]:
    """The type is in the query because it is in the index: without it all the sender's rows are read."""
    return {"$eq": key, "$type": "string"}
