"""Measures a running stack over HTTP: transfers per second, latency, and memory after many transfers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.load import load, procfs, windows
from tests.load.load import LoadError, Offered
from tests.load.target import Target, completed, ended_since
from tests.load.windows import percentile

TOP_UP_SECONDS = 10.0
TOP_UPS_MAX = 200


def throughput(target: Target) -> dict[str, Any]:
    """Accepted and completed transfers per second, from the first POST to the last completion."""
    found = _throughput(target, "throughput", target.closed_loop, target.sizes.connections)
    return {**found, "generator": load.generator_name()}


def in_batches(target: Target) -> dict[str, Any]:
    """The same with many transfers in each request."""
    lost_max = target.sizes.batch_connections * target.sizes.batch_size
    return _throughput(target, "in batches", target.closed_loop_in_batches, lost_max)


def _throughput(
    target: Target, what: str, offer: Callable[[float], Offered], unanswered_max: int
) -> dict[str, Any]:
    found = []
    for number in range(target.sizes.windows):
        target.say(f"{what}: window {number + 1} of {target.sizes.windows}")
        found.append(_window(target, offer, unanswered_max))
    return windows.middle_cost(found)


def throughput_window(target: Target) -> dict[str, Any]:
    """One stretch of transfers, as fast as they are answered."""
    return _window(target, target.closed_loop, target.sizes.connections)


def _window(target: Target, offer: Callable[[float], Offered], unanswered_max: int) -> dict[str, Any]:
    with windows.measured(target.sessions) as window:
        offered = offer(target.sizes.window_seconds)
    rows = ended_since(window.began_at)
    # wrk leaves its last requests unanswered, so there may be a few more transfers than it saw accepted.
    if not 0 <= len(rows) - offered.accepted <= unanswered_max:
        raise LoadError(f"{offered.accepted} transfers were accepted and {len(rows)} completed")
    first, last = min(row["initiated_at"] for row in rows), max(row["completed_at"] for row in rows)
    seconds = (last - first).total_seconds()
    # In place of this process, whose work is measuring.
    del window.cpu[windows.CLIENT]
    window.cpu["generator"] = offered.cpu_seconds
    return {
        "accepted": offered.accepted,
        "completed": len(rows),
        "seconds": seconds,
        **window.cost_of(len(rows), seconds),
    }


def latency(target: Target) -> dict[str, Any]:
    """Milliseconds from the moment a POST is due at a constant rate to `completed_at`; median of windows."""
    found = []
    for number in range(target.sizes.windows):
        target.say(f"latency: window {number + 1} of {target.sizes.windows}")
        found.append(_latency_window(target))
    names = [name for name in found[0] if name.endswith(("_ms", "_cpus"))]
    middles = {name: windows.middle(found, name) for name in names}
    return {"rate": target.sizes.latency_rate, **middles, "windows": found}


def _latency_window(target: Target) -> dict[str, Any]:
    with windows.measured(target.sessions) as window:
        offered = target.open_loop(target.sizes.latency_rate, target.sizes.latency_seconds)
    ended_at = {row["_id"]: row["completed_at"].timestamp() for row in ended_since(window.began_at)}
    missing = [identifier for _, _, identifier in offered.answers if identifier not in ended_at]
    if missing or len(ended_at) != offered.accepted:
        raise LoadError(f"{offered.accepted} transfers were accepted and {len(ended_at)} completed")
    took = sorted(ended_at[identifier] - due_at for due_at, _, identifier in offered.answers)
    answered = sorted(seconds for _, seconds, _ in offered.answers)
    return {
        "transfers": len(took),
        "others_cpus": window.others_cpus,
        **{f"p{percent}_ms": percentile(took, percent) * 1000 for percent in (50, 95, 99)},
        **{f"answer_p{percent}_ms": percentile(answered, percent) * 1000 for percent in (50, 95)},
    }


def memory(target: Target) -> dict[str, Any]:
    """The stack's memory once it has completed so many transfers."""
    for _ in range(TOP_UPS_MAX):
        if completed() >= target.sizes.memory_transfers:
            break
        target.say(f"memory: {completed()} of {target.sizes.memory_transfers} transfers completed")
        target.closed_loop(TOP_UP_SECONDS)
    by_process = procfs.pss_mb(target.sessions)
    return {"pss_mb": sum(by_process.values()), "by_process": by_process, "transfers": completed()}
