"""Budgets and circuits: one request waits for a server a bounded time in all, and what is away is left alone.

The clock is a number that the tests set, and the server an object that they tell to answer or not.
"""

from __future__ import annotations

import contextvars
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from payflow import circuits
from payflow.circuits import Server, ServerAway
from payflow.errors import Transient

BUDGET_SECONDS = 0.25
WAIT_SECONDS_MAX = 30.0


class SilentError(Exception):
    """What the imitated client library raises."""


class AwayError(ServerAway, SilentError):
    """Refused at once."""


class Distant:
    """A server that answers pings once it is told to."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.pinged = threading.Semaphore(0)
        self.pings: list[float] = []
        self.error: Exception = Transient()

    def ping(self, seconds: float) -> None:
        self.pings.append(seconds)
        self.pinged.release()
        if not self.answers.is_set():
            raise self.error


class Clock:
    """Stands still but for `pass_`."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(circuits, "time", clock)
    return clock


@pytest.fixture
def distant() -> Distant:
    return Distant()


@pytest.fixture
def server(distant: Distant) -> Iterator[Server]:
    made = Server(
        name="distant",
        ping=distant.ping,
        budget_seconds=lambda: BUDGET_SECONDS,
        pause_seconds=lambda: 0.05,
        refusal=AwayError,
        failures=(SilentError,),
    )
    yield made
    made.answers()


def fail(server: Server) -> None:
    with pytest.raises(SilentError), server.errand():
        raise SilentError


def ask(server: Server) -> str:
    with server.errand():
        return "asked"


def await_there(server: Server) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while server.is_away:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_all_errands_of_a_request_share_one_budget(server: Server, clock: Clock) -> None:
    with circuits.request_budgets() as accounts:
        left = []
        for _ in range(3):
            with server.errand() as seconds:
                left.append(seconds)
                clock.pass_(0.1)
            clock.pass_(5)  # what the request does besides costs nothing
        assert left == pytest.approx([0.25, 0.15, 0.05])
        with pytest.raises(AwayError), server.errand():
            pytest.fail("the budget is spent")
        assert accounts["distant"].errands == 3
    assert not server.is_away, "it has answered each time"
    with circuits.request_budgets(), server.errand() as seconds:
        assert seconds == BUDGET_SECONDS


def test_an_errand_within_an_errand_is_counted_once(server: Server, clock: Clock) -> None:
    with circuits.request_budgets() as accounts:
        with server.errand():
            clock.pass_(0.1)
            with server.errand() as inner:
                clock.pass_(0.1)
            assert inner == pytest.approx(0.15)
        assert accounts["distant"].spent_seconds == pytest.approx(0.2)


def test_a_question_that_was_sent_is_waited_for_also_when_the_server_went_away(server: Server) -> None:
    with circuits.request_budgets():
        fail(server)
        with server.errand(is_begun=True) as seconds:
            assert seconds is not None


def test_outside_of_a_request_nothing_is_limited_or_refused(server: Server, clock: Clock) -> None:
    fail(server)
    for _ in range(2):
        with server.errand() as seconds:
            assert seconds is None
            clock.pass_(5)
    assert server.is_away


def test_a_server_that_failed_one_request_is_spared_by_all_until_it_answers(
    server: Server, distant: Distant, caplog: pytest.LogCaptureFixture
) -> None:
    with circuits.request_budgets():
        fail(server)
    assert server._outage
    assert server._outage.is_confirmed.wait(WAIT_SECONDS_MAX)
    for _ in range(20):
        with circuits.request_budgets() as accounts:
            with pytest.raises(AwayError), server.errand():
                pytest.fail("it is away")
            assert accounts["distant"].spent_seconds == 0
    assert distant.pinged.acquire(timeout=WAIT_SECONDS_MAX)
    assert distant.pinged.acquire(timeout=WAIT_SECONDS_MAX), "it is pinged again and again"
    distant.answers.set()
    await_there(server)
    with circuits.request_budgets(), server.errand():
        pass
    said = [record.message for record in caplog.records if record.name == "payflow.circuits"]
    assert said[0] == "a server counts as away"
    assert said.count("a server counts as away") == 1
    assert said[-1] == "a server answers again"


def test_a_broken_connection_to_a_server_that_answers_is_no_outage(
    server: Server, distant: Distant, caplog: pytest.LogCaptureFixture
) -> None:
    distant.answers.set()
    fail(server)
    await_there(server)
    assert len(distant.pings) == 1
    assert not caplog.records


def test_a_request_that_comes_before_the_first_ping_is_answered_waits_for_that(
    server: Server, distant: Distant
) -> None:
    pinging, pinged = threading.Event(), threading.Event()

    def ping(_seconds: float) -> None:
        pinging.set()
        assert pinged.wait(WAIT_SECONDS_MAX)

    server.ping, server.budget_seconds = ping, lambda: WAIT_SECONDS_MAX
    with ThreadPoolExecutor() as pool, circuits.request_budgets():
        fail(server)
        assert pinging.wait(WAIT_SECONDS_MAX)
        asking = pool.submit(contextvars.copy_context().run, ask, server)
        with pytest.raises(TimeoutError):
            asking.result(0.2)
        pinged.set()
        assert asking.result(WAIT_SECONDS_MAX) == "asked"


def test_a_ping_must_be_answered_in_a_small_part_of_the_budget(server: Server, distant: Distant) -> None:
    fail(server)
    assert distant.pinged.acquire(timeout=WAIT_SECONDS_MAX)
    assert distant.pings[0] == BUDGET_SECONDS / circuits.PING_SHARE


def test_whatever_a_ping_raises_the_pinging_goes_on(server: Server, distant: Distant) -> None:
    distant.error = RuntimeError("nobody foresaw it")
    fail(server)
    assert distant.pinged.acquire(timeout=WAIT_SECONDS_MAX)
    distant.answers.set()
    await_there(server)


def test_many_failures_at_once_have_one_thread_ping(server: Server, distant: Distant) -> None:
    for _ in range(20):
        fail(server)
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("ping-distant") == 1


def test_who_insists_asks_a_server_that_is_away_within_the_budget(server: Server, clock: Clock) -> None:
    with circuits.request_budgets(), circuits.insisting():
        fail(server)
        with server.errand() as seconds:
            assert seconds == BUDGET_SECONDS
            clock.pass_(1)
        with pytest.raises(AwayError), server.errand():
            pytest.fail("the budget is spent")


def test_a_forked_child_finds_out_by_itself(server: Server) -> None:
    fail(server)
    with server._lock:
        child = os.fork()
        if child == 0:
            is_there = not server.is_away
            server.failed()
            os._exit(0 if is_there and server.is_away else 1)
    assert os.waitpid(child, 0)[1] == 0
