"""Measures webhooks: deliveries per second to a fast receiver, and what a long queue costs transfers.

Both throughputs of the ratio come from one run, a moment apart. The receiver of the long queue takes a second
for each delivery, as a bad one does.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from payflow import clock
from payflow.events import Event, EventType
from payflow.ids import new_id
from payflow.mongodb import collection
from payflow.stack.paths import ROOT
from tests.load import http_part, windows
from tests.load.load import LoadError
from tests.load.target import Target
from webhooks import fanout, services
from webhooks.documents import Delivery

SLOW_SECONDS = 1.0
DELIVERED_SECONDS_MAX = 600.0
POLL_SECONDS = 0.05
BATCH = 500


def deliveries_alone(target: Target) -> dict[str, Any]:
    """Deliveries per second from their being written down to the last one's arrival."""
    count = target.sizes.deliveries
    target.say(f"webhooks alone: {count} deliveries to a fast receiver")
    with _receiver(0.0) as url:
        subscription_id = _subscribe(url)
        with windows.measured(target.sessions) as window:
            _write_down(subscription_id, count)
            _await_delivered(subscription_id, count)
        services.delete_subscription(user_id=_owner(subscription_id), webhook_id=subscription_id)
    del window.cpu[windows.CLIENT]
    return {"deliveries": count, **window.cost_of(count)}


def beside_a_long_queue(target: Target) -> dict[str, Any]:
    """Transfers per second without and with so many deliveries pending at a receiver that takes a second."""
    count = target.sizes.deliveries_pending
    target.say("transfers without pending deliveries")
    without = http_part.throughput_window(target)
    with _receiver(SLOW_SECONDS) as url:
        subscription_id = _subscribe(url)
        _write_down(subscription_id, count)
        target.say(f"transfers with {count} deliveries pending at a receiver that takes {SLOW_SECONDS:.0f} s")
        beside = http_part.throughput_window(target)
        pending = {"subscription_id": subscription_id, "status": "PENDING"}
        left = collection(Delivery).count_documents(pending)
        services.delete_subscription(user_id=_owner(subscription_id), webhook_id=subscription_id)
    return {
        "pending_before": count,
        "pending_after": left,
        "without_per_second": without["per_second"],
        "with_per_second": beside["per_second"],
        "ratio": beside["per_second"] / without["per_second"],
        "others_cpus": max(without["others_cpus"], beside["others_cpus"]),
    }


@contextmanager
def _receiver(seconds: float) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.load.receiver", str(seconds)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/hook"
    finally:
        process.communicate(timeout=30)


def _owner(subscription_id: str) -> str:
    """Return a user whom nobody pays: what is told is what this part writes down."""
    return _owners[subscription_id]


_owners: dict[str, str] = {}


def _subscribe(url: str) -> str:
    user_id = new_id("nobody")
    events = [EventType.TRANSACTION_COMPLETED.value]
    created, _ = services.create_subscription(user_id=user_id, url=url, events=events)
    _owners[created.id] = user_id
    return created.id


def _write_down(subscription_id: str, count: int) -> None:
    owner = _owner(subscription_id)
    for begin in range(0, count, BATCH):
        fanout.fan_out([_event(owner) for _ in range(min(BATCH, count - begin))])


def _event(owner: str) -> Event:
    transaction_id, now = new_id("txn"), clock.now()
    data = {
        "id": transaction_id,
        "sender_id": owner,
        "receiver_id": owner,
        "history": [],
        "padding": "x" * 700,
    }
    return Event(transaction_id, EventType.TRANSACTION_COMPLETED, now, data)


def _await_delivered(subscription_id: str, count: int) -> None:
    deadline = time.monotonic() + DELIVERED_SECONDS_MAX
    done = {"subscription_id": subscription_id, "status": "DELIVERED"}
    while collection(Delivery).count_documents(done) < count:
        if time.monotonic() > deadline:
            raise LoadError(f"not all of {count} deliveries arrived within {DELIVERED_SECONDS_MAX:.0f} s")
        time.sleep(POLL_SECONDS)
