"""The inbox: ids of new transactions, waiting in Redis for the next debit batch.

An accelerator only. Losing it loses no transaction: recovery finds them in MongoDB.
"""

from __future__ import annotations

from payflow import redisdb

KEY = "payflow:inbox"


def push(transaction_ids: list[str]) -> bool:
    """Add ids; say whether the inbox was empty before, so that somebody must start a saga.

    Raises Transient when Redis does not answer.
    """
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


def is_empty() -> bool:
    """Say whether nothing waits. Raises Transient."""
    with redisdb.unavailable_is_transient():
        return redisdb.client().llen(KEY) == 0
