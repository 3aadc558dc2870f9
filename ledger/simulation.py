"""The failure simulation: credits that are refused on purpose, so that compensation can be seen at work.

What must stay true: whether a credit is refused depends on the transaction's id and the settings alone, so
every executor and every repeat reaches the same answer; without Redis, and always in production, nothing is
simulated. The settings live in Redis, where every worker sees them; losing them ends the simulation.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from django.conf import settings

from payflow import redisdb
from payflow.errors import Transient

logger = logging.getLogger(__name__)
KEY = "payflow:simulation"
MILLION = 1_000_000


class FailureType(StrEnum):
    """How a credit fails: refused at once, or hanging past its limit before it fails."""

    ERROR = "ERROR"
    TIMEOUT = "TIMEOUT"


@dataclass(frozen=True, slots=True)
class Simulation:
    """What is simulated; the defaults are nothing. The rate is in failures per million credits."""

    enabled: bool = False
    failure_per_million: int = 0
    fail_transaction_ids: frozenset[str] = frozenset()
    failure_type: FailureType = FailureType.ERROR


OFF = Simulation()


def is_refused(transaction_id: str, state: Simulation) -> bool:
    """Say whether this transaction's credit is to fail: named by its id, or drawn by the id's hash."""
    if not state.enabled:
        return False
    return transaction_id in state.fail_transaction_ids or draw(transaction_id) < state.failure_per_million


def draw(transaction_id: str) -> int:
    """Return the lot of a transaction: 0 to 999,999, spread evenly, the same for ever."""
    digest = hashlib.sha256(f"simulation:{transaction_id}".encode()).digest()
    return int.from_bytes(digest[:8]) % MILLION


def read() -> Simulation:
    """Return what is simulated; settings that make no sense simulate nothing. Raises Transient."""
    with redisdb.unavailable_is_transient():
        stored = redisdb.client().hgetall(KEY)
    try:
        return _parse({str(name): json.loads(value) for name, value in stored.items()})
    except (ValueError, TypeError) as error:
        logger.warning("simulation not understood; it is off", extra={"error": type(error).__name__})
        return OFF


def _parse(fields: dict[str, Any]) -> Simulation:
    return Simulation(
        enabled=fields.get("enabled") is True,
        failure_per_million=int(fields.get("failure_per_million", 0)),
        fail_transaction_ids=frozenset(map(str, fields.get("fail_transaction_ids", ()))),
        failure_type=FailureType(fields.get("failure_type", FailureType.ERROR.value)),
    )


def current() -> Simulation:
    """Return what the saga must simulate: nothing in production, nor while Redis does not answer."""
    if settings.IS_PRODUCTION:
        return OFF
    try:
        return read()
    except Transient:
        return OFF


def change(
    *,
    by: str,
    enabled: bool | None = None,
    failure_per_million: int | None = None,
    fail_transaction_ids: Collection[str] | None = None,
    failure_type: FailureType | None = None,
) -> Simulation:
    """Set what is given, keep the rest; return what is simulated now. `by` is who asked. Raises Transient."""
    given = {
        "enabled": enabled,
        "failure_per_million": failure_per_million,
        "fail_transaction_ids": None if fail_transaction_ids is None else sorted(set(fail_transaction_ids)),
        "failure_type": failure_type and failure_type.value,
    }
    # One field of the hash each: two people who change different ones at once both keep their change.
    fields: dict[Any, Any] = {name: json.dumps(value) for name, value in given.items() if value is not None}
    if fields:
        with redisdb.unavailable_is_transient():
            redisdb.client().hset(KEY, mapping=fields)
        logger.warning("simulation changed", extra={"by": by, "changed": sorted(fields)})
    return read()


def reset(*, by: str) -> Simulation:
    """Simulate nothing any more. Raises Transient."""
    with redisdb.unavailable_is_transient():
        redisdb.client().delete(KEY)
    logger.warning("simulation reset", extra={"by": by})
    return OFF
