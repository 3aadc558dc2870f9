"""The receivers of docs/webhooks.md, run against real deliveries, repeats, forgeries and their own death."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from django.conf import LazySettings
from django.conf import settings as django_settings
from standardwebhooks import Webhook

from payflow.ids import new_id
from payflow.mongodb import collection
from payflow.stack.embedded import free_port
from payflow.stack.paths import engine_dir
from tests.transfers.workers import eventually
from tests.webhooks import hooks
from webhooks.documents import Delivery

DOCS = django_settings.BASE_DIR / "docs"
EXAMPLES = {"receiver.py": "python", "receiver.mjs": "javascript"}


def node() -> list[str]:
    """The Node that the embedded MongoDB runs on, or the machine's own."""
    launch = engine_dir() / "launch.json"
    if launch.exists():
        return json.loads(launch.read_text())["command"]
    found = shutil.which("node")
    assert found, "there is no Node to run the example with"
    return [found]


class Example:
    """A receiver as the page shows it, in a process of its own; it can be killed and started again."""

    def __init__(self, name: str, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://localhost:{self.port}/"
        # It keeps its state in memory, and goes through its inbox anew when it starts.
        self.rebuilds = name.endswith(".mjs")
        self._out = folder / "out"
        program = node() if self.rebuilds else [sys.executable]
        self._command = [*program, str(DOCS / "examples" / name)]
        self._env = {
            "PATH": os.environ["PATH"],
            "WEBHOOK_SECRET": hooks.SECRET,
            "PORT": str(self.port),
            "DATABASE": str(folder / "webhooks.db"),
            "INBOX": str(folder / "webhooks.jsonl"),
        }
        self.start()

    def start(self) -> None:
        with self._out.open("a") as out:
            self.process = subprocess.Popen(self._command, env=self._env, stdout=out)
        eventually(self._listens)

    def _listens(self) -> bool:
        assert self.process.poll() is None
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def states(self, transaction: str) -> list[str]:
        """Return what it has printed about a transaction."""
        lines = [line.split() for line in self._out.read_text().splitlines()]
        return [line[1] for line in lines if line[0] == transaction]


@pytest.fixture(params=EXAMPLES)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Example]]:
    with ExitStack() as cleanup:

        def started() -> Example:
            example = Example(request.param, tmp_path)
            cleanup.callback(example.kill)
            return example

        yield started


def history_of(count: int) -> list[dict[str, str]]:
    statuses = ("INITIATED", "DEBITED", "CREDITED", "COMPLETED")
    return [{"status": status} for status in statuses[:count]]


def tell_life(transaction: str) -> None:
    """Fan out a transfer's four events, each with the transaction as it was then."""
    events = hooks.events_of(transaction)
    for count, event in enumerate(events, start=1):
        event.data.update(history=history_of(count), status=history_of(count)[-1]["status"])
        hooks.fanout.fan_out([event])


def test_it_takes_each_event_once_and_ends_with_the_last_state(start: Callable[[], Example]) -> None:
    example = start()
    subscription = hooks.subscribe(url=example.url)
    transaction = new_id("txn")
    tell_life(transaction)
    hooks.one_event(subscription)
    hooks.work(subscription)
    rows = hooks.deliveries(subscription)
    assert [row["status"] for row in rows] == ["DELIVERED"] * 5
    assert {outcome for row in rows for outcome in hooks.outcomes(row)} == {204}
    eventually(lambda: example.states(transaction)[-1:] == ["COMPLETED"])
    printed = example.states(transaction)
    # The receiver dies, and PayFlow, having forgotten that it was answered, sends all of it again.
    example.kill()
    example.start()
    if example.rebuilds:
        printed *= 2
    eventually(lambda: example.states(transaction) == printed)
    again = {"status": "PENDING", "next_attempt_at": rows[0]["created_at"]}
    collection(Delivery).update_many({}, {"$set": again, "$unset": {"finished_at": ""}})
    hooks.make_due(subscription)
    hooks.work(subscription)
    other = new_id("txn")
    tell_life(other)
    hooks.work(subscription)
    eventually(lambda: example.states(other)[-1:] == ["COMPLETED"])
    assert [row["status"] for row in hooks.deliveries(subscription)] == ["DELIVERED"] * 9
    assert example.states(transaction) == printed


def signed(body: str, *, at: datetime, event_id: str = "evt_1", secret: str = hooks.SECRET) -> dict[str, str]:
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(event_id, at, body),
        "PayFlow-Sequence": "1",
    }


def test_it_refuses_what_is_not_ours(start: Callable[[], Example]) -> None:
    example = start()
    now = datetime.now(UTC)
    data = '{"id":"txn_forged","status":"COMPLETED","history":[{}]}'
    body = f'{{"id":"evt_1","type":"TRANSACTION_COMPLETED","data":{data}}}'
    good = signed(body, at=now)
    other = "whsec_" + "A" * 43 + "="
    wrong = [
        (body.replace("COMPLETED", "COMPLETEE"), good),
        (body + " ", good),
        (body, {**good, "webhook-id": "evt_2"}),
        (body, {**good, "webhook-timestamp": str(int(now.timestamp()) + 1)}),
        (body, signed(body, at=now - timedelta(minutes=6))),
        (body, signed(body, at=now + timedelta(minutes=6))),
        (body, signed(body, at=now, secret=other)),
        (body, {**good, "webhook-signature": good["webhook-signature"].replace("v1,", "v2,")}),
        (body, {**good, "webhook-signature": "nonsense"}),
        (body, {**good, "webhook-timestamp": "nan"}),
        (body, {}),
    ]
    session = requests.Session()
    session.trust_env = False
    for forged, headers in wrong:
        assert session.post(example.url, data=forged, headers=headers, timeout=10).status_code == 400
    assert example.states("txn_forged") == []
    # Signed with a former secret, too, as after a rotation.
    both = f"{signed(body, at=now, secret=other)['webhook-signature']} {good['webhook-signature']}"
    taken = session.post(example.url, data=body, headers={**good, "webhook-signature": both}, timeout=10)
    assert taken.status_code == 204
    eventually(lambda: example.states("txn_forged") == ["COMPLETED"])


def test_it_passes_over_what_comes_late(start: Callable[[], Example], settings: LazySettings) -> None:
    example = start()
    transaction = new_id("txn")
    session = requests.Session()
    session.trust_env = False
    for count in (2, 4, 3, 1):
        status = history_of(count)[-1]["status"]
        event_id = f"{transaction}:{count}"
        data = {"id": transaction, "status": status, "history": history_of(count)}
        body = json.dumps({"id": event_id, "type": "X", "data": data})
        headers = signed(body, at=datetime.now(UTC), event_id=event_id)
        assert session.post(example.url, data=body, headers=headers, timeout=10).status_code == 204
        if count == 2:
            eventually(lambda: example.states(transaction) == ["DEBITED"])
    eventually(lambda: example.states(transaction)[-1:] == ["COMPLETED"])
    assert example.states(transaction) == ["DEBITED", "COMPLETED"]


@pytest.mark.parametrize(("name", "language"), EXAMPLES.items())
def test_the_page_quotes_the_examples(name: str, language: str) -> None:
    quoted = f"```{language}\n{(DOCS / 'examples' / name).read_text()}```\n"
    assert quoted in (DOCS / "webhooks.md").read_text()
