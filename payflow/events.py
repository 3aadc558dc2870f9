"""Events: what happened, told on the Redis bus: to who listens now, and by a stream to who catches up.

At least once, and in order: of one transaction's events each is first told after those before it. An event's
id is deterministic (`<transaction>:<type>`), so a repeat, which may come late, is recognisable. Channel and
stream carry the same messages in the same order. The stream keeps the newest ones only, and like all of
Redis it may be lost.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from django.conf import settings

from payflow import clock, redisdb

CHANNEL = "payflow:events"
# Each entry has one field, `event`: the message.
STREAM = "payflow:events:stream"
STREAM_FIELD = "event"
# Redis does nothing else meanwhile: about a millisecond.
BATCH_MAX = 200
# One command for a whole batch: a pipeline of PUBLISH and XADD costs this process ten times as much.
_TELL = f"""
for i = 3, #ARGV do
  redis.call('PUBLISH', ARGV[1], ARGV[i])
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', '{STREAM_FIELD}', ARGV[i])
end
"""


class EventType(StrEnum):
    """Everything that can happen to a transaction."""

    TRANSACTION_INITIATED = "TRANSACTION_INITIATED"
    TRANSACTION_COMPLETED = "TRANSACTION_COMPLETED"
    TRANSACTION_FAILED = "TRANSACTION_FAILED"
    DEBIT_SUCCESS = "DEBIT_SUCCESS"
    DEBIT_FAILED = "DEBIT_FAILED"
    CREDIT_SUCCESS = "CREDIT_SUCCESS"
    CREDIT_FAILED = "CREDIT_FAILED"
    REFUND_REQUESTED = "REFUND_REQUESTED"
    REFUND_COMPLETED = "REFUND_COMPLETED"
    REFUND_FAILED = "REFUND_FAILED"


class Event(NamedTuple):
    """One thing that happened to one transaction; `data` is the transaction as the API shows it."""

    transaction_id: str
    type: EventType
    created_at: datetime
    data: dict[str, Any]

    @property
    def id(self) -> str:
        """The same for every repeat."""
        return f"{self.transaction_id}:{self.type.value}"


def publish(events: Sequence[Event]) -> None:
    """Publish in order, in few round trips. Raises Transient when Redis does not answer.

    A message is {id, type, created_at, data}. Events of one move share their data: it is encoded once.
    """
    encoded: dict[int, str] = {}
    for start in range(0, len(events), BATCH_MAX):
        messages = []
        for event in events[start : start + BATCH_MAX]:
            if id(event.data) not in encoded:
                encoded[id(event.data)] = _encode(event.data)
            messages.append(_message(event, encoded[id(event.data)]))
        with redisdb.unavailable_is_transient():
            redisdb.client().eval(_TELL, 1, STREAM, CHANNEL, settings.EVENTS_STREAM_LENGTH_MAX, *messages)


def _message(event: Event, data: str) -> str:
    id_, type_, at = _quote(event.id), event.type.value, clock.rfc3339(event.created_at)
    return f'{{"id":{id_},"type":"{type_}","created_at":"{at}","data":{data}}}'


_encode = json.JSONEncoder(separators=(",", ":")).encode
_quote = json.encoder.encode_basestring_ascii
