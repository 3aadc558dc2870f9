"""The inbox: ids of new transactions, waiting in Redis for the next debit batch.

An accelerator only. Losing it loses no transaction: recovery finds them in MongoDB.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings

from payflow import clock, ids, redisdb

KEY = "payflow:inbox"
OLDEST_KEY = "payflow:inbox-oldest"
WAITED_KEY = "payflow:inbox-waited"


@dataclass(frozen=True, slots=True)
class Line:
    """How those in the inbox get on. `is_stuck`: nobody takes any.

    `waited_seconds`: how long who was taken last has waited; 0 where nobody waits or nobody is taken.
    """

    is_stuck: bool = False
    waited_seconds: float = 0.0


def push(transaction_ids: list[str]) -> bool:
    """Add ids; say whether the inbox was empty before, so that somebody must start a saga.

    Raises Transient when Redis does not answer, or did not just now: one wait for it is enough.
    """
    redisdb.ensure_not_spared()
    with redisdb.unavailable_is_transient():
        return redisdb.client().rpush(KEY, *transaction_ids) == len(transaction_ids)


def pop(count_max: int) -> tuple[list[str], bool]:
    """Take up to `count_max` ids; say whether any remain. Raises Transient."""
    with redisdb.unavailable_is_transient():
        pipeline = redisdb.client().pipeline(transaction=False)
        pipeline.lpop(KEY, count_max)
        pipeline.llen(KEY)
        taken, remaining = pipeline.execute()
    return taken or [], remaining > 0


def count() -> int:
    """Return how many ids wait. Raises Transient."""
    with redisdb.unavailable_is_transient():
        return redisdb.client().llen(KEY)


def watch(*, remember_seconds: float) -> Line:
    """Look at the line once per tick. Raises Transient.

    Under load something always waits; only what nobody takes needs somebody who does. How long the line was
    is remembered for SAGA_STALLED_AFTER_SECONDS beyond its end: what was taken last is still being worked on.
    """
    with redisdb.unavailable_is_transient():
        pipeline = redisdb.client().pipeline(transaction=False)
        pipeline.lindex(KEY, 0)
        pipeline.get(OLDEST_KEY)
        pipeline.get(WAITED_KEY)
        oldest, seen, waited = pipeline.execute()
        if oldest is None:
            return Line(is_stuck=False, waited_seconds=float(waited or 0))
        waited_seconds = _waited_seconds(oldest)
        pipeline.set(OLDEST_KEY, oldest, px=round(remember_seconds * 1000))
        pipeline.set(WAITED_KEY, waited_seconds, px=round(settings.SAGA_STALLED_AFTER_SECONDS * 1000))
        pipeline.execute()
    is_stuck = oldest == seen
    return Line(is_stuck, 0.0 if is_stuck else waited_seconds)


def _waited_seconds(transaction_id: str) -> float:
    """Bounded by the time after which a transaction that still waits is declined."""
    made_at_ms = ids.made_at_ms(transaction_id)
    if made_at_ms is None:
        return 0.0
    waited_seconds = (clock.epoch_ms(clock.now()) - made_at_ms) / 1000
    return min(max(waited_seconds, 0.0), settings.SAGA_EXPIRES_AFTER_SECONDS)
