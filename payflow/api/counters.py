"""Counts for django-ratelimit, in Redis: all limits of a request in one round trip.

django-ratelimit asks its cache once or twice per limit, and a round trip costs more than all the rest. Here
its `add` only notes the key; `count_noted` then counts everything that was noted. A count may be lost with
Redis at any moment, and is then begun anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from django.core.cache.backends.base import BaseCache

from payflow import redisdb

# Counting and expiring are one step: a key without an end would refuse for ever. What does not fit is not
# counted, so that what fits still passes.
_COUNT = """
local counts = {}
for i, key in ipairs(KEYS) do
  local cost = tonumber(ARGV[2 * #KEYS + i])
  counts[i] = (redis.call('GET', key) or 0) + cost
  if counts[i] <= tonumber(ARGV[#KEYS + i]) then
    redis.call('INCRBY', key, cost)
    if counts[i] == cost then redis.call('EXPIRE', key, ARGV[i]) end
  end
end
return counts
"""


class Counters(BaseCache):
    """What `CACHES["limits"]` is. Django keeps one for each thread, so notes of two requests never mix."""

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        self._noted: list[tuple[str, int]] = []

    def add(self, key: str, value: Any, timeout: Any = None, version: int | None = None) -> bool:
        """Note a key that is to be counted, and that it ends after `timeout` seconds."""
        self._noted.append((key, timeout))
        return True

    def count_noted(self, costs: Sequence[int], limits: Sequence[int]) -> list[int]:
        """Add its cost for each noted key; return the counts in their order. Raises Transient.

        A count above its limit is what it would have been: it was not added to. A cost of 0 only looks.
        """
        noted, self._noted = self._noted, []
        keys, ends = [key for key, _ in noted], [end for _, end in noted]
        with redisdb.unavailable_is_transient():
            return cast("list[int]", redisdb.client().eval(_COUNT, len(keys), *keys, *ends, *limits, *costs))
