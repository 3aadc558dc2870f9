"""Which notices come next: senders and recipients have turns, so nobody's many mails hold up another's one.

Half of a batch are the next ones of the next senders, one each; half those of the next recipients, one each;
the rest are those that are due longest. So a mail waits for as many others as there are senders or recipients
with mails due, whichever are fewer, and not for as many as there are mails.

Where this process stopped is in memory: one that begins anew begins with the first.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from payflow.mongodb import collection, unavailable_is_transient
from transfers.documents import Notice, NoticeStatus

# The field by which turns are given, and the index that has what is due by it.
BY = {"sender_id": "due_by_sender", "user_id": "due_by_recipient"}
_go_on_after: dict[str, str] = {}


def next_due(*, now: datetime, limit: int) -> list[str]:
    """Return the ids of up to `limit` notices that are due. Raises Transient."""
    found: dict[str, None] = {}
    for field in BY:
        found.update(dict.fromkeys(_one_each(field, now, max(1, limit // 2))))
    if len(found) < limit:
        with unavailable_is_transient():
            rows = collection(Notice).find(_due(now), {"_id": 1}).sort("next_attempt_at", 1)
            found.update(dict.fromkeys(row["_id"] for row in rows.limit(limit)))
    return list(found)[:limit]


def _one_each(field: str, now: datetime, count: int) -> list[str]:
    """Return the longest due notice of each of the next `count` senders or recipients, in a circle.

    One seek in an index for each, however many notices they have.
    """
    found: dict[str, str] = {}
    after, has_wrapped = _go_on_after.get(field, ""), False
    while len(found) < count:
        row = _first_beyond(field, after, now)
        if row is None and not has_wrapped:
            after, has_wrapped = "", True
            continue
        if row is None or row[field] in found:
            break
        after = row[field]
        found[after] = row["_id"]
    _go_on_after[field] = after
    return list(found.values())


def _first_beyond(field: str, after: str, now: datetime) -> dict[str, Any] | None:
    query = {**_due(now), field: {"$gt": after}}
    with unavailable_is_transient():
        rows = collection(Notice).find(query, {field: 1}, hint=BY[field])
        return next(rows.sort([(field, 1), ("next_attempt_at", 1)]).limit(1), None)


def _due(now: datetime) -> dict[str, Any]:
    return {"status": NoticeStatus.PENDING.value, "next_attempt_at": {"$lte": now}}
