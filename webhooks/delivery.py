"""One attempt at one delivery: claim it, send it, write down what came of it.

What must stay true:
- An attempt is written down before it is made, so that one whose worker died shows, too, without a result. A
  claim runs out, and the delivery is tried again: at least once.
- What a delivery says is what happened: it is DELIVERED when a receiver has said so with a 2xx, whoever heard
  it; when it is due next is said only by who still holds its claim.
- Only a failure makes a dead letter. Every status that is not 2xx is one, redirects and 410 included; the
  schedule decides when it is tried again.
"""

from __future__ import annotations

import logging
import secrets as random
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.conf import settings
from pymongo import ReturnDocument

from payflow import clock, metrics
from payflow.crashpoints import crash_point
from payflow.mongodb import collection, unavailable_is_transient
from webhooks import schedule, selectors
from webhooks.circuit import Failure
from webhooks.documents import Delivery, DeliveryStatus
from webhooks.signing import signature_headers
from webhooks.transport import NOT_MADE, Answer, Line

logger = logging.getLogger(__name__)
# More than a schedule has: attempts of several rounds. attempt_count counts those that are gone, too.
ATTEMPTS_KEPT_MAX = 30
# The word of an attempt that has begun and has no result: it is under way, or its worker died.
UNFINISHED = "unfinished"
# The word of one that could not be made for want of what it was to send.
NO_PAYLOAD = "internal"
# An attempt that could not be made waits for so long.
NOT_MADE_SECONDS = 5.0
_GONE = 410
_NEEDED = dict.fromkeys(("event_id", "sequence", "tries", "claim"), 1)
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to send, and what signs."""

    subscription_id: str
    secrets: list[str] = field(repr=False)
    line: Line


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt: what its failure says, if it failed, and its time; or it was not made."""

    failure: Failure | None = None
    seconds: float = 0.0
    was_made: bool = True


def claim(*, subscription_id: str, now: datetime) -> Row | None:
    """Take the delivery of an endpoint that is due longest, and write down that an attempt begins.

    Of those due since the same moment, the one with the lowest sequence. Raises Transient.
    """
    token = random.token_hex(8)
    begun = {
        "at": now,
        "status_code": None,
        "latency_ms": None,
        "error": UNFINISHED,
        "answer": "",
        "claim": token,
    }
    until = clock.after(now, settings.WEBHOOK_CLAIM_SECONDS)
    change = {
        "$set": {"claim": token, "next_attempt_at": until},
        "$inc": {"attempt_count": 1, "tries": 1},
        "$push": {"attempts": {"$each": [begun], "$slice": -ATTEMPTS_KEPT_MAX}},
    }
    with unavailable_is_transient():
        row = collection(Delivery, lasting=False).find_one_and_update(
            due(subscription_id, now),
            change,
            projection=_NEEDED,
            sort=[("next_attempt_at", 1), ("sequence", 1)],
            hint="due",
            return_document=ReturnDocument.AFTER,
        )
    if row is not None:
        crash_point("delivery.claimed")
    return row


def due(subscription_id: str, now: datetime) -> dict[str, Any]:
    """Return the query for an endpoint's deliveries that are due and that nobody is at."""
    return {
        "status": DeliveryStatus.PENDING.value,
        "subscription_id": subscription_id,
        "next_attempt_at": {"$lte": now},
    }


def attempt(endpoint: Endpoint, row: Row) -> Outcome:
    """Send a claimed delivery and write down the result. Raises Transient."""
    payload = selectors.find_payloads([row["event_id"]]).get(row["event_id"])
    if payload is None:
        # Only somebody's hand removes what a delivery refers to. That is no failure of the endpoint's.
        logger.error("event of a delivery is not stored", extra={"delivery_id": row["_id"]})
        _write_down(row, Answer(None, NO_PAYLOAD, "", None, 0.0), {}, _ended(DeliveryStatus.DEAD))
        return Outcome()
    headers = signature_headers(
        message_id=row["event_id"], attempted_at=clock.now(), payload=payload, secrets=endpoint.secrets
    )
    headers |= {"PayFlow-Delivery": row["_id"], "PayFlow-Sequence": str(row["sequence"])}
    answer = endpoint.line.post(payload.encode(), headers)
    crash_point("delivery.answered")
    if answer.error == NOT_MADE:
        _give_back(row)
        return Outcome(was_made=False)
    metrics.WEBHOOK_ATTEMPT_SECONDS.observe(answer.seconds)
    metrics.WEBHOOK_ATTEMPTS.labels(_outcome(answer)).inc()
    if is_success(answer):
        _write_down(row, answer, {}, _ended(DeliveryStatus.DELIVERED))
        crash_point("delivery.delivered")
        return Outcome(seconds=answer.seconds)
    failure = _failure(answer)
    wait = schedule.retry_delay_seconds(
        delivery_id=row["_id"],
        tries=row["tries"],
        retry_seconds=settings.WEBHOOK_RETRY_SECONDS,
        retry_after_seconds=failure.retry_after_seconds,
    )
    change = _ended(DeliveryStatus.DEAD) if wait is None else _due_again(wait)
    if not _write_down(row, answer, {"claim": row["claim"]}, change):
        # The claim ran out: somebody else decides. That this attempt was made is true all the same.
        _write_down(row, answer, {}, {})
    crash_point("delivery.failed")
    return Outcome(failure, answer.seconds)


