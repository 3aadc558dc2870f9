"""One stretch of measuring: wall time, CPU time by process, and how much of the machine others took."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tests.load import procfs

CLIENT = "client"


@dataclass
class Window:
    """What was used between begin and end; complete once the `with` block has ended."""

    began_at: float = 0.0
    seconds: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)
    others_cpus: float = 0.0
    """CPUs (of this machine's) that were busy with something else than the benchmark, on average."""

    def cost_of(self, count: int, seconds: float | None = None) -> dict[str, Any]:
        """Return what each of `count` cost, by process, and the rate, by this window's time unless told."""
        return {
            "per_second": count / (self.seconds if seconds is None else seconds),
            "others_cpus": self.others_cpus,
            "cpu_ms": {name: used * 1000 / count for name, used in self.cpu.items()},
        }


@contextmanager
def measured(sessions: Mapping[str, int]) -> Iterator[Window]:
    """Measure a block. The CPU time of this process and its awaited children counts as CLIENT."""
    window = Window(began_at=time.time())
    cpu, own, busy, begin = procfs.cpu_seconds(sessions), _own_cpu(), procfs.machine_busy_seconds(), _now()
    yield window
    window.seconds = _now() - begin
    window.cpu = {name: used - cpu[name] for name, used in procfs.cpu_seconds(sessions).items()}
    window.cpu[CLIENT] = _own_cpu() - own
    others = procfs.machine_busy_seconds() - busy - sum(window.cpu.values())
    window.others_cpus = max(0.0, others / window.seconds)


def middle_cost(windows: list[dict[str, Any]]) -> dict[str, Any]:
    """The medians of what `cost_of` says of several windows, and all of them."""
    return {
        "per_second": middle(windows, "per_second"),
        "others_cpus": middle(windows, "others_cpus"),
        "cpu_ms": middle_by_process(windows, "cpu_ms"),
        "windows": windows,
    }


def middle(windows: list[dict[str, Any]], name: str) -> float:
    """The median of one figure over several windows."""
    return median(window[name] for window in windows)


def middle_by_process(windows: list[dict[str, Any]], name: str) -> dict[str, float]:
    """The median of one figure per process."""
    return {process: median(window[name][process] for window in windows) for process in windows[0][name]}


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The nearest-rank percentile of values in ascending order."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _own_cpu() -> float:
    return sum(os.times()[:4])


def _now() -> float:
    return time.monotonic()
