"""Celery's way to its broker, for a request that publishes: it keeps to the request's budget for Redis.

What publishes outside of a request, and every worker, waits as long as the broker's own settings say.
"""

from __future__ import annotations

from typing import Any

import redis
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis

from payflow import redisdb

NAME = f"{__name__}:Transport"


class Channel(kombu_redis.Channel):
    """kombu's, over connections of ours."""

    connection_class: type[redis.Connection] = redisdb.budgeted(redis.Connection)
    connection_class_ssl: type[redis.SSLConnection] = redisdb.budgeted(redis.SSLConnection)

    def _connparams(self, *args: Any, **named: Any) -> dict[str, Any]:
        return {**super()._connparams(*args, **named), **redisdb.PLAIN}


class Transport(kombu_redis.Transport):
    """What the schemes `redis` and `rediss` stand for."""

    Channel = Channel


def use() -> None:
    """Have every broker connection of this process made here."""
    TRANSPORT_ALIASES.update(redis=NAME, rediss=NAME)
