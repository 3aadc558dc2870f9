"""Reading transactions. Rows are plain dicts: a batch of 500 passes through here several times a second."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from enum import StrEnum
from typing import Any

from django.conf import settings

from payflow import clock
from payflow.health import Report
from payflow.mongodb import collection, unavailable_is_transient
from transfers import states
from transfers.documents import Notice, Transaction
from transfers.states import TERMINAL, Status

QUERY_TIME_MS_MAX = 2_000


class Direction(StrEnum):
    """Which side of a transaction the caller is on."""

    SENT = "sent"
    RECEIVED = "received"


def load(transaction_ids: Collection[str]) -> list[dict[str, Any]]:
    """Return those transactions that exist, oldest first."""
    if not transaction_ids:
        return []
    with unavailable_is_transient():
        return list(collection(Transaction).find({"_id": {"$in": list(transaction_ids)}}).sort("_id", 1))


def find_transaction(*, transaction_id: str) -> dict[str, Any] | None:
    """Return one transaction."""
    with unavailable_is_transient():
        return collection(Transaction).find_one({"_id": transaction_id})


def find_by_key(*, sender_id: str, key: str) -> dict[str, Any] | None:
    """Return the transaction that an idempotency key of this sender has started."""
    with unavailable_is_transient():
        return collection(Transaction).find_one({"sender_id": sender_id, "idempotency_key": key})


def list_transactions(
    *,
    user_id: str,
    limit: int,
    status: Status | None = None,
    direction: Direction | None = None,
    before_id: str | None = None,
) -> list[dict[str, Any]]:
    """Return up to `limit` of a user's transactions, newest first."""
    sides = {Direction.SENT: [{"sender_id": user_id}], Direction.RECEIVED: [{"receiver_id": user_id}]}
    either = [*sides[Direction.SENT], *sides[Direction.RECEIVED]]
    query: dict[str, Any] = {"$or": sides[direction] if direction else either}
    if status:
        query["status"] = status.value
    if before_id:
        query["_id"] = {"$lt": before_id}
    with unavailable_is_transient():
        cursor = collection(Transaction).find(query).sort("_id", -1).limit(limit)
        return list(cursor.max_time_ms(QUERY_TIME_MS_MAX))


def find_stalled(*, now: datetime, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` transactions that are due for recovery, the longest overdue first."""
    with unavailable_is_transient():
        return list(collection(Transaction).find({"due_at": {"$lte": now}}).sort("due_at", 1).limit(limit))


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
        cursor = collection(Transaction).find(query).sort(*order).limit(limit)
        return list(cursor.max_time_ms(QUERY_TIME_MS_MAX))


def find_notice(*, notice_id: str) -> dict[str, Any] | None:
    """Return one e-mail with its attempts, for staff."""
    with unavailable_is_transient():
        return collection(Notice).find_one({"_id": notice_id})


def report_notices() -> Report:
    """Say how long the e-mail that is due longest has waited. Reads one row of the sparse work list."""
    if not settings.NOTIFICATIONS_ENABLED:
        return Report(is_well=True, facts={"status": "off"})
    with unavailable_is_transient():
        found = collection(Notice).find({"next_attempt_at": {"$exists": True}}, {"next_attempt_at": 1})
        rows = list(found.sort("next_attempt_at", 1).limit(1).max_time_ms(QUERY_TIME_MS_MAX))
    overdue_seconds = (clock.now() - rows[0]["next_attempt_at"]).total_seconds() if rows else 0.0
    is_well = overdue_seconds < settings.NOTIFICATIONS_OVERDUE_SECONDS_MAX
    facts = {"status": "up" if is_well else "behind", "overdue_seconds": round(max(0.0, overdue_seconds), 3)}
    return Report(is_well, facts)


def report_saga() -> Report:
    """Say how long the oldest transaction that has not ended has been under way: with no worker, it grows.

    Reads the oldest few of the sparse list that recovery works on, however many transactions there are.
    """
    query = {"due_at": {"$exists": True}, "status": {"$nin": sorted(states.TERMINAL)}}
    with unavailable_is_transient():
        cursor = collection(Transaction).find(query, {"initiated_at": 1}).sort("due_at", 1)
        rows = list(cursor.limit(1).max_time_ms(QUERY_TIME_MS_MAX))
    age_seconds = (clock.now() - rows[0]["initiated_at"]).total_seconds() if rows else 0.0
    is_well = age_seconds < settings.SAGA_QUEUE_AGE_SECONDS_MAX
    return Report(
        is_well, {"status": "up" if is_well else "stalled", "queue_age_seconds": round(age_seconds, 3)}
    )
