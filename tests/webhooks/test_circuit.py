"""Endpoints that fail: left alone for a while, tried by one, given up in the end, and their owners told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from payflow import clock
from tests.webhooks import hooks
from tests.webhooks.hooks import one_event, subscribe, subscription, work
from webhooks import circuit, slots, turns
from webhooks.circuit import Failure

PLAIN = Failure(is_gone=False, retry_after_seconds=0.0)


class Switch:
    """A receiver that works or does not."""

    def __init__(self, httpserver: HTTPServer) -> None:
        self.works = False
        self.meanwhile: Callable[[], object] = lambda: None
        self.count = 0
        httpserver.expect_request("/hook").respond_with_handler(self._answer)

    def _answer(self, request: Request) -> Response:
        self.count += 1
        self.meanwhile()
        return Response(status=200 if self.works else 500)


@pytest.fixture
def switch(httpserver: HTTPServer) -> Switch:
    return Switch(httpserver)


@pytest.fixture
def subscription_id(httpserver: HTTPServer, switch: Switch) -> str:
    return subscribe(url=httpserver.url_for("/hook"))


def attempts(subscription_id: str) -> list[int]:
    return [row["attempt_count"] for row in hooks.deliveries(subscription_id)]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how long each pause was to be, in seconds."""
    seen: list[float] = []
    pause = circuit.schedule.circuit_seconds

    def note(**facts: Any) -> float:
        seconds = pause(**facts)
        seen.extend([seconds] if seconds else [])
        return seconds

    monkeypatch.setattr(circuit.schedule, "circuit_seconds", note)
    return seen


def test_after_failures_in_a_row_the_endpoint_is_left_alone_and_nothing_uses_up_tries(
    subscription_id: str, switch: Switch, pauses: list[float]
) -> None:
    hooks.tell(5)
    work(subscription_id)
    work(subscription_id)
    assert switch.count == 5
    assert attempts(subscription_id) == [1] * 5 + [0] * 15
    assert pauses == [30]


def test_a_probe_that_fails_leaves_it_alone_for_longer(
    subscription_id: str, switch: Switch, pauses: list[float]
) -> None:
    hooks.tell(5)
    work(subscription_id)
    for count, seconds in ((6, 60), (7, 120), (8, 240)):
        hooks.make_due(subscription_id)
        work(subscription_id)
        assert switch.count == count
        assert pauses.pop() == seconds


def test_a_probe_that_arrives_lets_everything_through(subscription_id: str, switch: Switch) -> None:
    hooks.tell(5)
    work(subscription_id)
    hooks.make_due(subscription_id)
    switch.works = True
    work(subscription_id)
    assert {row["status"] for row in hooks.deliveries(subscription_id)} == {"DELIVERED"}
    seen = subscription(subscription_id)
    assert seen["consecutive_failures"] == 0
    assert not {"paused_until", "failing_since"} & seen.keys()


def test_only_one_tries_an_endpoint_and_who_looks_meanwhile_delays_nothing(
    subscription_id: str, switch: Switch
) -> None:
    hooks.tell(5)
    work(subscription_id)
    hooks.make_due(subscription_id)
    switch.works = True
    seen: list[list[str]] = []

    def look_like_another_process() -> None:
        if switch.count == 6:
            other = threading.Thread(target=lambda: seen.append(other_process(subscription_id)))
            other.start()
            other.join()

    switch.meanwhile = look_like_another_process
    work(subscription_id)
    assert seen == [[]]
    assert {row["status"] for row in hooks.deliveries(subscription_id)} == {"DELIVERED"}


def other_process(subscription_id: str) -> list[str]:
    """Take a turn as a worker does that shares no memory with this one."""
    serving = list(slots._serving)
    slots._serving.clear()
    try:
        return turns.take(subscription_id=subscription_id)
    finally:
        slots._serving.extend(serving)


def test_a_success_in_between_begins_the_count_anew(subscription_id: str, switch: Switch) -> None:
    for _ in range(4):
        circuit.note_failure(subscription_id=subscription_id, now=clock.now(), failure=PLAIN)
    switch.works = True
    one_event(subscription_id)
    work(subscription_id)
    assert subscription(subscription_id)["consecutive_failures"] == 0


def test_failures_are_counted_once_each_by_many_at_once(subscription_id: str) -> None:
    def fail(_: int) -> bool:
        return circuit.note_failure(subscription_id=subscription_id, now=clock.now(), failure=PLAIN)

    with ThreadPoolExecutor(4) as threads:
        told = list(threads.map(fail, range(10)))
    assert subscription(subscription_id)["consecutive_failures"] == 10
    assert told.count(True) == 6


@pytest.mark.parametrize(
    ("failures", "hours", "is_disabled"),
    [(20, 72.1, True), (19, 72.1, False), (20, 71.9, False), (500, 1, False)],
)
def test_an_endpoint_is_disabled_after_many_failures_over_many_hours(
    failures: int, hours: float, is_disabled: bool, subscription_id: str
) -> None:
    since = clock.now() - timedelta(hours=hours)
    hooks.change(subscription_id, consecutive_failures=failures - 1, failing_since=since)
    assert circuit.note_failure(subscription_id=subscription_id, now=clock.now(), failure=PLAIN)
    seen = subscription(subscription_id)
    assert seen["is_active"] is not is_disabled
    assert seen.get("disabled_because") == ("FAILING" if is_disabled else None)


def test_the_time_of_failing_begins_with_the_first_failure(subscription_id: str) -> None:
    first = clock.now()
    for minutes in range(3):
        later = first + timedelta(minutes=minutes)
        circuit.note_failure(subscription_id=subscription_id, now=later, failure=PLAIN)
    assert subscription(subscription_id)["failing_since"] == first


def test_the_owner_of_a_disabled_endpoint_is_told_until_told(
    subscription_id: str, settings: LazySettings
) -> None:
    now = clock.now()
    assert circuit.owners_to_tell(now=now, limit=10) == []
    gone = Failure(is_gone=True, retry_after_seconds=0.0)
    circuit.note_failure(subscription_id=subscription_id, now=now, failure=gone)
    assert circuit.owners_to_tell(now=now, limit=10) == [subscription_id]
    assert circuit.owners_to_tell(now=now, limit=10) == []
    later = now + timedelta(seconds=circuit.NOTICE_AGAIN_SECONDS + 1)
    assert circuit.owners_to_tell(now=later, limit=10) == [subscription_id]
    notice = circuit.owner_notice(subscription_id=subscription_id)
    assert notice is not None
    assert (notice.user_id, notice.reason, notice.since) == (hooks.ALICE, "GONE", now)
    # Somebody who tells of another time that it was disabled ends nothing.
    circuit.owner_told(subscription_id=subscription_id, since=clock.after(now, -60))
    assert circuit.owner_notice(subscription_id=subscription_id) == notice
    circuit.owner_told(subscription_id=subscription_id, since=notice.since)
    assert circuit.owner_notice(subscription_id=subscription_id) is None
    assert circuit.owners_to_tell(now=later + timedelta(days=1), limit=10) == []


def test_an_endpoint_that_its_owner_disables_meanwhile_stays_the_owners(subscription_id: str) -> None:
    hooks.change(subscription_id, is_active=False, disabled_because="OWNER")
    circuit.note_failure(subscription_id=subscription_id, now=clock.now(), failure=Failure(True, 0.0))
    assert subscription(subscription_id)["disabled_because"] == "OWNER"
    assert "owner_notice" not in subscription(subscription_id)
