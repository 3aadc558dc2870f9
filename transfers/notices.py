"""Notices: who is to be told what by e-mail.

What must stay true:
- The update that ends a transaction also says that its notices are due, so no death comes in between; whoever
  writes them down takes that back afterwards.
- A notice is made of an event and a recipient, and so is its id: however often they are written down, there
  is one notice for each recipient.
- The saga writes no notice and looks up no user. That is done when mails are sent, at their own pace.

Both parties hear of a transfer that was made: money moved on both accounts. Of one that failed only the
sender hears: nothing happened on the receiver's account, and that somebody tried, or could not pay, is not
for others to know.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.conf import settings

from ledger.keys import INSTRUCTION_FIELDS, transaction_mac_fault
from payflow import clock
from payflow.crashpoints import crash_point
from payflow.events import Event, EventType
from payflow.mongodb import collection, insert_missing, unavailable_is_transient
from transfers import states
from transfers.documents import Kind, Notice, NoticeStatus, Transaction
from transfers.states import Status
from webhooks import backlog

REMOVED_MAX = 1_000
REMOVING_ROUNDS_MAX = 1_000
REMOVING_SECONDS_MAX = 15.0
_FACTS = ("status", "notices_due_at", *INSTRUCTION_FIELDS, "key_id", "mac")
Row = dict[str, Any]


def wanted_after(to: Status, at: datetime) -> dict[str, datetime]:
    """Return what a move to a state sets beside it to have people told. Pure but for a setting."""
    return {"notices_due_at": at} if to in states.TERMINAL and settings.NOTIFICATIONS_ENABLED else {}


def recipients_of(transaction: Mapping[str, Any]) -> list[tuple[Kind, str]]:
    """Return what to tell to whom, user ids, of an ended transaction. Pure."""
    if transaction["status"] == Status.COMPLETED:
        return [(Kind.SENT, transaction["sender_id"]), (Kind.RECEIVED, transaction["receiver_id"])]
    return [(Kind.FAILED, transaction["sender_id"])]


def notice_id(event_id: str, user_id: str, at: datetime) -> str:
    """Return the id of one event's notice for one user: always the same, ordered by the event's time."""
    digest = hashlib.sha256(f"{event_id} {user_id}".encode()).hexdigest()
    return f"ntf_{clock.epoch_ms(at):012x}{digest[:20]}"


def write_down(*, transactions_max: int) -> int:
    """Write down the notices of transactions that ended, the first first; return how many transactions.

    Safe to repeat and to race. Raises Transient.
    """
    target = collection(Transaction, lasting=False)
    with unavailable_is_transient():
        due = target.find({"notices_due_at": {"$exists": True}}, _FACTS)
        transactions = list(due.sort("notices_due_at", 1).limit(transactions_max))
    if not transactions:
        return 0
    # Nobody is told of a transfer that PayFlow was not asked for; the audit names it.
    ours = [transaction for transaction in transactions if not transaction_mac_fault(transaction)]
    _insert([row for transaction in ours for row in _rows_of(transaction)], lasting=False)
    crash_point("notices.written")
    # What was inserted cannot be lost without this being lost with it: it was written later.
    query = {"_id": {"$in": [transaction["_id"] for transaction in transactions]}}
    with unavailable_is_transient():
        target.update_many(query, {"$unset": {"notices_due_at": ""}})
    return len(transactions)


def _rows_of(transaction: Row) -> list[Row]:
    is_made = transaction["status"] == Status.COMPLETED
    event_type = EventType.TRANSACTION_COMPLETED if is_made else EventType.TRANSACTION_FAILED
    event = Event(transaction["_id"], event_type, transaction["notices_due_at"], {})
    about = {"transaction_id": event.transaction_id}
    about |= {name: transaction[name] for name in ("sender_id", "amount_minor", "currency")}
    return [
        _row(kind, user_id, event.id, event.created_at, **about)
        for kind, user_id in recipients_of(transaction)
    ]


def write_down_disabled(
    *, subscription_id: str, user_id: str, url: str, reason: str, since: datetime
) -> None:
    """Write down that an endpoint was disabled or is held, once for each time `since`. Raises Transient."""
    if settings.NOTIFICATIONS_ENABLED:
        kind = Kind.WEBHOOK_HELD if reason == backlog.HELD else Kind.WEBHOOK_DISABLED
        event_id = f"{subscription_id}:disabled:{clock.epoch_ms(since)}"
        facts = {"subscription_id": subscription_id, "url": url, "reason": reason, "since": since}
        _insert([_row(kind, user_id, event_id, since, facts=facts, sender_id=user_id)], lasting=True)


def digest_row(user_id: str, hour: datetime, *, due_at: datetime) -> Row:
    """Return the one notice about all that was too much for a user in an hour, as it begins."""
    event_id = f"{user_id}:digest:{clock.epoch_ms(hour)}"
    facts = {"since": hour, "until": clock.after(hour, 3_600)}
    more = {"facts": facts, "sender_id": user_id, "next_attempt_at": due_at}
    return _row(Kind.DIGEST, user_id, event_id, hour, **more)


def _row(kind: Kind, user_id: str, event_id: str, at: datetime, **more: Any) -> Row:
    now = clock.now()
    return {
        "_id": notice_id(event_id, user_id, at),
        "kind": kind.value,
        "user_id": user_id,
        "event_id": event_id,
        "status": NoticeStatus.PENDING.value,
        "created_at": now,
        "next_attempt_at": now,
        **more,
    }


def _insert(rows: Sequence[Row], *, lasting: bool) -> None:
    """Insert what is not there yet."""
    insert_missing(collection(Notice, lasting=lasting), rows)


def remove_old() -> int:
    """Remove what ended longer than NOTIFICATIONS_RETENTION_DAYS ago, in bounded steps; return how many.

    Nobody writes those of such old events down any more. Raises Transient.
    """
    before = clock.after(clock.now(), -settings.NOTIFICATIONS_RETENTION_DAYS * 86_400)
    target, removed = collection(Notice), 0
    deadline = time.monotonic() + REMOVING_SECONDS_MAX
    for _ in range(REMOVING_ROUNDS_MAX):
        with unavailable_is_transient():
            rows = target.find({"finished_at": {"$lt": before}}, {"_id": 1}).limit(REMOVED_MAX)
            ids = [row["_id"] for row in rows]
            if ids:
                # One that staff has just had tried anew stays.
                query = {"_id": {"$in": ids}, "finished_at": {"$lt": before}}
                removed += target.delete_many(query).deleted_count
        if len(ids) < REMOVED_MAX or time.monotonic() > deadline:
            break
    return removed
