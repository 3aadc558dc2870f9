"""Real worker processes: killed in the middle, robbed of Redis, and given endpoints that are dead or slow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from django.conf import settings
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from payflow import clock, redisdb
from payflow.mongodb import collection
from tests.transfers import world
from tests.transfers.workers import prefork_worker
from tests.webhooks import hooks
from tests.webhooks.hooks import ALICE, BOB, LIFE, one_event, only_delivery, outcomes, subscribe
from tests.webhooks.receivers import hang, receiving
from tests.webhooks.workers import died, eventually, kill, webhooks_worker
from transfers import inbox, recovery, tasks
from webhooks import fanout, slots
from webhooks.documents import Delivery

QUICK = {
    "WEBHOOK_TOTAL_SECONDS": "1",
    "WEBHOOK_CLAIM_SECONDS": "3",
    "WEBHOOK_RETRY_SECONDS": "0.5,0.5,0.5,0.5,0.5,0.5,0.5",
    "WEBHOOK_TURN_SECONDS": "0.5",
    "WEBHOOK_CIRCUIT_SECONDS": "1",
}
LATE = {**QUICK, "WEBHOOK_TOTAL_SECONDS": "30", "WEBHOOK_CLAIM_SECONDS": "40"}


class Receiver:
    """Counts what it gets, by event and by place, and answers as it is told to."""

    def __init__(self, httpserver: HTTPServer) -> None:
        self.status = 200
        self.hold = threading.Event()
        self.hold.set()
        self.seconds = 0.0
        self.begun: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()
        self.url = httpserver.url_for("/hook")
        httpserver.expect_request("/hook").respond_with_handler(self._answer)

    def _answer(self, request: Request) -> Response:
        event_id = request.headers["webhook-id"]
        self.begun[event_id] += 1
        self.hold.wait(60)
        time.sleep(self.seconds)
        if self.status == 200:
            self.taken[event_id] += 1
        return Response(status=self.status)


@pytest.fixture
def receiver(make_httpserver: HTTPServer) -> Receiver:
    make_httpserver.clear()
    return Receiver(make_httpserver)


@pytest.fixture(scope="module")
def make_httpserver() -> HTTPServer:
    """One that answers many at once."""
    server = HTTPServer(threaded=True)
    server.start()
    yield server
    server.clear()
    server.stop()


DELIVERED = {"status": "DELIVERED"}


def delivered(subscription_id: str, count: int) -> bool:
    query = {"subscription_id": subscription_id, "status": "DELIVERED"}
    return collection(Delivery).count_documents(query) == count


def test_a_worker_delivers_what_it_is_nudged_to(receiver: Receiver) -> None:
    subscription_id = subscribe(url=receiver.url)
    with webhooks_worker(QUICK):
        hooks.tell(10)
        eventually(lambda: delivered(subscription_id, 40))
    assert set(receiver.taken.values()) == {1}
    assert hooks.sequences(subscription_id) == list(range(1, 41))
    assert {row["attempt_count"] for row in hooks.deliveries(subscription_id)} == {1}


def test_a_worker_killed_while_the_receiver_thinks_is_followed_by_another(receiver: Receiver) -> None:
    receiver.hold.clear()
    subscription_id = subscribe(url=receiver.url)
    slow = {**QUICK, "WEBHOOK_TOTAL_SECONDS": "4", "WEBHOOK_CLAIM_SECONDS": "6"}
    with webhooks_worker(slow) as first:
        one_event(subscription_id)
        eventually(lambda: receiver.begun)
        kill(first)
    receiver.hold.set()
    row = only_delivery(subscription_id)
    assert (row["status"], outcomes(row)) == ("PENDING", ["unfinished"])
    with webhooks_worker(QUICK):
        eventually(lambda: delivered(subscription_id, 1))
    row = only_delivery(subscription_id)
    assert (outcomes(row), row["attempt_count"]) == (["unfinished", 200], 2)
    assert receiver.begun == {row["event_id"]: 2}


def test_a_worker_told_to_stop_ends_what_it_has_begun_and_gives_the_rest_back(
    receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    receiver.hold.clear()
    subscriptions = [subscribe(ALICE, url=receiver.url) for _ in range(20)]
    with webhooks_worker(LATE) as worker:
        for subscription_id in subscriptions:
            one_event(subscription_id)
        eventually(lambda: receiver.begun)
        worker.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(settings.CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT + 1)
        receiver.hold.set()
        assert worker.wait(30) == 0
        assert "CRITICAL" not in "".join(capfd.readouterr())
        assert redisdb.client().hlen("payflow:celery:unacked") == 0
        assert collection(Delivery).count_documents(DELIVERED) == len(receiver.begun) < len(subscriptions)
        with webhooks_worker(QUICK):
            eventually(lambda: collection(Delivery).count_documents(DELIVERED) == len(subscriptions))
    assert set(receiver.begun.values()) == {1}


# What the receiver has got by then, and what the documents say of the first delivery's attempts.
AT_POINTS = [
    ("sequencing.placed", 200, [200]),
    ("delivery.claimed", 200, ["unfinished", 200]),
    ("delivery.answered", 200, ["unfinished", 200]),
    ("delivery.delivered", 200, [200]),
    ("delivery.failed", 500, [500, 200]),
    ("circuit.counted", 500, [500, 200]),
]


@pytest.mark.parametrize(("point", "status", "expected"), AT_POINTS, ids=[point for point, *_ in AT_POINTS])
def test_a_worker_that_dies_anywhere_in_an_attempt_loses_nothing(
    point: str, status: int, expected: list, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.status = status
    subscription_id = subscribe(url=receiver.url)
    hooks.tell()
    crash = {"PAYFLOW_CRASH_AT": point, "PAYFLOW_DATA_DIR": str(tmp_path)}
    crash |= {"WEBHOOK_ENDPOINT_CONCURRENCY": "1"}
    with webhooks_worker({**QUICK, **crash}) as first:
        eventually(lambda: died(first))
        receiver.status = 200
    with webhooks_worker({**QUICK, **crash}):
        eventually(lambda: delivered(subscription_id, len(LIFE)))
    rows = hooks.deliveries(subscription_id)
    assert [row["sequence"] for row in rows] == [1, 2, 3, 4]
    assert outcomes(rows[0]) == expected
    for row in rows:
        # The document counts what was begun; what was begun and never sent is the only difference.
        sent = receiver.begun[row["event_id"]]
        assert row["attempt_count"] == len(row["attempts"])
        assert sent in (row["attempt_count"], row["attempt_count"] - outcomes(row).count("unfinished"))
        assert receiver.taken[row["event_id"]] >= 1


HALF_A_FANOUT = """
import sys
from datetime import datetime
import django
django.setup()
from tests.webhooks import hooks
from webhooks import fanout, slots
fanout.INSERT_MAX = 3
at = datetime.fromisoformat(sys.argv[1])
fanout.fan_out([event for n in range(5) for event in hooks.events_of(f"txn_{n}", at=at)])
"""


def test_a_fan_out_that_dies_half_way_is_completed_by_telling_again(tmp_path: Path) -> None:
    first, second, at = subscribe(ALICE), subscribe(BOB), clock.now()
    crash = {"PAYFLOW_CRASH_AT": "fanout.inserted", "PAYFLOW_DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", HALF_A_FANOUT, at.isoformat()],
        env={**os.environ, **crash, "DJANGO_SETTINGS_MODULE": "payflow.settings"},
        cwd=settings.BASE_DIR,
        start_new_session=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == -9
    assert len(hooks.deliveries()) == 3
    hooks.place(first)
    for number in range(5):
        fanout.fan_out(hooks.events_of(f"txn_{number}", at=at))
    for subscription_id in (first, second):
        hooks.place(subscription_id)
        rows = hooks.deliveries(subscription_id)
        assert [row["sequence"] for row in rows] == list(range(1, 21))
        assert {row["event_id"] for row in rows} == {f"txn_{n}:{e.value}" for n in range(5) for e in LIFE}


@pytest.mark.parametrize(
    "point",
    ["saga.moved_to_debited", "saga.moved_to_completed", "fanout.found", "fanout.inserted", "fanout.nudged"],
)
def test_a_saga_that_dies_around_the_fan_out_still_tells_everything(point: str, tmp_path: Path) -> None:
    """Between the change and the fan-out, inside it, and between it and the telling."""
    alice, bob = world.person("alice", balance_minor=10_000), world.person("bob")
    subscriptions = [subscribe(alice), subscribe(bob)]
    transaction = world.start(alice, bob, 500)
    crash = {
        "PAYFLOW_CRASH_AT": point,
        "PAYFLOW_DATA_DIR": str(tmp_path),
        "SAGA_STALLED_AFTER_SECONDS": "0.5",
    }
    with prefork_worker(crash, children=1) as worker:
        inbox.push([transaction])
        tasks.start_saga()
        eventually(lambda: died(worker))
    world.make_due(transaction)
    recovery.recover_stalled()
    assert "due_at" not in world.row_of(transaction)
    for subscription_id in subscriptions:
        hooks.place(subscription_id)
        told = [row["event_id"] for row in hooks.deliveries(subscription_id)]
        assert told == world.expected_events(transaction)


def test_an_emptied_redis_forgets_no_retry(receiver: Receiver) -> None:
    receiver.status = 503
    subscription_id = subscribe(url=receiver.url)
    with webhooks_worker(QUICK):
        hooks.tell(3)
        eventually(lambda: sum(receiver.begun.values()) >= 5)
        for _ in range(5):
            redisdb.client().flushall()
            time.sleep(0.1)
        receiver.status = 200
        hooks.tell(2)
        redisdb.client().flushall()
        eventually(lambda: delivered(subscription_id, 5 * len(LIFE)))
    assert set(receiver.taken.values()) == {1}
    for row in hooks.deliveries(subscription_id):
        assert row["attempt_count"] == receiver.begun[row["event_id"]] == len(row["attempts"])


def test_a_dead_endpoint_delays_no_other(receiver: Receiver) -> None:
    with receiving(hang) as dead_receiver, webhooks_worker(QUICK):
        dead = [subscribe(ALICE, url=dead_receiver.url) for _ in range(3)]
        alive = subscribe(ALICE, url=receiver.url)
        hooks.tell(15)
        eventually(lambda: delivered(alive, 60))
        rows = [row for subscription_id in dead for row in hooks.deliveries(subscription_id)]
    assert set(receiver.taken.values()) == {1}
    # In the order in which they were told, all of them would have been tried before.
    assert 0 in {row["attempt_count"] for row in rows}
    assert {row["status"] for row in rows} == {"PENDING"}


class SlowReceiver:
    """Takes its time, and counts how many wait for it at once."""

    def __init__(self, wait: Callable[[], object]) -> None:
        self.begun = self.peak = self._now = 0
        self._wait = wait
        self._lock = threading.Lock()
        self._server = HTTPServer(threaded=True)
        self._server.expect_request("/slow").respond_with_handler(self._answer)
        self.url = ""

    def __enter__(self) -> SlowReceiver:
        self._server.start()
        self.url = self._server.url_for("/slow")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.clear()
        self._server.stop()

    def _answer(self, _: Request) -> Response:
        with self._lock:
            self.begun += 1
            self._now += 1
            self.peak = max(self.peak, self._now)
        self._wait()
        with self._lock:
            self._now -= 1
        return Response()


def test_a_slow_endpoint_with_a_long_queue_delays_no_other(receiver: Receiver) -> None:
    go_on = threading.Event()
    with SlowReceiver(lambda: go_on.wait(60)) as slow_receiver, webhooks_worker(LATE):
        slow = subscribe(ALICE, url=slow_receiver.url)
        hooks.tell(50)
        eventually(lambda: slow_receiver.begun)
        alive = subscribe(ALICE, url=receiver.url)
        hooks.tell(10)
        eventually(lambda: delivered(alive, 40))
        assert {row["status"] for row in hooks.deliveries(slow)} == {"PENDING"}
        # Two threads at a time, and no more.
        assert slow_receiver.peak <= 2
        go_on.set()


def test_many_slow_endpoints_leave_threads_to_the_others_and_fill_no_queue(receiver: Receiver) -> None:
    """None of them fails: each takes its time, and has more to get than it can take meanwhile."""
    owners = [f"{number:024x}" for number in range(1, 11)]
    with SlowReceiver(lambda: time.sleep(1.1)) as slow_receiver, webhooks_worker(LATE):
        slow = [subscribe(owner, url=slow_receiver.url) for owner in owners]
        for owner in owners:
            hooks.tell(10, sender=owner)
        eventually(lambda: collection(Delivery).distinct("subscription_id", DELIVERED) == slow)
        # Each has shown how slow it is; what was begun before ends, too.
        begun = slow_receiver.begun
        eventually(lambda: slow_receiver.begun >= begun + slots.TURNS_MAX)
        slow_receiver.peak = 0
        alive = subscribe(ALICE, url=receiver.url)
        for _ in range(10):
            one_event(alive)
        begun = slow_receiver.begun
        eventually(lambda: delivered(alive, 10) and slow_receiver.begun > begun + 10)
        assert 0 < slow_receiver.peak <= slots.SUSPECTS_MAX
        assert redisdb.client().llen("payflow:celery:payflow-webhooks") <= 2 * len(slow)


def test_what_was_sent_is_what_is_stored(receiver: Receiver, make_httpserver: HTTPServer) -> None:
    subscription_id = subscribe(url=receiver.url)
    with webhooks_worker(QUICK):
        hooks.tell(2)
        eventually(lambda: delivered(subscription_id, 8))
    bodies = {
        json.loads(request.get_data())["id"]: request.get_data().decode()
        for request, _ in make_httpserver.log
    }
    assert bodies == {row["event_id"]: row["payload"] for row in hooks.deliveries(subscription_id)}
