"""Arms one crash point after another, in random order, until each was hit; then again, more slowly."""

from __future__ import annotations

import threading
import time
from collections import Counter
from random import Random

from payflow import crashpoints
from payflow.crashpoints import Action, Hit
from payflow.stack.drill.watch import Watch
from payflow.stack.stack import Stack

POINTS = [point for point in crashpoints.POINTS if point not in crashpoints.RARE]
ARMED_MAX = 4
# A point that nobody has reached for so long makes room for another, if one waits, and has its turn later.
PATIENCE_SECONDS = 6.0
LOOK_SECONDS = 0.1
PAUSE_SECONDS = (0.1, 0.8)
PAUSE_SECONDS_LATER = (1.0, 6.0)
GROUP_SHARE = 0.15


class Points:
    """Keeps a few points armed, in a thread of its own, and counts the processes that died there."""

    def __init__(self, stack: Stack, watch: Watch, seed: int):
        self._stack = stack
        self._watch = watch
        self._random = Random(f"{seed} points")  # noqa: S311 - a drill must be repeatable
        self._armed: dict[str, float] = {}
        self._waiting: list[str] = []
        self._seen: dict[str, Hit] = {}
        self._next_at = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="points", daemon=True)

    def start(self) -> None:
        """Begin to arm one crash point after another."""
        self._thread.start()

    def stop(self) -> None:
        """Disarm everything."""
        self._stopping.set()
        self._thread.join()
        for name in POINTS:
            crashpoints.disarm(self._stack.data_dir, name)
        self._notice_hits()

    def counts(self) -> Counter[str]:
        """How often a process has died at each point."""
        dead = [hit for hit in list(self._seen.values()) if hit.action is not Action.STOP_PROCESS]
        return Counter(hit.point for hit in dead)

    def missing(self) -> list[str]:
        """The points at which nobody has died yet."""
        counts = self.counts()
        return [name for name in POINTS if not counts[name]]

    def _go_on(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            self._notice_hits()
            self._make_room()
            if len(self._armed) < ARMED_MAX and time.monotonic() >= self._next_at:
                self._arm_next()

    def _notice_hits(self) -> None:
        for hit in crashpoints.hits(self._stack.data_dir):
            if hit.file not in self._seen:
                self._seen[hit.file] = hit
                if hit.action is not Action.STOP_PROCESS:
                    self._armed.pop(hit.point, None)
                    self._watch.note("points")

    def _make_room(self) -> None:
        if len(self.missing()) <= ARMED_MAX:
            # The last ones are rare: they stay armed until chance brings somebody by.
            return
        for name, since in list(self._armed.items()):
            if time.monotonic() - since > PATIENCE_SECONDS:
                crashpoints.disarm(self._stack.data_dir, name)
                del self._armed[name]

    def _arm_next(self) -> None:
        missing = self.missing()
        if not self._waiting:
            pool = missing or list(POINTS)
            self._waiting = self._random.sample(pool, len(pool))
        name = self._waiting.pop()
        if name in self._armed or (missing and name not in missing):
            return
        is_whole = self._random.random() < GROUP_SHARE
        crashpoints.arm(self._stack.data_dir, name, Action.KILL_GROUP if is_whole else Action.KILL_PROCESS)
        self._armed[name] = time.monotonic()
        pause = PAUSE_SECONDS if missing else PAUSE_SECONDS_LATER
        self._next_at = time.monotonic() + self._random.uniform(*pause)
