"""Nudges: messages that have a worker look at an endpoint now instead of at the next sweep.

An accelerator only. Losing one delays a delivery by a sweep, so nothing here fails: not the saga's step that
fans out, and not the request that has something sent again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from celery import current_app
from kombu.exceptions import OperationalError
from redis import RedisError

from payflow import redisdb
from payflow.errors import Transient

logger = logging.getLogger(__name__)
DELIVER_TASK = "webhooks.deliver"
SPREAD_TASK = "webhooks.spread"
# An endpoint whose nudge waits in the queue gets no other for so long: with the worker away or busy the queue
# must not grow. A message that was lost delays its endpoint by so much. A message's own limit compares two
# machines' clocks, so it lies far above CLOCK_SKEW_SECONDS_MAX (15 at most).
_WAITING_KEY = "payflow:webhooks:nudged:"
WAITING_SECONDS = 15
MESSAGE_SECONDS_MAX = 300
BATCH_MAX = 500


def nudge(subscription_ids: Iterable[str]) -> None:
    """Have these endpoints looked at soon, in this order, by one message for each BATCH_MAX of them."""
    ids = list(dict.fromkeys(subscription_ids))
    if redisdb.is_spared():
        return
    try:
        for first in range(0, len(ids), BATCH_MAX):
            fresh = _without_those_waiting(ids[first : first + BATCH_MAX])
            if len(fresh) == 1:
                _send(DELIVER_TASK, fresh[0])
            elif fresh:
                _send(SPREAD_TASK, fresh)
    except (Transient, OperationalError, RedisError) as error:
        logger.info("nobody nudged; the sweep finds what is due", extra={"error": type(error).__name__})


def spread(subscription_ids: list[str]) -> None:
    """Publish a message for each endpoint. Raises OperationalError; the sweep finds the rest."""
    for subscription_id in subscription_ids:
        _send(DELIVER_TASK, subscription_id)


def taken(subscription_id: str) -> None:
    """Note that an endpoint is being looked at: what comes from now on needs a nudge of its own."""
    try:
        with redisdb.unavailable_is_transient():
            redisdb.client().delete(_WAITING_KEY + subscription_id)
    except Transient:
        logger.info("a nudge stays noted for a moment", extra={"subscription_id": subscription_id})


def _without_those_waiting(subscription_ids: list[str]) -> list[str]:
    with redisdb.unavailable_is_transient():
        pipeline = redisdb.client().pipeline(transaction=False)
        for subscription_id in subscription_ids:
            pipeline.set(_WAITING_KEY + subscription_id, 1, nx=True, ex=WAITING_SECONDS)
        is_new = pipeline.execute()
    return [id_ for id_, new in zip(subscription_ids, is_new, strict=True) if new]


def _send(task: str, argument: str | list[str]) -> None:
    current_app.send_task(task, (argument,), expires=MESSAGE_SECONDS_MAX)
