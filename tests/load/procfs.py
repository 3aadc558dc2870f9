"""What Linux tells about groups of processes: CPU time, and memory as PSS.

PayFlow's supervisor starts each process in a session of its own, so a session id names a process with all of
its children. CPU time is steadier than wall time on a machine that others use as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

_PROC = Path("/proc")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Positions behind the command's closing bracket, which may itself hold spaces (proc(5)).
_SESSION, _USER_TIME, _CHILDREN_SYSTEM_TIME = 3, 11, 14
_IDLE, _IO_WAIT, _GUEST = 3, 4, 8


def cpu_seconds(sessions: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds that each session has used, ended and awaited children included."""
    used = dict.fromkeys(sessions, 0.0)
    for name, stat in _members(sessions):
        ticks = sum(int(value) for value in stat[_USER_TIME : _CHILDREN_SYSTEM_TIME + 1])
        used[name] += ticks / _TICKS_PER_SECOND
    return used


def pss_mb(sessions: Mapping[str, int]) -> dict[str, float]:
    """Proportional set size of each session in megabytes (10^6 bytes); a shared page counts once."""
    sizes = dict.fromkeys(sessions, 0.0)
    for name, stat in _members(sessions):
        sizes[name] += process_pss_mb(int(stat[-1]))
    return sizes


def process_pss_mb(pid: int) -> float:
    """Proportional set size of one process in megabytes; 0 when it has just ended."""
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Pss:"))


def machine_busy_seconds() -> float:
    """CPU seconds that the whole machine has spent on anything, by whomever."""
    ticks = [int(value) for value in (_PROC / "stat").read_text().splitlines()[0].split()[1:]]
    busy = sum(ticks[:_GUEST]) - ticks[_IDLE] - ticks[_IO_WAIT]
    return busy / _TICKS_PER_SECOND


def reference_ms() -> float:
    """CPU milliseconds of a fixed piece of work: how fast this machine is now, whoever else uses it."""
    begin = time.process_time()
    text = json.dumps({f"key-{number}": [number, str(number), None] for number in range(2_000)})
    for _ in range(20):
        hashlib.sha256(json.dumps(json.loads(text)).encode()).hexdigest()
    return (time.process_time() - begin) * 1000


def _members(sessions: Mapping[str, int]) -> Iterator[tuple[str, list[str]]]:
    """Each living process of the sessions: the session's name and its stat, with the pid put at the end."""
    names = {session: name for name, session in sessions.items()}
    for directory in _PROC.iterdir():
        if not directory.name.isdigit():
            continue
        try:
            text = (directory / "stat").read_text()
        except OSError:
            continue
        stat = text.rpartition(")")[2].split()
        if int(stat[_SESSION]) in names:
            yield names[int(stat[_SESSION])], [*stat, directory.name]
