"""Slots: which endpoints the threads of this process speak to at once.

What must stay true: however many endpoints fail or are slow, some threads are left to those that answer at
once, and some to the other queues that this process works on, the sweep's among them. An endpoint that fails
or is slow is a suspect: it gets one thread, its owner's suspects together get one, and all suspects share
SUSPECTS_MAX. Who finds no slot waits, and is named when one becomes free.

All of it is in memory, so that nothing is left over from a process that died.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

# Of the 8 threads that the Procfile gives the worker, for the queues of webhooks and of notifications.
TURNS_MAX = 6
SUSPECTS_MAX = 3
# Whose attempts take longer keeps a thread for itself.
SLOW_SECONDS = 1.0
# Beyond these the sweep finds who waits, and a slow attempt shows again who is slow.
WAITING_MAX = 1_000
SLOW_MAX = 10_000

_lock = Lock()


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who wants to speak to an endpoint, and how many may at once."""

    subscription_id: str
    user_id: str
    limit: int
    is_suspect: bool


_serving: list[Visitor] = []
_waiting: dict[str, Visitor] = {}
_slow: dict[str, None] = {}


def enter(visitor: Visitor) -> bool:
    """Take a slot; False when there is none, and then a `leave` names the endpoint in its turn."""
    name = visitor.subscription_id
    with _lock:
        if _fits(visitor):
            _waiting.pop(name, None)
            _serving.append(visitor)
            return True
        if len(_waiting) < WAITING_MAX:
            _waiting.setdefault(name, visitor)
        return False


def leave(visitor: Visitor) -> list[str]:
    """Give the slot back; return whom to look at now: who waits longest, and this one if it waits."""
    with _lock:
        _serving.remove(visitor)
        names = [name for name, waiting in _waiting.items() if _fits(waiting)][:1]
        if visitor.subscription_id in _waiting and visitor.subscription_id not in names:
            names.append(visitor.subscription_id)
        for name in names:
            del _waiting[name]
        return names


def note_pace(subscription_id: str, *, seconds: float) -> None:
    """Remember whether an endpoint's last attempt was a slow one."""
    with _lock:
        _slow.pop(subscription_id, None)
        if seconds >= SLOW_SECONDS:
            _slow[subscription_id] = None
            if len(_slow) > SLOW_MAX:
                del _slow[next(iter(_slow))]


def is_slow(subscription_id: str) -> bool:
    """Say whether an endpoint's last attempt was a slow one."""
    return subscription_id in _slow


def _fits(visitor: Visitor) -> bool:
    if len(_serving) >= TURNS_MAX:
        return False
    if sum(each.subscription_id == visitor.subscription_id for each in _serving) >= visitor.limit:
        return False
    suspects = [each for each in _serving if each.is_suspect]
    is_users_turn = all(each.user_id != visitor.user_id for each in suspects)
    return not visitor.is_suspect or (len(suspects) < SUSPECTS_MAX and is_users_turn)
