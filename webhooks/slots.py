"""Slots: how many threads of this process speak to one endpoint at once.

Counted in memory, so that nothing is left over from a process that died. An endpoint that fails, perhaps by
letting us wait, gets one thread, and all such endpoints together half of the threads, so that they leave the
others to those that answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

# Of the 8 threads that the Procfile gives the worker.
SUSPECTS_MAX = 4

_lock = Lock()
_taken: dict[str, int] = {}
_suspects: set[str] = set()
_asked_again: set[str] = set()


@dataclass(frozen=True, slots=True)
class Left:
    """How many slots of the endpoint are still taken, and whether somebody wanted one in vain meanwhile."""

    taken: int
    was_asked: bool


def enter(subscription_id: str, *, limit: int, is_suspect: bool) -> bool:
    """Take one of `limit` slots; False when there is none, and then whoever has one is told to go on."""
    with _lock:
        taken = _taken.get(subscription_id, 0)
        if taken >= limit:
            _asked_again.add(subscription_id)
            return False
        if is_suspect and len(_suspects - {subscription_id}) >= SUSPECTS_MAX:
            return False
        _taken[subscription_id] = taken + 1
        if is_suspect:
            _suspects.add(subscription_id)
        return True


def leave(subscription_id: str) -> Left:
    """Give the slot back."""
    with _lock:
        taken = _taken.pop(subscription_id) - 1
        if taken:
            _taken[subscription_id] = taken
        else:
            _suspects.discard(subscription_id)
        was_asked = subscription_id in _asked_again
        _asked_again.discard(subscription_id)
        return Left(taken, was_asked)
