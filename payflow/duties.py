"""Periodic duties: work that beat asks for again and again. `settings.DUTIES` is the one list of them.

Invariants:
- A message never carries a deadline: it says "run this duty if a run is due". Surplus messages, however many
  a worker finds after a pause, end at the claim.
- Every time here is MongoDB's own (`$$NOW`), so machines whose clocks differ agree about it.
- `ran_at` moves only when a run has ended without an error. So a duty's age grows whatever the reason: no
  beat, no worker, a lost message, an exception each time.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pymongo
from django.conf import settings
from mongoengine import DateTimeField, Document, LongField, StringField
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from payflow import clock, metrics
from payflow.errors import Transient
from payflow.mongodb import collection, unavailable_is_transient
from payflow.pausing import PausingTask

logger = logging.getLogger(__name__)
# A duty is overdue after so many intervals, and after DUTY_OVERDUE_SECONDS_MIN.
OVERDUE_INTERVALS = 3
# The metrics must not wait longer for MongoDB; they then show what the last answer implies.
METRICS_SECONDS_MAX = 0.5


class DutyRun(Document):
    """When a duty ran; its id is the duty's name. All times are the server's."""

    id = StringField(primary_key=True)
    # Which run holds the claim, when it began, and from when on another may begin.
    token = StringField()
    began_at = DateTimeField()
    free_at = DateTimeField()
    # When a run last ended without an error; and how far the clock of its machine was ahead.
    ran_at = DateTimeField()
    offset_ms = LongField()
    # When somebody first asked for its age; counts until it has run.
    since = DateTimeField()

    meta = {"collection": "duties", "auto_create_index": False}

    def __str__(self) -> str:
        return str(self.id)


class Skipped(Exception):  # noqa: N818 - it reads as what happened
    """The run did nothing, because another one is at work: it does not count."""


@dataclass(frozen=True, slots=True)
class Age:
    """How long ago a duty last ran, or was first missed, and how far its machine's clock was ahead."""

    seconds: float
    is_overdue: bool
    offset_seconds: float


class DutyTask(PausingTask):
    """The base of a duty's task: a message has it run only when a run is due, and a good run is noted."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task. A direct call, as tests make them, runs it always and notes nothing."""
        if self.request.called_directly:
            return super().__call__(*args, **kwargs)
        self.pause_if_full()
        name = duty_of(self.name)
        offset_ms = claim(name)
        if offset_ms is None:
            return None
        is_good = False
        try:
            result = self.run(*args, **kwargs)
            is_good = True
        except Skipped:
            return None
        finally:
            release(name, is_good=is_good, offset_ms=offset_ms)
        return result


def duty_of(task: str) -> str:
    """Return the name of the duty that a task performs."""
    return next(name for name, duty in settings.DUTIES.items() if duty.task == task)


def claim(name: str) -> int | None:
    """Begin a run if one is due; return by how many milliseconds this machine's clock is ahead, or None.

    Of several that ask at once, one begins. While it runs it keeps others away for RECOVERY_LOCK_SECONDS, for
    it may have died; afterwards for most of the duty's interval. Raises Transient.
    """
    token, lock_ms = uuid4().hex, round(settings.RECOVERY_LOCK_SECONDS * 1000)
    free_at = {"$ifNull": ["$free_at", "$$NOW"]}
    # What is reserved for longer than any claim lasts was written by a server whose clock has gone back.
    latest = {"$add": ["$$NOW", max(lock_ms, _pause_ms(name))]}
    is_due = {"$or": [{"$lte": [free_at, "$$NOW"]}, {"$gt": [free_at, latest]}]}
    ours = {"token": token, "began_at": "$$NOW", "free_at": {"$add": ["$$NOW", lock_ms]}}
    change = {field: {"$cond": [is_due, value, f"${field}"]} for field, value in ours.items()}
    try:
        with unavailable_is_transient():
            row: Any = collection(DutyRun, lasting=False).find_one_and_update(
                {"_id": name}, [{"$set": change}], upsert=True, return_document=ReturnDocument.AFTER
            )
    except DuplicateKeyError:  # two were the first, at once
        return None
    if row["token"] != token:
        return None
    return _offset_ms(name, row)


