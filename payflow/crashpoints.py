"""Named places, one between any two writes, where a test or a drill lets a process die or freeze.

Off unless the environment says otherwise, and never in production:
- PAYFLOW_CRASH_AT names one point: the first process to reach it kills its whole group with SIGKILL. A marker
  file, written first, makes it happen once, so that the restarted process gets through.
- PAYFLOW_CRASH_POINTS=file lets a drill arm points one after another in a running stack (`arm`). A point is
  armed by a file of its name; whoever reaches it renames that file, so exactly one process obeys, and the
  renamed file is the record of it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

# Every point there is. A test compares this with the code.
POINTS = (
    # A request that starts a transaction, deposits or withdraws.
    "start.inserted",
    "start.pushed",
    "start.published",
    # A batch, before it goes on like any start.
    "batch.planned",
    "batch.written",
    "batch.decided",
    "wallets.posted",
    # Any request with an idempotency key.
    "idempotency.claimed",
    "idempotency.answered",
    "idempotency.stored",
    # Ledger entries, whoever posts them.
    "posting.before_insert",
    "posting.between_inserts",
    "posting.after_insert",
    # The saga's steps.
    "saga.debit_posted",
    "saga.debited",
    "saga.credit_hanging",
    "saga.credit_decided",
    "saga.refund_decided",
    "saga.credit_posted",
    "saga.credited",
    "saga.completed",
    "saga.refund_posted",
    "saga.finished",
    # Every move: after the update, and after its events were published.
    "saga.moved_to_debited",
    "saga.moved_to_credited",
    "saga.moved_to_completed",
    "saga.moved_to_refunding",
    "saga.moved_to_failed",
    "saga.told_of_debited",
    "saga.told_of_credited",
    "saga.told_of_completed",
    "saga.told_of_refunding",
    "saga.told_of_failed",
    # The messages between the steps.
    "tasks.popped",
    "tasks.chain_published",
    "tasks.hanging_published",
    "tasks.refund_published",
    "tasks.complete_published",
    "tasks.ended",
    # E-mails: written down, marked before the server gets one, and accepted by it.
    "notices.written",
    "notices.digest_written",
    "notices.digested",
    "notices.sending",
    "notices.handed_over",
    "notices.accepted",
    # Webhooks: writing deliveries down, giving them their places, and each attempt.
    "fanout.found",
    "fanout.stored",
    "fanout.inserted",
    "fanout.nudged",
    "refill.inserted",
    "refill.released",
    "sequencing.placed",
    "delivery.claimed",
    "delivery.answered",
    "delivery.delivered",
    "delivery.failed",
    "circuit.counted",
    # The audit's record: the state is written, and what it counts.
    "audit.recorded",
    "audit.changed",
    # Recovery.
    "recovery.claimed",
    "recovery.driven",
)
# Those that a drill hardly ever passes: its mails must not end in digests, and its endpoints are held only
# while faults keep them from what waits.
RARE = frozenset({"notices.digest_written", "notices.digested", "refill.inserted", "refill.released"})


class Action(StrEnum):
    """What happens to the process that reaches an armed point."""

    KILL_PROCESS = "kill-process"
    KILL_GROUP = "kill-group"
    STOP_PROCESS = "stop-process"


@dataclass(frozen=True, slots=True)
class Hit:
    """A process obeyed at a point."""

    point: str
    action: Action
    pid: int
    file: str


_IS_PRODUCTION = os.environ.get("PAYFLOW_ENV", "production") == "production"
_DATA_DIR = Path(os.environ.get("PAYFLOW_DATA_DIR", ".payflow"))
_ARMED = "" if _IS_PRODUCTION else os.environ.get("PAYFLOW_CRASH_AT", "")
_BY_FILE = not _IS_PRODUCTION and os.environ.get("PAYFLOW_CRASH_POINTS", "") == "file"
_IS_ON = bool(_ARMED) or _BY_FILE


def crash_point(name: str) -> None:
    """Die or freeze here if this point is armed."""
    if _IS_ON:
        _reach(name)


def arm(data_dir: Path, name: str, action: Action) -> None:
    """Have the next process that reaches the point obey, in a stack on this data folder."""
    armed, hit = _folders(data_dir)
    for folder in (armed, hit):
        folder.mkdir(parents=True, exist_ok=True)
    draft = armed.parent / f"draft-{name}"
    draft.write_text(action.value)
    draft.rename(armed / name)


def disarm(data_dir: Path, name: str) -> bool:
    """Have nobody obey any more; False when somebody just has."""
    try:
        (_folders(data_dir)[0] / name).unlink()
    except FileNotFoundError:
        return False
    return True


def is_armed(data_dir: Path, name: str) -> bool:
    """Say whether the point still waits for somebody."""
    return (_folders(data_dir)[0] / name).exists()


def hits(data_dir: Path) -> Iterator[Hit]:
    """Yield what has happened so far, in order of points."""
    folder = _folders(data_dir)[1]
    for file in sorted(folder.iterdir()) if folder.exists() else ():
        point, pid, _ = file.name.rsplit("-", 2)
        yield Hit(point, Action(file.read_text()), int(pid), file.name)


def _folders(data_dir: Path) -> tuple[Path, Path]:
    return data_dir / "crash-points" / "armed", data_dir / "crash-points" / "hit"


def _reach(name: str) -> None:
    if name == _ARMED:
        _die_once(name)
    if _BY_FILE:
        _obey_once(name)


def _die_once(name: str) -> None:
    marker = _DATA_DIR / f"crashed-at-{name}"
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _obey_once(name: str) -> None:
    armed, hit = _folders(_DATA_DIR)
    record = hit / f"{name}-{os.getpid()}-{time.monotonic_ns()}"
    try:
        (armed / name).rename(record)
    except FileNotFoundError:
        return
    action = Action(record.read_text())
    if action is Action.KILL_GROUP:
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGSTOP if action is Action.STOP_PROCESS else signal.SIGKILL)
