"""Has credits refused now and then, at once or by timeout, so that money goes back, too, during a drill."""

from __future__ import annotations

import itertools
import threading
from typing import Any

from payflow.stack.drill.client import Client
from payflow.stack.errors import StackError

# Losing Redis ends the simulation, so it is asked for again and again.
EVERY_SECONDS = 1.5
TRIES_MAX = 30
RATE = 0.35
TURNS: tuple[dict[str, Any], ...] = (
    {"enabled": True, "failure_rate": RATE, "failure_type": "ERROR"},
    {"enabled": True, "failure_rate": RATE, "failure_type": "TIMEOUT"},
    {"enabled": False},
)


class Simulation:
    """Changes what is simulated, in a thread of its own; `staff` may."""

    def __init__(self, staff: Client):
        self._staff = staff
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="simulation", daemon=True)

    def start(self) -> None:
        """Begin to have credits fail now and then."""
        self._thread.start()

    def stop(self) -> None:
        """End it all. StackError when the API does not let us."""
        self._stopping.set()
        self._thread.join()
        for _ in range(TRIES_MAX):
            if self._staff.post("/ledger/simulation/reset", {}) == 200:
                return
            threading.Event().wait(EVERY_SECONDS)
        raise StackError("The failure simulation could not be ended.")

    def _go_on(self) -> None:
        for turn in itertools.cycle(TURNS):
            self._staff.post("/ledger/simulation", turn)
            if self._stopping.wait(EVERY_SECONDS):
                return