def _offset_ms(name: str, row: dict[str, Any]) -> int:
    offset_ms = clock.epoch_ms(clock.now()) - clock.epoch_ms(row["began_at"])
    if abs(offset_ms) > settings.CLOCK_SKEW_SECONDS_MAX * 1000:
        extra = {"duty": name, "offset_seconds": offset_ms / 1000}
        logger.warning("this machine's clock differs from MongoDB's", extra=extra)
    return offset_ms


def release(name: str, *, is_good: bool, offset_ms: int = 0) -> None:
    """End a run; `is_good` when it did its work. Without MongoDB the claim runs out by itself."""
    change: dict[str, Any] = {"free_at": {"$add": ["$began_at", _pause_ms(name)]}}
    if is_good:
        change |= {"ran_at": "$$NOW", "offset_ms": offset_ms}
    try:
        with unavailable_is_transient():
            collection(DutyRun, lasting=False).update_one({"_id": name}, [{"$set": change}])
    except Transient:
        logger.warning("run of a duty not noted", extra={"duty": name, "good": is_good})


def _pause_ms(name: str) -> int:
    """Return the least time between the beginnings of two runs: half a tick of beat below the interval."""
    every_seconds = settings.DUTIES[name].every_seconds
    return round((every_seconds - min(every_seconds, settings.DUTY_TICK_SECONDS_MAX) / 2) * 1000)


def ages() -> dict[str, Age]:
    """Return each duty's age by MongoDB's clock. Raises Transient."""
    # A time in the future was written by a clock that has gone back since: it says nothing, so it counts.
    age_ms = {"$abs": {"$subtract": ["$$NOW", {"$ifNull": ["$ran_at", "$since"]}]}}
    pipeline: list[dict[str, Any]] = [
        {"$match": {"_id": {"$in": list(settings.DUTIES)}}},
        {"$project": {"age_ms": age_ms, "offset_ms": 1}},
    ]
    with unavailable_is_transient():
        rows = {row["_id"]: row for row in collection(DutyRun).aggregate(pipeline)}
        for name in settings.DUTIES:
            if rows.get(name, {}).get("age_ms") is None:
                _begin_to_count(name)
    return {name: _age(name, rows.get(name, {})) for name in settings.DUTIES}


def _begin_to_count(name: str) -> None:
    change = [{"$set": {"since": {"$ifNull": ["$since", "$$NOW"]}}}]
    with suppress(DuplicateKeyError):  # another has begun to
        collection(DutyRun, lasting=False).update_one({"_id": name}, change, upsert=True)


def _age(name: str, row: dict[str, Any]) -> Age:
    seconds = (row.get("age_ms") or 0) / 1000
    return Age(seconds, seconds > overdue_after_seconds(name), (row.get("offset_ms") or 0) / 1000)


def overdue_after_seconds(name: str) -> float:
    """Return the age from which on a duty is overdue."""
    return max(settings.DUTY_OVERDUE_SECONDS_MIN, OVERDUE_INTERVALS * settings.DUTIES[name].every_seconds)


# --- For the metrics --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Seen:
    """What MongoDB last said, and when: while it is silent, ages grow from there."""

    at: float
    seconds: dict[str, float]


_seen = _Seen(0.0, {})


def export_ages() -> None:
    """Set the metric of each duty's age, from what MongoDB says now or, where it is silent, said last."""
    try:
        with pymongo.timeout(METRICS_SECONDS_MAX):
            _seen.seconds = {name: age.seconds for name, age in ages().items()}
        _seen.at = time.monotonic()
    except Transient:
        logger.info("ages of duties not read")
    silent_seconds = time.monotonic() - _seen.at
    for name, seconds in _seen.seconds.items():
        metrics.DUTY_AGE.labels(name).set(seconds + silent_seconds)
