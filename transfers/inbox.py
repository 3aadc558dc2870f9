"""The inbox: ids of new transactions, waiting in Redis for the next debit batch.

An accelerator only. Losing it loses no transaction: recovery finds them in MongoDB.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from math import ceil

from django.conf import settings

from payflow import clock, ids, redisdb

KEY = "payflow:inbox"
# A list, the newest first: `<milliseconds since 1970> <the id that had waited longest, if any>`.
LOOKS_KEY = "payflow:inbox-looks"
# A look is remembered for so many ticks longer than it is of use: some ticks come late.
TICKS_LATE_MAX = 5
LOOKS_MAX = 1_000
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
    head: str

    @property
    def taken_until_ms(self) -> int | None:
        """Return until when all were made that had been taken by then; None where the head does not tell."""
        if not self.head:
            return self.at_ms
        made_at_ms = ids.made_at_ms(self.head)
        # A batch shares its time: of those made with the head others wait behind it.
        return None if made_at_ms is None else min(made_at_ms - 1, self.at_ms)


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
        pipeline.lrange(LOOKS_KEY, 0, kept - 1)
        head, remembered = pipeline.execute()
        pipeline.lpush(LOOKS_KEY, f"{now_ms} {head or ''}")
        pipeline.ltrim(LOOKS_KEY, 0, kept - 1)
        pipeline.pexpire(LOOKS_KEY, ceil((stalled_after_seconds + late_seconds) * 1000))
        pipeline.execute()
    looks = [look for text in remembered if (look := _look(text))]
    # Two ticks may run one right after the other: in between nobody need have taken any.
    a_tick_ago_ms = now_ms - round(settings.RECOVERY_EVERY_SECONDS * 500)
    before = next((look for look in looks if look.at_ms <= a_tick_ago_ms), None)
    if head and before and before.head == head:
        return Line(is_stuck=True)
    then_ms = now_ms - round(stalled_after_seconds * 1000)
    then = next((look.taken_until_ms for look in looks if look.at_ms <= then_ms), None)
    return Line(taken_until=None if then is None else clock.after(now, (then - now_ms) / 1000))


def _look(text: str) -> _Look | None:
    at_ms, _, head = text.partition(" ")
    return _Look(int(at_ms), head) if _AT_MS.fullmatch(at_ms) else None
