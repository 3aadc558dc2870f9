"""Digests: with too many mails about transfers in an hour, a recipient gets one mail about all the others.

Invariants:
- An hour's digest of a recipient has one id, so there is one however often it is written down, and it is sent
  like any other notice: at most once.
- A notice that goes into a digest is DIGESTED by an update that requires it PENDING and not in anybody else's
  hands. So each notice is mailed by itself, or is part of one digest, never both.
- A digest is written down before its first notice, and is due after its hour; what it says is read then.
  Where nothing went into it after all, it is not sent.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings

from payflow import clock, metrics
from payflow.crashpoints import crash_point
from payflow.mongodb import collection, insert_missing, unavailable_is_transient
from transfers import notices
from transfers.documents import Kind, Notice, NoticeStatus
from transfers.notices import Row

# Of one recipient at once; the others follow with the next batch.
DIGESTED_MAX = 1_000
HOUR_SECONDS = 3_600
# Whoever puts a notice into an hour's digest is done with it so long after the hour.
GRACE_SECONDS = 60
ABOUT_TRANSFERS = (Kind.SENT.value, Kind.RECEIVED.value, Kind.FAILED.value)


@dataclass(frozen=True, slots=True)
class Line:
    """How many transfers of one kind and currency a digest is about, and their sum."""

    kind: Kind
    currency: str
    count: int
    amount_minor: int


def take_out_too_many(rows: Sequence[Row], claim: str) -> list[Row]:
    """Return those claimed notices that may be mailed now; the others go into digests.

    With them goes what else is due for the same recipients. Raises Transient.
    """
    now = clock.now()
    hour = now.replace(minute=0, second=0, microsecond=0)
    about_transfers = [row for row in rows if row["kind"] in ABOUT_TRANSFERS]
    mailed = _count_mailed({row["user_id"] for row in about_transfers}, hour)
    too_many: dict[str, list[str]] = defaultdict(list)
    for row in about_transfers:
        mailed[row["user_id"]] += 1
        if mailed[row["user_id"]] > settings.NOTIFICATIONS_PER_HOUR_MAX:
            too_many[row["user_id"]].append(row["_id"])
    for user_id, ids in too_many.items():
        _digest(user_id, ids, claim, hour, now)
    out = {id_ for ids in too_many.values() for id_ in ids}
    return [row for row in rows if row["_id"] not in out]


def lines_of(digest_id: str) -> list[Line]:
    """Return what a digest is about: sums by kind and currency. Raises Transient."""
    stages: list[dict[str, Any]] = [
        {"$match": {"digest_id": digest_id}},
        {
            "$group": {
                "_id": {"kind": "$kind", "currency": "$currency"},
                "count": {"$sum": 1},
                # int64 would overflow into a float.
                "amount_minor": {"$sum": {"$toDecimal": "$amount_minor"}},
            }
        },
        {"$sort": {"_id.kind": 1, "_id.currency": 1}},
    ]
    with unavailable_is_transient():
        rows = list(collection(Notice).aggregate(stages))
    return [
        Line(
            Kind(row["_id"]["kind"]),
            row["_id"]["currency"],
            row["count"],
            int(row["amount_minor"].to_decimal()),
        )
        for row in rows
    ]


def _count_mailed(user_ids: set[str], hour: datetime) -> Counter[str]:
    """Return how many mails about transfers each has got in this hour, or may have got; to the maximum."""
    query = {
        "status": {"$in": [NoticeStatus.SENT.value, NoticeStatus.UNKNOWN.value]},
        "kind": {"$in": list(ABOUT_TRANSFERS)},
        "finished_at": {"$gte": hour},
    }
    most = settings.NOTIFICATIONS_PER_HOUR_MAX
    with unavailable_is_transient():
        return Counter(
            {
                user_id: collection(Notice).count_documents({**query, "user_id": user_id}, limit=most)
                for user_id in sorted(user_ids)
            }
        )


def _digest(user_id: str, claimed: Sequence[str], claim: str, hour: datetime, now: datetime) -> None:
    row = notices.digest_row(user_id, hour, due_at=clock.after(hour, HOUR_SECONDS + GRACE_SECONDS))
    insert_missing(collection(Notice), [row])
    crash_point("notices.digest_written")
    pending = {"user_id": user_id, "status": NoticeStatus.PENDING.value}
    due = {**pending, "next_attempt_at": {"$lte": now}, "kind": {"$in": list(ABOUT_TRANSFERS)}}
    change = {
        "$set": {"status": NoticeStatus.DIGESTED.value, "digest_id": row["_id"], "finished_at": now},
        "$unset": {"claim": "", "next_attempt_at": ""},
    }
    with unavailable_is_transient():
        target = collection(Notice)
        others = target.find(due, {"_id": 1}, hint="due_by_recipient").limit(DIGESTED_MAX)
        ids = [found["_id"] for found in others]
        count = target.update_many({**pending, "_id": {"$in": list(claimed)}, "claim": claim}, change)
        more = target.update_many({**due, "_id": {"$in": ids}}, change)
    metrics.NOTIFICATIONS_ENDED.labels(NoticeStatus.DIGESTED.value).inc(
        count.modified_count + more.modified_count
    )
    crash_point("notices.digested")
