"""The inbox: ids of new transactions, waiting in Redis for the next debit batch.

An accelerator only. Losing it loses no transaction: recovery finds them in MongoDB.

Those of batches wait in a line of their own, so that a payment does not wait behind the thousands that one
request has asked for. A step takes both: what is asked for one by one first, and at least a part of batches.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from typing import Any

from django.conf import settings

from payflow import clock, ids, redisdb

KEY = "payflow:inbox"
BATCHED_KEY = "payflow:inbox:batched"
# This part of a step is for batches, if any wait, however many single transfers do.
BATCHED_PARTS = 4
# A list, the newest first: `<milliseconds since 1970> <id>|<id>`, of each line the id that waits longest.
LOOKS_KEY = "payflow:inbox-looks"
# A look is remembered for so many ticks longer than it is of use: some ticks come late.
TICKS_LATE_MAX = 5
LOOKS_MAX = 1_000
# In one step of the server's: how many of each line fit depends on what there is.
_POP = """
local function take(key, count)
  if count <= 0 then return {} end
  return redis.call('LPOP', key, count) or {}
end
local taken = take(KEYS[2], tonumber(ARGV[2]))
for _, key in ipairs(KEYS) do
  for _, id in ipairs(take(key, tonumber(ARGV[1]) - #taken)) do table.insert(taken, id) end
end
return {taken, redis.call('LLEN', KEYS[1]) + redis.call('LLEN', KEYS[2])}
"""
_AT_MS = re.compile(r"[0-9]{1,14}")


@dataclass(frozen=True, slots=True)
class Line:
    """How those in the inbox get on. `is_stuck`: nobody takes any.

    `taken_until`: what was made by then had been taken SAGA_STALLED_AFTER_SECONDS ago; None where that is not
    known or nobody takes any.
    """

    is_stuck: bool = False
    taken_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Look:
    at_ms: int
    heads: tuple[str, ...]

    @property
    def taken_until_ms(self) -> int | None:
        """Return until when all were made that had been taken by then; None where a head does not tell."""
        made = [ids.made_at_ms(head) for head in self.heads if head]
        if None in made:
            return None
        # A batch shares its time: of those made with the head others wait behind it.
        return min([self.at_ms, *(made_at_ms - 1 for made_at_ms in made if made_at_ms is not None)])

    def is_like(self, earlier: _Look) -> bool:
        """Say whether a line has the same head as earlier: nobody has taken from it."""
        return any(head and head == before for head, before in zip(self.heads, earlier.heads, strict=True))


def push(transaction_ids: list[str], *, batched: bool = False) -> bool:
    """Add ids; say whether their line was empty before, so that somebody must start a saga.

    Raises Transient when Redis does not answer.
    """
    with redisdb.unavailable_is_transient():
        key = BATCHED_KEY if batched else KEY
        return redisdb.client().rpush(key, *transaction_ids) == len(transaction_ids)


def pop(count_max: int) -> tuple[list[str], bool]:
    """Take up to `count_max` ids; say whether any remain. Raises Transient."""
    with redisdb.unavailable_is_transient():
        taken, remaining = redisdb.client().eval(
            _POP, 2, KEY, BATCHED_KEY, count_max, count_max // BATCHED_PARTS
        )
    return taken, remaining > 0


def count() -> int:
    """Return how many ids wait. Raises Transient."""
    with redisdb.unavailable_is_transient():
        pipeline = redisdb.client().pipeline(transaction=False)
        pipeline.llen(KEY)
        pipeline.llen(BATCHED_KEY)
        return sum(pipeline.execute())


def watch() -> Line:
    """Look at the line, once per tick of recovery, and remember what was seen. Raises Transient.

    Under load something always waits; only what nobody takes needs somebody who does.
    """
    stalled_after_seconds = settings.SAGA_STALLED_AFTER_SECONDS
    late_seconds = TICKS_LATE_MAX * settings.RECOVERY_EVERY_SECONDS
    kept = min(LOOKS_MAX, ceil((stalled_after_seconds + late_seconds) / settings.RECOVERY_EVERY_SECONDS))
    now = clock.now()
    now_ms = clock.epoch_ms(now)
    with redisdb.unavailable_is_transient():
        pipeline = redisdb.client().pipeline(transaction=False)
        pipeline.lindex(KEY, 0)
        pipeline.lindex(BATCHED_KEY, 0)
        pipeline.lrange(LOOKS_KEY, 0, kept - 1)
        head, batched_head, remembered = pipeline.execute()
        look = _Look(now_ms, (head or "", batched_head or ""))
        pipeline.lpush(LOOKS_KEY, f"{now_ms} {'|'.join(look.heads)}")
        pipeline.ltrim(LOOKS_KEY, 0, kept - 1)
        pipeline.pexpire(LOOKS_KEY, ceil((stalled_after_seconds + late_seconds) * 1000))
        pipeline.execute()
    looks = [earlier for text in remembered if (earlier := _look(text))]
    # Two ticks may run one right after the other: in between nobody need have taken any.
    a_tick_ago_ms = now_ms - round(settings.RECOVERY_EVERY_SECONDS * 500)
    before = next((earlier for earlier in looks if earlier.at_ms <= a_tick_ago_ms), None)
    if before and look.is_like(before):
        return Line(is_stuck=True)
    then_ms = now_ms - round(stalled_after_seconds * 1000)
    then = next((earlier.taken_until_ms for earlier in looks if earlier.at_ms <= then_ms), None)
    return Line(taken_until=None if then is None else clock.after(now, (then - now_ms) / 1000))


def is_moving() -> bool:
    """Say whether somebody has taken from the inbox between the newest looks at it. Raises Transient."""
    with redisdb.unavailable_is_transient():
        remembered: list[Any] = redisdb.client().lrange(LOOKS_KEY, 0, 1)
    looks = [look for text in remembered if (look := _look(text))]
    if len(looks) < 2 or looks[0].is_like(looks[1]):
        return False
    age_ms = clock.epoch_ms(clock.now()) - looks[0].at_ms
    return age_ms < 1000 * TICKS_LATE_MAX * settings.RECOVERY_EVERY_SECONDS


def _look(text: str) -> _Look | None:
    at_ms, _, heads = text.partition(" ")
    head, _, batched_head = heads.partition("|")
    return _Look(int(at_ms), (head, batched_head)) if _AT_MS.fullmatch(at_ms) else None
