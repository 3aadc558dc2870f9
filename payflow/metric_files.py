"""Who owns which file in PROMETHEUS_MULTIPROC_DIR, so that only the files of dead processes are removed.

Invariants:
- A process that lives holds a lock on a file of its own beside its counts. Process ids would not do:
  containers that share the folder do not see each other's.
- A process whose lock file has vanished goes on under a new name, with new files that count from zero: what
  it wrote into the removed ones would be read by nobody.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections import defaultdict
from pathlib import Path

# How often a process looks whether its files are still there.
LOOK_SECONDS = 1.0
_LOCK_SUFFIX = ".alive"


class Owner:
    """This process among all that share a folder. `name` is what its files end with."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pid = 0
        self._begun = 0
        self._lock = -1
        self._name = ""
        self._look_at = 0.0

    def name(self) -> str:
        """Return the name; another one after a fork, and after the files were removed. Raises OSError."""
        if os.getpid() != self._pid:
            self._begin(0)
        elif time.monotonic() >= self._look_at:
            self.look()
        return self._name

    def look(self) -> None:
        """Begin anew if this process's files were removed. Raises OSError."""
        self._look_at = time.monotonic() + LOOK_SECONDS
        try:
            is_there = os.path.samestat(
                (self._folder / (self._name + _LOCK_SUFFIX)).stat(), os.fstat(self._lock)
            )
        except FileNotFoundError:
            is_there = False
        if not is_there:
            self._begin(self._begun + 1)

    def _begin(self, number: int) -> None:
        if self._lock >= 0:
            os.close(self._lock)  # after a fork the parent's copy goes on holding its lock
        self._pid, self._begun = os.getpid(), number
        host = socket.gethostname().replace("_", "-")
        self._name = f"{host}-{self._pid}" + (f"-{number}" if number else "")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = _hold(self._folder / (self._name + _LOCK_SUFFIX))
        self._look_at = time.monotonic() + LOOK_SECONDS


def _hold(path: Path) -> int:
    """Open a file and lock it; once more if it was removed in between."""
    while True:
        lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if os.path.samestat(path.stat(), os.fstat(lock)):
                return lock
        except FileNotFoundError:
            pass
        os.close(lock)


def remove_dead(folder: Path) -> int:
    """Remove the files of processes that live no more, one by one; return how many. Safe at any time."""
    by_owner: dict[str, list[Path]] = defaultdict(list)
    for path in folder.glob("*.db"):
        by_owner[path.stem.rpartition("_")[2]].append(path)
    for path in folder.glob(f"*{_LOCK_SUFFIX}"):
        by_owner.setdefault(path.name.removesuffix(_LOCK_SUFFIX), [])
    return sum(_remove(folder / (name + _LOCK_SUFFIX), files) for name, files in by_owner.items())


def _remove(lock_path: Path, files: list[Path]) -> int:
    lock = os.open(lock_path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in files:
            path.unlink(missing_ok=True)
        lock_path.unlink(missing_ok=True)
    except BlockingIOError:  # its process lives
        return 0
    finally:
        os.close(lock)
    return len(files)
