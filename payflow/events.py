"""Events: what happened, told on the Redis bus to whoever listens.

At least once. An event's id is deterministic (`<transaction>:<type>`), so a repeat is recognisable.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from payflow import clock, redisdb

CHANNEL = "payflow:events"
PIPELINE_MAX = 1_000


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


@dataclass(frozen=True, slots=True)
class Event:
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
    for start in range(0, len(events), PIPELINE_MAX):
        with redisdb.unavailable_is_transient():
            pipeline = redisdb.client().pipeline(transaction=False)
            for event in events[start : start + PIPELINE_MAX]:
                if id(event.data) not in encoded:
                    encoded[id(event.data)] = _encode(event.data)
                pipeline.publish(CHANNEL, _message(event, encoded[id(event.data)]))
            pipeline.execute()


def _message(event: Event, data: str) -> str:
    head = {"id": event.id, "type": event.type.value, "created_at": clock.rfc3339(event.created_at)}
    return f'{_encode(head)[:-1]},"data":{data}}}'


_encode = json.JSONEncoder(separators=(",", ":")).encode
