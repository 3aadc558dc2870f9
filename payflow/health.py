"""Health: is this process alive, can it serve, is everything it depends on there, does the work get done.

The dependencies in NEEDED_TO_SERVE decide whether requests should come here: while another is down, every
instance is without it, and what does not need it still works. Reports, which apps register, say what else an
operator should know; they make the status "degraded", and requests still come. A report that cannot be made
does so, too: its part may be anything but well.

Invariant: a check answers within HEALTH_SECONDS_MAX, whatever it asks. What has not answered by then is down.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any

from django.conf import settings

from payflow import duties, generation, mongodb, redisdb, storage
from payflow.errors import Transient

logger = logging.getLogger(__name__)
# Whoever asks waits a second at most.
PING_SECONDS_MAX = 0.5
DEPENDENCIES: dict[str, Callable[[], None]] = {
    "mongodb": lambda: mongodb.ping(PING_SECONDS_MAX),
    "redis": lambda: redisdb.ping(PING_SECONDS_MAX),
}
# Without Redis reading and moving money go on: the truth is in MongoDB.
NEEDED_TO_SERVE = ("mongodb",)


@dataclass(frozen=True, slots=True)
class Report:
    """What one part of the system says of itself."""

    is_well: bool
    facts: dict[str, Any]


def report_duties() -> Report:
    """Report how long ago each periodic duty last ran, and how far the machines' clocks differ."""
    ages = duties.ages()
    overdue = [name for name, age in ages.items() if age.is_overdue]
    offset = max((abs(age.offset_seconds) for age in ages.values()), default=0.0)
    is_skewed = offset > settings.CLOCK_SKEW_SECONDS_MAX
    facts = {
        "status": "overdue" if overdue else "skewed" if is_skewed else "up",
        "overdue": overdue,
        "ages_seconds": {name: round(age.seconds, 3) for name, age in ages.items()},
        "clock_offset_seconds": round(offset, 3),
    }
    return Report(is_well=not overdue and not is_skewed, facts=facts)


def report_storage() -> Report:
    """Say whether there is room to write."""
    full, free = storage.is_full(), storage.free_bytes()
    status, free_mb = "full" if full else "up", None if free is None else free // storage.MB
    return Report(not full, {"status": status, "free_mb": free_mb})


def report_database() -> Report:
    """Say whether the database was found to be a restored one that no operator has accepted."""
    row = generation.current()
    if row is None:
        return Report(is_well=True, facts={"status": "new", "generation": None})
    status = "up" if row["is_accepted"] else "restored"
    return Report(is_well=row["is_accepted"], facts={"status": status, "generation": row["generation"]})


REPORTS: dict[str, Callable[[], Report]] = {
    "database": report_database,
    "duties": report_duties,
    "storage": report_storage,
}


UNKNOWN = Report(is_well=False, facts={"status": "unknown"})


class _Asked:
    """A question that is asked at most once at a time, however many wait for the answer, or have it."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._ask = ask
        self._lock = Lock()
        self._answer: Future[Any] = Future()
        self._asked_at = float("-inf")

    def ask(self) -> None:
        """Ask now, unless that is under way, or was done within HEALTH_FRESH_SECONDS."""
        with self._lock:
            now = time.monotonic()
            is_under_way = self._asked_at > 0 and not self._answer.done()
            if is_under_way or now - self._asked_at < settings.HEALTH_FRESH_SECONDS:
                return
            self._answer, self._asked_at = _threads().submit(self._ask), now

    def answer(self) -> Any:
        """Return the answer. Raises what the question raised, or TimeoutError after HEALTH_SECONDS_MAX."""
        with self._lock:
            answer, due_at = self._answer, self._asked_at + settings.HEALTH_SECONDS_MAX
        return answer.result(max(0.0, due_at - time.monotonic()))


@cache
def _threads() -> ThreadPoolExecutor:
    # One for each question, as each is asked once at a time. Made late: a thread does not survive a fork.
    return ThreadPoolExecutor(max_workers=len(DEPENDENCIES) + 1, thread_name_prefix="health")


_pings = {name: _Asked(lambda name=name: DEPENDENCIES[name]()) for name in DEPENDENCIES}  # type: ignore[misc]


def check(names: Collection[str]) -> dict[str, str]:
    """Return "up" or "down" for each of these. All are asked at once, so the slowest sets the time."""
    for name in names:
        _pings[name].ask()
    return {name: _verdict(_pings[name]) for name in names}


def _verdict(ping: _Asked) -> str:
    try:
        ping.answer()
    except (Transient, TimeoutError):
        return "down"
    return "up"


def reports() -> dict[str, Report]:
    """Return each part's report; one that cannot be made now, or in time, says so, and is not well."""
    _reports.ask()
    try:
        made: dict[str, Report] = _reports.answer()
    except TimeoutError:
        return dict.fromkeys(REPORTS, UNKNOWN)
    return made


def _make_reports() -> dict[str, Report]:
    made = {}
    for name, report in REPORTS.items():
        try:
            made[name] = report()
        except Transient:
            made[name] = UNKNOWN
        except Exception:
            # An odd document, say. The other parts are reported all the same.
            logger.exception("report not made", extra={"report": name})
            made[name] = UNKNOWN
    return made


_reports = _Asked(_make_reports)
