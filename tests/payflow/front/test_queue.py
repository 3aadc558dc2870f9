"""Who may wait, and whose turn it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import wraps
from typing import Any

from payflow.front.queue import FULL, SHARE_USED_UP, FairQueue, Ticket


def in_a_loop(test: Callable[[], None]) -> Callable[[], None]:
    """Tickets are made in the event loop."""

    @wraps(test)
    def run() -> None:
        async def scenario() -> None:
            test()

        asyncio.run(scenario())

    return run


def ticket(caller: str) -> Ticket:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    return Ticket({}, caller, receive)


def queue(threads: int = 1, waiting_max: int = 4, per_caller_max: int = 4, wait: float = 1.0) -> FairQueue:
    return FairQueue(
        threads=threads, waiting_max=waiting_max, per_caller_max=per_caller_max, wait_seconds=wait
    )


@in_a_loop
def test_callers_take_turns_and_each_keeps_its_order() -> None:
    waiting = queue(waiting_max=10, per_caller_max=10)
    tickets = [ticket(caller) for caller in "aaabac"]
    assert [waiting.enter(one) for one in tickets] == [None] * 6
    taken = [waiting.take() for _ in range(7)]
    assert [one.caller for one in taken if one] == ["a", "b", "c", "a", "a", "a"]
    assert [one for one in taken if one and one.caller == "a"] == [
        one for one in tickets if one.caller == "a"
    ]
    assert taken[-1] is None


@in_a_loop
def test_idle_threads_do_not_count_as_places_to_wait() -> None:
    waiting = queue(threads=2, waiting_max=3)
    assert [waiting.enter(ticket(str(n))) for n in range(6)] == [None] * 5 + [FULL]
    assert (waiting.waiting, waiting.is_full) == (3, True)
    waiting.take()
    # The thread that took it is busy.
    assert (waiting.waiting, waiting.is_full) == (3, True)
    waiting.done(0.01)
    assert waiting.enter(ticket("late")) is None


@in_a_loop
def test_a_caller_has_a_share_of_what_may_wait() -> None:
    waiting = queue(per_caller_max=2)
    assert [waiting.enter(ticket("a")) for _ in range(4)] == [None, None, SHARE_USED_UP, SHARE_USED_UP]
    assert waiting.enter(ticket("b")) is None


@in_a_loop
def test_fewer_may_wait_while_requests_take_long() -> None:
    waiting = queue(threads=2, waiting_max=100, per_caller_max=50)
    for _ in range(200):
        waiting.enter(ticket("a"))
        waiting.take()
        waiting.done(0.1)
    # In a second two threads begin twenty such requests; two more are taken at once.
    assert [waiting.enter(ticket(str(n))) for n in range(25)] == [None] * 22 + [FULL] * 3
    while waiting.take():
        waiting.done(15.0)
    # However long they take: four for each thread, and not all of them of one caller.
    assert [waiting.enter(ticket("a")) for _ in range(8)] == [None] * 6 + [SHARE_USED_UP] * 2
    assert [waiting.enter(ticket(str(n))) for n in range(5)] == [None] * 4 + [FULL]


@in_a_loop
def test_a_ticket_leaves_once() -> None:
    waiting = queue()
    first, second = ticket("a"), ticket("a")
    for one in (first, second):
        waiting.enter(one)
    assert [waiting.withdraw(second), waiting.withdraw(second)] == [True, False]
    assert waiting.take() is first
    assert waiting.withdraw(first) is False
    assert (waiting.take(), waiting.list_waiting()) == (None, [])
