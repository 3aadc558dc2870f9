"""Notices: who is to be told what by e-mail, written down before a transaction leaves recovery's list.

What must stay true:
- A notice is made of an event and a recipient, and so is its id: however often an event is announced, there
  is one notice for each recipient.
- The saga looks up no user here. Whether somebody wants mails is asked when theirs is sent.

Both parties hear of a transfer that was made: money moved on both accounts. Of one that failed only the
sender hears: nothing happened on the receiver's account, and that somebody tried, or could not pay, is not
for others to know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from django.conf import settings

from payflow import clock
from payflow.crashpoints import crash_point
from payflow.events import Event, EventType
from payflow.mongodb import collection, insert_missing, unavailable_is_transient
from transfers.documents import Kind, Notice, NoticeStatus

REMOVED_MAX = 1_000
REMOVING_ROUNDS_MAX = 20
Row = dict[str, Any]


def recipients_of(event: Event) -> list[tuple[Kind, str]]:
    """Return what to tell to whom, user ids."""
    if event.type is EventType.TRANSACTION_COMPLETED:
        return [(Kind.SENT, event.data["sender_id"]), (Kind.RECEIVED, event.data["receiver_id"])]
    if event.type is EventType.TRANSACTION_FAILED:
        return [(Kind.FAILED, event.data["sender_id"])]
    return []


def notice_id(event_id: str, user_id: str, at: datetime) -> str:
    """Return the id of one event's notice for one user: always the same, ordered by the event's time."""
    digest = hashlib.sha256(f"{event_id} {user_id}".encode()).hexdigest()
    return f"ntf_{clock.epoch_ms(at):012x}{digest[:20]}"


def write_down(events: Iterable[Event]) -> None:
    """Write down the notices that events call for, where they are not yet. Raises Transient."""
    if not settings.NOTIFICATIONS_ENABLED:
        return
    rows = [
        _row(kind, user_id, event.id, event.created_at, transaction_id=event.transaction_id)
        for event in events
        for kind, user_id in recipients_of(event)
    ]
    if rows:
        _insert(rows, lasting=False)
        crash_point("notices.written")


def write_down_disabled(
    *, subscription_id: str, user_id: str, url: str, reason: str, since: datetime
) -> None:
    """Write down that an endpoint was disabled, once for each time `since` it was. Raises Transient."""
    if settings.NOTIFICATIONS_ENABLED:
        event_id = f"{subscription_id}:disabled:{clock.epoch_ms(since)}"
        facts = {"subscription_id": subscription_id, "url": url, "reason": reason, "since": since}
        _insert([_row(Kind.WEBHOOK_DISABLED, user_id, event_id, since, facts=facts)], lasting=True)


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
    """Insert what is not there yet.

    Those of transactions need not be on disk at once: were they lost, so would be, with all that was written
    later, that their transactions have left recovery's list.
    """
    insert_missing(collection(Notice, lasting=lasting), rows)


def remove_old() -> int:
    """Remove what ended longer than NOTIFICATIONS_RETENTION_DAYS ago, in bounded steps; return how many.

    Nobody announces such old events any more, so none is written down anew. Raises Transient.
    """
    before = clock.after(clock.now(), -settings.NOTIFICATIONS_RETENTION_DAYS * 86_400)
    target, removed = collection(Notice), 0
    for _ in range(REMOVING_ROUNDS_MAX):
        with unavailable_is_transient():
            rows = target.find({"finished_at": {"$lt": before}}, {"_id": 1}).limit(REMOVED_MAX)
            ids = [row["_id"] for row in rows]
            if ids:
                # One that staff has just had tried anew stays.
                query = {"_id": {"$in": ids}, "finished_at": {"$lt": before}}
                removed += target.delete_many(query).deleted_count
        if len(ids) < REMOVED_MAX:
            break
    return removed
