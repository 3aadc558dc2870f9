"""The faults of a drill: what is done to a running stack, and in which order.

Every kind comes once, in random order, before any comes again. `manage.py drill --help` shows the docstrings.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from random import Random

import psutil
import redis

from payflow import crashpoints
from payflow.crashpoints import POINTS, Action
from payflow.stack.drill.answers import Window
from payflow.stack.drill.crowd import SECONDS as CROWD_SECONDS
from payflow.stack.drill.proxied import MONGODB, REDIS, ProxiedStack
from payflow.stack.drill.proxy import Fault
from payflow.stack.drill.watch import Watch
from payflow.stack.errors import StackError

# Messages of a worker that stands still for this long go to others: short, or every drill would take hours.
VISIBILITY_TIMEOUT_SECONDS = 4
STANDSTILL_SECONDS = VISIBILITY_TIMEOUT_SECONDS + 2.5
POINT_SECONDS_MAX = 4.0
POINTS_AT_ONCE = 3
PAUSE_SECONDS = (0.3, 2.0)
# Once every kind has come: time to see how long one is felt.
PAUSE_SECONDS_LATER = (0.5, 8.0)
DOWNTIME_SECONDS_MAX = 1.5
# Longer than a request waits for a server in all, so that the server counts as away meanwhile.
SUFFERING_SECONDS = (3.0, 6.0)
SLOW_SECONDS = 1.0
LOOK_SECONDS = 0.1
_STOPPABLE = tuple(name for name in POINTS if name.startswith("saga."))


class Faults:
    """Does one fault after another to a stack, in a thread of its own."""

    def __init__(
        self,
        stack: ProxiedStack,
        watch: Watch,
        kinds: Collection[str],
        seed: int,
        crowd: Callable[[], None],
    ):
        self.done: Counter[str] = Counter()
        self.windows: list[Window] = []
        self.failure = ""
        self._stack = stack
        self._watch = watch
        self._crowd = crowd
        self._random = Random(f"{seed} faults")  # noqa: S311 - a drill must be repeatable
        self._kinds = [kind for kind in BY_KIND if kind in kinds]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="faults", daemon=True)

    def start(self) -> None:
        """Begin to break things."""
        self._thread.start()

    @property
    def are_all_done(self) -> bool:
        """Whether every kind has come at least once."""
        return all(self.done[kind] for kind in self._kinds) or not self._thread.is_alive()

    def stop(self) -> None:
        """End the fault under way, and let nothing stand still any more."""
        self._stopping.set()
        self._thread.join()

    def _go_on(self) -> None:
        try:
            for kind in _order(self._kinds, self._random):
                pause = PAUSE_SECONDS_LATER if self.are_all_done else PAUSE_SECONDS
                if self._stopping.wait(self._random.uniform(*pause)):
                    return
                began = time.monotonic()
                BY_KIND[kind](self)
                self.windows.append(Window(kind, began, time.monotonic()))
                self.done[kind] += 1
        except StackError as error:
            self.failure = str(error)

    def kill_worker(self) -> None:
        """The saga's worker with all its children."""
        self._watch.note("worker")
        self._stack.supervisor.kill("saga")

    def kill_child(self) -> None:
        """One child of the saga's worker, which the worker replaces."""
        self._kill_child_of("saga", "child")

    def kill_web(self) -> None:
        """The web server with all its workers."""
        self._watch.note("web")
        self._stack.supervisor.kill("web")

    def kill_web_worker(self) -> None:
        """One worker of the web server, which the server replaces."""
        self._kill_child_of("web", "web-worker")

    def kill_beat(self) -> None:
        """The clock behind recovery."""
        self._watch.note("beat")
        self._stack.supervisor.kill("beat")

    def kill_mongodb(self) -> None:
        """MongoDB, which comes back after a moment."""
        if self._stack.mongo is not None:
            self._watch.note("mongodb")
            self._stack.mongo.kill()
            self._stopping.wait(self._random.uniform(0, DOWNTIME_SECONDS_MAX))
            self._stack.mongo.start()

    def kill_redis(self) -> None:
        """Redis, which comes back after a moment with what it had on disk."""
        if self._stack.redis is not None:
            self._watch.note("redis")
            self._stack.redis.kill()
            self._stopping.wait(self._random.uniform(0, DOWNTIME_SECONDS_MAX))
            self._stack.redis.start()

    def flush_redis(self) -> None:
        """Everything in Redis: sessions, the inbox, every message."""
        if self._stack.redis is not None:
            with suppress(redis.RedisError), redis.Redis.from_url(self._stack.redis.url) as client:
                self._watch.note("flush")
                client.flushall()

    def freeze_executor(self) -> None:
        """A worker's child in the middle of a step, longer than its message waits: a stale executor."""
        frozen = self._freeze_at_points(self._random.sample(_STOPPABLE, POINTS_AT_ONCE))
        if not frozen:
            frozen = _children(self._stack.supervisor.pid("saga"))[:1]
            for pid in frozen:
                _signal(pid, signal.SIGSTOP)
        self._watch.note("stale")
        self._stopping.wait(STANDSTILL_SECONDS)
        for pid in frozen:
            _signal(pid, signal.SIGCONT)

    def slow_redis(self) -> None:
        """Redis answers everything a second late."""
        self._suffer("redis-slow", REDIS, Fault(delay_seconds=SLOW_SECONDS))

    def silence_redis(self) -> None:
        """Redis takes connections and answers nothing."""
        self._suffer("redis-silent", REDIS, Fault(is_silent=True))

    def reset_redis(self) -> None:
        """Redis resets every connection."""
        self._suffer("redis-reset", REDIS, Fault(resets=True))

    def slow_mongodb(self) -> None:
        """MongoDB answers everything a second late."""
        self._suffer("mongodb-slow", MONGODB, Fault(delay_seconds=SLOW_SECONDS))

    def silence_mongodb(self) -> None:
        """MongoDB takes connections and answers nothing."""
        self._suffer("mongodb-silent", MONGODB, Fault(is_silent=True))

    def reset_mongodb(self) -> None:
        """MongoDB resets every connection."""
        self._suffer("mongodb-reset", MONGODB, Fault(resets=True))

    def crowd_in(self) -> None:
        """Many more clients ask for transfers than the machine can serve."""
        self._watch.note("crowd")
        self._crowd()
        self._stopping.wait(CROWD_SECONDS)

    def _suffer(self, kind: str, server: str, fault: Fault) -> None:
        self._watch.note(kind)
        proxy = self._stack.proxies[server]
        proxy.set(fault)
        self._stopping.wait(self._random.uniform(*SUFFERING_SECONDS))
        proxy.clear()

    def _freeze_at_points(self, points: list[str]) -> list[int]:
        """Have whoever comes first to one of the points stop there; return who did."""
        folder = self._stack.data_dir
        before = {hit.file for hit in crashpoints.hits(folder)}
        for point in points:
            crashpoints.arm(folder, point, Action.STOP_PROCESS)
        deadline = time.monotonic() + POINT_SECONDS_MAX
        while time.monotonic() < deadline and not self._stopping.wait(LOOK_SECONDS):
            if not all(crashpoints.is_armed(folder, point) for point in points):
                break
        for point in points:
            crashpoints.disarm(folder, point)
        hits = [hit for hit in crashpoints.hits(folder) if hit.file not in before]
        return [hit.pid for hit in hits if hit.action is Action.STOP_PROCESS]

    def _kill_child_of(self, process: str, kind: str) -> None:
        children = _children(self._stack.supervisor.pid(process))
        if children:
            self._watch.note(kind)
            _signal(self._random.choice(children), signal.SIGKILL)


