"""Periodic duties: each runs when it is due, whatever the clocks say, and shows when it does not.

Real workers and a real beat where messages are the point; a worker's clock is shifted in its own process.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery.contrib.testing.worker import start_worker
from django.conf import LazySettings
from django.conf import settings as settings_

from ledger import monitor
from payflow import duties, redisdb
from payflow.beat import QUEUE_MESSAGES_MAX
from payflow.celery import app
from payflow.duties import DutyRun, DutyTask
from payflow.errors import Transient
from payflow.mongodb import collection
from payflow.stack.supervisor import read_procfile
from tests.api.client import Api
from tests.payflow.shifted import clock_ahead
from tests.transfers.workers import eventually, prefork_worker
from tests.webhooks.workers import webhooks_worker
from transfers import recovery, tasks
from webhooks import tasks as webhook_tasks

ALL = sorted(settings_.DUTIES)
QUEUES_OF_BEAT = ("payflow-saga", "payflow-notifications")
# Importing them registers the tasks.
TASKS = (tasks, webhook_tasks)


def run_of(name: str) -> dict[str, Any]:
    return collection(DutyRun).find_one({"_id": name}) or {}


def has_run(name: str) -> bool:
    return "ran_at" in run_of(name)


def publish(name: str) -> None:
    """Ask for a duty as beat does."""
    entry = settings_.CELERY_BEAT_SCHEDULE[name]
    app.send_task(entry["task"], **entry.get("options", {}))


def age(name: str, seconds: float, *fields: str) -> None:
    """Have what is noted about a duty be so much older."""
    change = {field: {"$subtract": [f"${field}", round(seconds * 1000)]} for field in fields}
    collection(DutyRun).update_one({"_id": name}, [{"$set": change}])


@contextmanager
def a_worker() -> Iterator[None]:
    """A worker for every queue, in a thread of this process, so that a test can change what it does."""
    queues = ["payflow-saga", "payflow-webhooks", "payflow-notifications"]
    with start_worker(app, pool="solo", queues=queues, perform_ping_check=False, shutdown_timeout=30):
        yield


# --- The list ---------------------------------------------------------------------------------------------


def test_everything_that_beat_asks_for_is_a_duty_without_a_deadline() -> None:
    schedule = settings_.CELERY_BEAT_SCHEDULE
    assert sorted(schedule) == ALL
    for name, entry in schedule.items():
        assert entry["task"] == settings_.DUTIES[name].task
        assert isinstance(app.tasks[entry["task"]], DutyTask), name
        assert "expires" not in entry.get("options", {})


@pytest.mark.parametrize("name", ALL)
def test_no_duty_waits_for_beat_to_stay_up_longer_than_a_minute(name: str) -> None:
    assert settings_.CELERY_BEAT_SCHEDULE[name]["schedule"] <= 60


def test_beat_asks_for_every_duty_as_soon_as_it_starts() -> None:
    """One that restarts every few minutes would otherwise never ask for what is due every ten."""
    command = shlex.split(read_procfile(settings_.BASE_DIR / "Procfile")["beat"])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    beat = subprocess.Popen(command, env={**os.environ, "PATH": path})
    try:
        eventually(lambda: published() == {duty.task for duty in settings_.DUTIES.values()})
    finally:
        beat.kill()
        beat.wait()
        app.control.purge()


def test_beat_without_a_worker_leaves_a_bounded_number_of_messages(tmp_path: Path) -> None:
    command = shlex.split(read_procfile(settings_.BASE_DIR / "Procfile")["beat"])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    often = {"RECOVERY_EVERY_SECONDS": "0.1", "NOTIFICATIONS_EVERY_SECONDS": "0.1"}
    log = tmp_path / "beat.log"
    with log.open("w") as file:
        beat = subprocess.Popen(command, env={**os.environ, "PATH": path, **often}, stderr=file)
    try:
        eventually(lambda: log.read_text().count("queue is full") == 2, within_seconds=120)
        assert waiting() == [QUEUE_MESSAGES_MAX] * 2
        # Beat goes on: it fills what becomes free, and no more than that.
        for queue in QUEUES_OF_BEAT:
            redisdb.client().rpop(f"payflow:celery:{queue}", 30)
        eventually(lambda: log.read_text().count("queue is full") == 4, within_seconds=120)
        assert waiting() == [QUEUE_MESSAGES_MAX] * 2
        assert log.read_text().count("queue has room again") == 2
    finally:
        beat.kill()
        beat.wait()
        app.control.purge()


def waiting() -> list[Any]:
    """How many messages wait in each queue that beat publishes to."""
    return [redisdb.client().llen(f"payflow:celery:{queue}") for queue in QUEUES_OF_BEAT]


def published() -> set[str]:
    client = redisdb.client()
    keys = [f"payflow:celery:{queue}" for queue in QUEUES_OF_BEAT]
    messages: list[Any] = [message for key in keys for message in client.lrange(key, 0, -1)]
    return {json.loads(message)["headers"]["task"] for message in messages}


# --- Clocks that differ -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [-60, 4, 60])
def test_a_worker_whose_clock_differs_performs_its_duties(seconds: int, tmp_path: Path) -> None:
    env = clock_ahead(tmp_path, seconds)
    with webhooks_worker(env), prefork_worker(env, children=1):
        for name in ALL:
            publish(name)
        eventually(lambda: all(has_run(name) for name in ALL))
    for name in ALL:
        assert abs(run_of(name)["offset_ms"] - seconds * 1000) < 3_000


def test_ages_do_not_depend_on_the_clock_of_the_worker(tmp_path: Path) -> None:
    with prefork_worker(clock_ahead(tmp_path, -600), children=1):
        publish("recovery")
        eventually(lambda: has_run("recovery"))
    assert duties.ages()["recovery"].seconds < 300


def test_health_says_that_clocks_differ_by_more_than_is_assumed() -> None:
    for offset_seconds, status in ((9, "ok"), (-11, "degraded")):
        assert duties.claim("recovery") is not None
        duties.release("recovery", is_good=True, offset_ms=offset_seconds * 1000)
        body = Api().get("/health").json()
        assert (body["status"], body["duties"]["clock_offset_seconds"]) == (status, abs(offset_seconds))
        collection(DutyRun).delete_many({})


# --- One run at a time ------------------------------------------------------------------------------------


def test_of_many_messages_one_has_the_duty_run(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[object] = []
    monkeypatch.setattr(recovery, "recover_stalled", lambda **given: runs.append(given))
    for _ in range(20):
        publish("recovery")
    with a_worker():
        eventually(lambda: redisdb.client().llen("payflow:celery:payflow-saga") == 0 and has_run("recovery"))
    # A slow machine may take longer for all of them than the duty's interval.
    assert 1 <= len(runs) <= 3


def test_of_claims_at_once_one_holds() -> None:
    together, held = threading.Barrier(8), []

    def claim() -> None:
        together.wait()
        held.append(duties.claim("recovery"))

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len([each for each in held if each is not None]) == 1


def test_a_run_keeps_others_away_until_it_ends_and_a_while_longer(settings: LazySettings) -> None:
    settings.RECOVERY_LOCK_SECONDS = 60
    assert duties.claim("audit") is not None
    assert duties.claim("audit") is None
    duties.release("audit", is_good=True)
    assert duties.claim("audit") is None
    age("audit", 5.1, "free_at")
    assert duties.claim("audit") is not None


def test_a_run_that_died_keeps_nobody_away_for_long(settings: LazySettings) -> None:
    settings.RECOVERY_LOCK_SECONDS = 60
    assert duties.claim("webhook_removal") is not None
    age("webhook_removal", 60, "free_at")
    assert duties.claim("webhook_removal") is not None


def test_a_claim_of_a_clock_that_has_gone_back_holds_nobody_up() -> None:
    assert duties.claim("recovery") is not None
    age("recovery", -3_600, "free_at")
    assert duties.claim("recovery") is not None


# --- What does not run shows ------------------------------------------------------------------------------


def raise_transient(**_: object) -> None:
    raise Transient("not now")


def raise_unforeseen(**_: object) -> None:
    raise KeyError("surprise")


@pytest.mark.parametrize("fails", [raise_transient, raise_unforeseen])
def test_a_run_that_fails_does_not_count(fails: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "tick", fails)
    with a_worker():
        publish("audit")
        eventually(lambda: run_of("audit").get("free_at") and not is_running("audit"))
    assert not has_run("audit")


def is_running(name: str) -> bool:
    row = run_of(name)
    lock_seconds = settings_.RECOVERY_LOCK_SECONDS
    return (row["free_at"] - row["began_at"]).total_seconds() == lock_seconds != duties._pause_ms(name) / 1000


def test_a_run_that_leaves_the_work_to_another_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def skip(**_: object) -> None:
        raise duties.Skipped

    monkeypatch.setattr(recovery, "recover_stalled", skip)
    with a_worker():
        publish("recovery")
        eventually(lambda: run_of("recovery").get("free_at") and not is_running("recovery"))
    assert not has_run("recovery")


@pytest.mark.parametrize("name", ALL)
def test_health_and_metrics_tell_of_a_duty_that_does_not_run(name: str) -> None:
    anyone = Api()
    assert anyone.get("/health").json()["duties"]["overdue"] == []
    limit = duties.overdue_after_seconds(name)
    age(name, limit + 1, "since")
    body = anyone.get("/health").json()
    assert (body["status"], body["duties"]["status"], body["duties"]["overdue"]) == (
        "degraded",
        "overdue",
        [name],
    )
    assert body["duties"]["ages_seconds"][name] > limit
    assert age_metric(name) > limit
    assert duties.claim(name) is not None
    duties.release(name, is_good=True)
    assert anyone.get("/health").json()["status"] == "ok"
    assert age_metric(name) < limit
    # Whatever it was that ran once: it counts from there.
    age(name, limit + 1, "ran_at")
    assert anyone.get("/health").json()["duties"]["overdue"] == [name]


def age_metric(name: str) -> float:
    found = re.search(rf'payflow_duty_age_seconds{{duty="{name}".*', Api().get("/metrics").content.decode())
    assert found is not None
    return float(found.group().split()[-1])


def test_a_report_that_cannot_be_made_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duties, "ages", raise_transient)
    answer = Api().get("/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["duties"] == {"status": "unknown"}
