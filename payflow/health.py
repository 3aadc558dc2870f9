"""Health: is this process alive, can it serve, is everything it depends on there, does the work get done.

The dependencies in NEEDED_TO_SERVE decide whether requests should come here: while another is down, every
instance is without it, and what does not need it still works. Reports, which apps register, say what else an
operator should know; they make the status "degraded", and requests still come. A report that cannot be made
does so, too: its part may be anything but well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from payflow import duties, mongodb, redisdb, storage
from payflow.errors import Transient

DEPENDENCIES: dict[str, Callable[[], None]] = {"mongodb": mongodb.ping, "redis": redisdb.ping}
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


REPORTS: dict[str, Callable[[], Report]] = {"duties": report_duties, "storage": report_storage}


def check(names: Collection[str]) -> dict[str, str]:
    """Return "up" or "down" for each of these. All are asked at once, so the slowest sets the time."""
    with ThreadPoolExecutor(max_workers=len(names)) as pool:
        return dict(zip(names, pool.map(_verdict, [DEPENDENCIES[name] for name in names]), strict=True))


def _verdict(ping: Callable[[], None]) -> str:
    try:
        ping()
    except Transient:
        return "down"
    return "up"


def reports() -> dict[str, Report]:
    """Return each part's report; one that cannot be made now says so, and is not well."""
    made = {}
    for name, report in REPORTS.items():
        try:
            made[name] = report()
        except Transient:
            made[name] = Report(is_well=False, facts={"status": "unknown"})
    return made
