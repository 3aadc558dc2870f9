"""A crowd: for some seconds many more clients ask for transfers than the machine can serve.

Invariant: each client repeats its last request until it is answered, so that the crowd's record is whole.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import count
from random import Random

from payflow.stack.drill.client import Client
from payflow.stack.drill.load import draw
from payflow.stack.drill.record import Kind, Operation

CLIENTS = 64
SECONDS = 4.0


class Crowd:
    """Comes once. `note` is told of every operation before it is asked for."""

    def __init__(self, users: Sequence[Client], key: str, note: Callable[[Operation], None]):
        self.clients = [users[number % len(users)].another() for number in range(CLIENTS)]
        self._user_ids = [user.id for user in users]
        self._key = key
        self._note = note
        self._end = 0.0
        self._threads = [
            threading.Thread(target=self._ask, args=(number,), name=f"crowd-{number}", daemon=True)
            for number in range(CLIENTS)
        ]

    def come(self) -> None:
        """Begin; after SECONDS nothing new is begun."""
        self._end = time.monotonic() + SECONDS
        for thread in self._threads:
            thread.start()

    def join(self, seconds_max: float) -> bool:
        """Wait until every client has all its answers; False when that takes longer."""
        deadline = time.monotonic() + seconds_max
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _ask(self, number: int) -> None:
        client = self.clients[number]
        random = Random(f"{self._key} {number}")  # noqa: S311 - a drill must be repeatable
        for turn in count():
            if time.monotonic() >= self._end:
                return
            wanted = draw(random, client.id, self._user_ids, f"{self._key}-{number}-{turn}")
            if wanted.kind is Kind.TRANSFER:
                self._note(wanted)
                client.perform([wanted])