def is_success(answer: Answer) -> bool:
    """Say whether a receiver has taken a delivery: 2xx, as the Standard Webhooks specification has it."""
    return answer.status_code is not None and 200 <= answer.status_code < 300


def resume(*, subscription_id: str, since: datetime, limit: int) -> int:
    """Have up to `limit` deliveries that wait tried now, with their schedule begun anew; return how many.

    For an endpoint that has a new chance `since` then: what was tried after that has had it, and what
    somebody is at stays as it is. Raises Transient.
    """
    now = clock.now()
    query = {
        "status": DeliveryStatus.PENDING.value,
        "subscription_id": subscription_id,
        "$or": [{"next_attempt_at": {"$gt": now}}, {"tries": {"$gt": 0}}],
        "claim": None,
        "attempts": {"$not": {"$elemMatch": {"at": {"$gte": since}}}},
    }
    with unavailable_is_transient():
        target = collection(Delivery, lasting=False)
        ids = [row["_id"] for row in target.find(query, {"_id": 1}).hint("due").limit(limit)]
        again = {"$set": {"next_attempt_at": now, "tries": 0}}
        target.update_many({**query, "_id": {"$in": ids}}, again)
    return len(ids)


def has_due(*, subscription_id: str, now: datetime) -> bool:
    """Say whether an endpoint has something due."""
    with unavailable_is_transient():
        return collection(Delivery).find_one(due(subscription_id, now), {"_id": 1}, hint="due") is not None


def _give_back(row: Row) -> None:
    """Leave a claimed delivery as if nobody had begun an attempt, for a moment."""
    change = {
        "$pull": {"attempts": {"claim": row["claim"]}},
        "$inc": {"attempt_count": -1, "tries": -1},
        **_due_again(NOT_MADE_SECONDS),
    }
    with unavailable_is_transient():
        query = {"_id": row["_id"], "claim": row["claim"]}
        collection(Delivery, lasting=False).update_one(query, change)


def _failure(answer: Answer) -> Failure:
    asks = answer.retry_after if answer.status_code in schedule.THROTTLING else None
    return Failure(
        is_gone=answer.status_code == _GONE,
        retry_after_seconds=schedule.retry_after_seconds(asks, now=clock.now()),
    )


def _ended(status: DeliveryStatus) -> dict[str, Any]:
    return {
        "$set": {"status": status.value, "finished_at": clock.now()},
        "$unset": {"next_attempt_at": "", "claim": ""},
    }


def _due_again(wait_seconds: float) -> dict[str, Any]:
    return {"$set": {"next_attempt_at": clock.after(clock.now(), wait_seconds)}, "$unset": {"claim": ""}}


def _write_down(row: Row, answer: Answer, requiring: dict[str, Any], change: dict[str, Any]) -> bool:
    """Complete the attempt's record and change the delivery with it; False when `requiring` does not hold."""
    result = {
        "attempts.$.status_code": answer.status_code,
        "attempts.$.latency_ms": round(answer.seconds * 1000),
        "attempts.$.error": answer.error,
        "attempts.$.answer": answer.text,
    }
    query = {"_id": row["_id"], "attempts.claim": row["claim"], **requiring}
    with unavailable_is_transient():
        updated = collection(Delivery, lasting=False).update_one(
            query, {**change, "$set": {**change.get("$set", {}), **result}}
        )
    status = change.get("$set", {}).get("status")
    if updated.modified_count and status:
        metrics.WEBHOOK_DELIVERIES_ENDED.labels(status).inc()
    return bool(updated.modified_count)


def _outcome(answer: Answer) -> str:
    """Return a metric's label: one of few words, whatever receivers think of."""
    if answer.status_code is None:
        return answer.error or "unknown"
    return f"{answer.status_code // 100}xx" if 200 <= answer.status_code < 600 else "other"
