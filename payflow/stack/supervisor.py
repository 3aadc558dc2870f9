"""Keeps the Procfile's processes running: restarts what dies, ends everything at the end, leaves nothing.

Not honcho, which reads the same file but ends everything when any process dies: PayFlow exists to survive
that, and a stack that stops at the first killed worker could not show it. A process that keeps dying right
after its start is another matter: it cannot be helped by one more start, so the stack stops and says why.
"""

import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from payflow.stack import causes
from payflow.stack.errors import StackError
from payflow.stack.process import Process

POLL_SECONDS = 0.1
EARLY_DEATH_SECONDS = 30.0  # a process that dies younger than this has not really run
EARLY_DEATHS_MAX = 5
BACKOFF_SECONDS = 0.2
BACKOFF_SECONDS_MAX = 10.0
STOP_SECONDS_MAX = 15.0
ECHO_BYTES_MAX = 65_536


def read_procfile(file: Path) -> dict[str, str]:
    """Name and shell command of each process, in order."""
    lines = (line.strip() for line in file.read_text().splitlines())
    entries = (line.partition(":") for line in lines if line and not line.startswith("#"))
    return {name.strip(): command.strip() for name, _, command in entries}


def backoff_seconds(early_deaths: int) -> float:
    """How long to wait before the next start: doubling, bounded."""
    return min(BACKOFF_SECONDS * 2 ** max(early_deaths - 1, 0), BACKOFF_SECONDS_MAX)


@dataclass
class _Entry:
    """One supervised process and what happened to it so far."""

    process: Process
    started_at: float = 0.0
    restart_at: float | None = None
    restarts: int = 0
    early_deaths: int = 0
    killed_on_purpose: bool = False
    echoed_bytes: int = 0


class Supervisor:
    """Runs named shell commands, each in a process group and with a log of its own.

    Safe to use from several threads; `kill` and `pid` exist for those who want to see what survives.
    """

    def __init__(
        self,
        commands: Mapping[str, str],
        *,
        log_dir: Path,
        env: Mapping[str, str],
        cwd: Path,
        verbose: bool = False,
    ):
        self._entries = {
            name: _Entry(
                Process(
                    name, ["/bin/sh", "-c", f"exec {command}"], log=log_dir / f"{name}.log", env=env, cwd=cwd
                )
            )
            for name, command in commands.items()
        }
        self._verbose = verbose
        self._lock = threading.RLock()
        self._are_deaths_expected = False
        self._stopping = threading.Event()
        self._failed = threading.Event()
        self._failure = ""
        self._monitor = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    @property
    def names(self) -> list[str]:
        """The names of all processes, as the Procfile has them."""
        return list(self._entries)

    def start(self) -> None:
        """Starts every process and the thread that looks after them."""
        with self._lock:
            for entry in self._entries.values():
                entry.process.start()
                entry.started_at = time.monotonic()
        self._monitor.start()

    def stop(self, grace_seconds: float = STOP_SECONDS_MAX) -> None:
        """Asks every process to end, waits for all of them together, then insists."""
        self._stopping.set()
        if self._monitor.ident is not None:
            self._monitor.join()
        deadline = time.monotonic() + grace_seconds
        for entry in self._entries.values():
            entry.process.ask_to_stop()
        for entry in self._entries.values():
            entry.process.reap(max(deadline - time.monotonic(), 0.0))

    def pid(self, name: str) -> int:
        """The id of the process itself (a worker's children have others); of its group as well."""
        with self._lock:
            return self._entry(name).process.pid

    def is_running(self, name: str) -> bool:
        """Whether the process runs at this moment."""
        with self._lock:
            return self._entry(name).process.is_running()

    def restarts(self, name: str) -> int:
        """How often the process had to be started again."""
        with self._lock:
            return self._entry(name).restarts

    def log(self, name: str) -> Path:
        """The file with what the process printed."""
        return self._entry(name).process.log

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Sends a signal to the process and its children. A death it causes does not count as a crash."""
        with self._lock:
            entry = self._entry(name)
            entry.killed_on_purpose |= number not in (signal.SIGSTOP, signal.SIGCONT)
            entry.process.signal(number)

    def expect_deaths(self) -> None:
        """From now on no death counts as a crash: somebody has the processes die in ways of their own."""
        self._are_deaths_expected = True

    def wait_failed(self, seconds: float) -> bool:
        """Waits until a process has died too often, at most so long."""
        return self._failed.wait(seconds)

    def check(self) -> None:
        """StackError when a process has died too often to go on."""
        if self._failed.is_set():
            raise StackError(self._failure)

    def _entry(self, name: str) -> _Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise StackError(f"There is no process {name!r}; there are {', '.join(self._entries)}.") from None

    def _watch(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            with self._lock:
                for name, entry in self._entries.items():
                    if entry.restart_at is not None:
                        self._restart_when_due(entry)
                    elif not entry.process.is_running():
                        self._note_death(name, entry)
                    if self._verbose:
                        _echo(name, entry)

    def _note_death(self, name: str, entry: _Entry) -> None:
        """Removes what the dead process left of its group, then decides whether and when to start again."""
        process, now = entry.process, time.monotonic()
        process.reap(0.0)
        is_expected = entry.killed_on_purpose or self._are_deaths_expected
        # On a full disk one more start helps as soon as there is room, and nothing else does.
        is_expected = is_expected or causes.is_short(process.log.parent)
        if is_expected or now - entry.started_at > EARLY_DEATH_SECONDS:
            entry.early_deaths = 0
        else:
            entry.early_deaths += 1
        entry.killed_on_purpose = False
        if entry.early_deaths < EARLY_DEATHS_MAX:
            entry.restart_at = now + backoff_seconds(entry.early_deaths)
            return
        entry.restart_at = float("inf")
        self._fail(
            f"The process {name} died {entry.early_deaths} times within {EARLY_DEATH_SECONDS:.0f} s of its "
            f"start ({causes.ending(process.exit_status)} the last time), so the stack stops. "
            f"{causes.why(process.log, process.log.parent.parent)}"
        )

    def _restart_when_due(self, entry: _Entry) -> None:
        if entry.restart_at is None or time.monotonic() < entry.restart_at:
            return
        try:
            entry.process.start(append=True)
        except (StackError, OSError) as error:
            entry.restart_at = float("inf")
            self._fail(f"The process {entry.process.name} cannot be started again: {error}")
            return
        entry.started_at = time.monotonic()
        entry.restart_at = None
        entry.restarts += 1

    def _fail(self, reason: str) -> None:
        self._failure = reason
        self._failed.set()


def _echo(name: str, entry: _Entry) -> None:
    """Shows what was added to a log since the last look, each line with its process's name."""
    try:
        with entry.process.log.open("rb") as log:
            log.seek(entry.echoed_bytes)
            added = log.read(ECHO_BYTES_MAX)
    except OSError:
        return
    whole, newline, _ = added.rpartition(b"\n")
    entry.echoed_bytes += len(whole) + len(newline)
    for line in whole.decode(errors="replace").splitlines():
        sys.stdout.write(f"{name:>9} | {line}\n")
    sys.stdout.flush()
