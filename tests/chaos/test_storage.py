"""A real stack on a small file system that fills up again and again under load.

What was answered 201 is there afterwards, no process has ended, and all goes on by itself with space again.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from payflow.stack.stack import Stack
from tests.chaos.people import Person, eventually
from tests.filesystem import filled, mounted

SIZE_MB = 1_200
LEFT_MB = 10
ROUNDS = 3
CLIENTS = 4


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "small", SIZE_MB) as folder:
        yield folder


class Load:
    """Clients that pay without a pause, each request with a key of its own, repeated until it is answered."""

    def __init__(self, payers: list[Person], receiver: Person) -> None:
        self.accepted: list[tuple[Person, str]] = []
        self.answers: Counter[str] = Counter()
        self._receiver = receiver
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._pay, args=(payer,)) for payer in payers]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _pay(self, payer: Person) -> None:
        number = 0
        body = {"receiver_id": self._receiver.id, "amount": "0.01"}
        while not self._stopping.is_set():
            try:
                answer = payer.post("/transactions", body, key=f"k{number}")
            except requests.RequestException:
                self.answers["none"] += 1
                continue
            self.answers[str(answer.json().get("code", answer.status_code))] += 1
            if answer.status_code == 201:
                self.accepted.append((payer, answer.json()["id"]))
                number += 1
            else:
                self._stopping.wait(0.1)


def test_a_file_system_that_fills_up_takes_nothing_that_was_accepted(small: Path) -> None:
    with Stack.on_free_ports(small / "data") as stack:
        payers = [Person(stack.base_url, f"payer{n}", deposit="1000.00") for n in range(CLIENTS)]
        bob = Person(stack.base_url, "bob")
        assert stack.mongo is not None
        assert stack.redis is not None
        pids = stack.mongo.pid, stack.redis.pid
        with Load(payers, bob) as load:
            for _ in range(ROUNDS):
                before = load.answers["201"]
                eventually(lambda: load.answers["201"], lambda count, before=before: count > before + 20)
                with filled(small, LEFT_MB):
                    _is_full(stack, load, bob)
        for payer, transaction in load.accepted:
            assert payer.wait_for_end(transaction)["status"] == "COMPLETED"
        stack.manage("audit", "--expect-settled")
        assert int(bob.balance().replace(".", "")) == len(load.accepted)
        assert {name: stack.supervisor.restarts(name) for name in stack.supervisor.names} == dict.fromkeys(
            stack.supervisor.names, 0
        )
        assert (stack.mongo.pid, stack.redis.pid) == pids
        assert stack.mongo.is_running()
        assert stack.redis.is_running()


def _is_full(stack: Stack, load: Load, reader: Person) -> None:
    """Check what holds while there is no room, for some ticks of every duty."""
    refused = load.answers["storage_full"]
    eventually(lambda: load.answers["storage_full"], lambda count: count > refused)
    for _ in range(5):
        health = requests.get(f"{stack.base_url}/health", timeout=30)
        assert (health.status_code, health.json()["storage"]["status"]) == (200, "full")
        assert requests.get(f"{stack.base_url}/health/live", timeout=30).status_code == 200
        assert "payflow_storage_full 1.0" in requests.get(f"{stack.base_url}/metrics", timeout=30).text
        reader.balance()
        load._stopping.wait(1)