BY_KIND: dict[str, Callable[[Faults], None]] = {
    "worker": Faults.kill_worker,
    "child": Faults.kill_child,
    "web": Faults.kill_web,
    "web-worker": Faults.kill_web_worker,
    "beat": Faults.kill_beat,
    "mongodb": Faults.kill_mongodb,
    "redis": Faults.kill_redis,
    "flush": Faults.flush_redis,
    "stale": Faults.freeze_executor,
    "redis-slow": Faults.slow_redis,
    "redis-silent": Faults.silence_redis,
    "redis-reset": Faults.reset_redis,
    "mongodb-slow": Faults.slow_mongodb,
    "mongodb-silent": Faults.silence_mongodb,
    "mongodb-reset": Faults.reset_mongodb,
    "crowd": Faults.crowd_in,
}


def _order(kinds: list[str], random: Random) -> Iterator[str]:
    """Yield kinds for ever, each once in random order before any comes again."""
    while kinds:
        yield from random.sample(kinds, len(kinds))


def _children(pid: int) -> list[int]:
    """The processes that do a server's work; not its helpers, and not the stack's own watcher."""
    try:
        found = psutil.Process(pid).children()
        return [child.pid for child in found if _works(child.cmdline())]
    except psutil.Error:
        return []


def _works(command: list[str]) -> bool:
    return bool(command) and command[0] != "/bin/sh" and "resource_tracker" not in " ".join(command)


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
