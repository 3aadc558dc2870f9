"""The inbox: ids of new transactions, waiting in Redis for the next debit batch.

An accelerator only. Losing it loses no transaction: recovery finds them in MongoDB.
"""

from __future__ import annotations

from payflow import redisdb

KEY = "payflow:inbox"
OLDEST_KEY = "payflow:inbox-oldest"


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
        ids, remaining = pipeline.execute()
    return ids or [], remaining > 0


def count() -> int:
    """Return how many ids wait. Raises Transient."""
    with redisdb.unavailable_is_transient():
        return redisdb.client().llen(KEY)


def is_stuck(*, remember_seconds: float) -> bool:
    """Say whether the id that has waited longest did so already when this was last asked. Raises Transient.

    Under load something always waits; only what nobody takes needs somebody who does.
    """
    with redisdb.unavailable_is_transient():
        pipeline = redisdb.client().pipeline(transaction=False)
        pipeline.lindex(KEY, 0)
        pipeline.get(OLDEST_KEY)
        oldest, seen = pipeline.execute()
        if oldest is not None:
            redisdb.client().set(OLDEST_KEY, oldest, px=round(remember_seconds * 1000))
    return oldest is not None and oldest == seen
