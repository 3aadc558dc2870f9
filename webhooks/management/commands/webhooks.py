"""`manage.py webhooks list|dead|log|replay`: see how endpoints fare, and send dead letters again.

Exit status: 0 done, 1 refused or failed, with the reason in one sentence.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from pymongo.errors import PyMongoError

from payflow import clock
from payflow.errors import Refused, Transient
from payflow.terminal import ascii_only, whole_number
from webhooks import replay, selectors, staff

LIMIT_DEFAULT = 20
LIMIT_MAX = 1_000
ANSWER_SHOWN_MAX = 60


class Command(BaseCommand):
    """Reads, and replays; safe on a running system."""

    help = "List endpoints and deliveries; send dead letters again."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments of each action."""
        actions = parser.add_subparsers(dest="action", required=True, metavar="list|dead|log|replay")
        listing = actions.add_parser("list", help="endpoints, newest first")
        listing.add_argument("--trouble", action="store_true", help="only those that fail or are disabled")
        dead = actions.add_parser("dead", help="dead letters, those that died last first")
        dead.add_argument("--subscription", metavar="ID", help="only of this endpoint")
        log = actions.add_parser("log", help="an endpoint's deliveries with their attempts, newest first")
        log.add_argument("subscription", metavar="ID")
        again = actions.add_parser("replay", help="send an endpoint's dead letters of a time again")
        again.add_argument("--subscription", metavar="ID", required=True)
        again.add_argument(
            "--since", type=_moment, required=True, help="such as 2026-01-31 or 2026-01-31T09:30:00Z"
        )
        again.add_argument("--until", type=_moment, help="before this moment; now if left out")
        for each in (listing, dead, log):
            each.add_argument(
                "--limit", type=whole_number(1, LIMIT_MAX), default=LIMIT_DEFAULT, help="how many at most"
            )
        again.add_argument(
            "--limit", type=whole_number(1, LIMIT_MAX), default=LIMIT_MAX, help="how many at most"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run one action; whatever goes wrong becomes one sentence."""
        try:
            getattr(self, f"_{options['action']}")(options)
        except (Refused, Transient) as error:
            raise CommandError(error.detail) from error
        except PyMongoError as error:
            raise CommandError(f"MongoDB said {type(error).__name__}.") from error

    def _list(self, options: dict[str, Any]) -> None:
        rows = staff.list_endpoints(limit=options["limit"], only_in_trouble=options["trouble"])
        heads = ("id", "owner", "state", "failures", "failing since", "paused until", "url")
        self._table(heads, map(_endpoint, rows))

    def _dead(self, options: dict[str, Any]) -> None:
        rows = staff.list_dead(limit=options["limit"], subscription_id=options["subscription"])
        heads = ("id", "subscription", "event", "died", "attempts", "last")
        self._table(heads, map(_dead_letter, rows))

    def _log(self, options: dict[str, Any]) -> None:
        rows = selectors.list_deliveries(subscription_id=options["subscription"], limit=options["limit"])
        for row in rows:
            place = row.get("sequence") or "-"
            due = f", due {_time(row['next_attempt_at'])}" if row.get("next_attempt_at") else ""
            self.stdout.write(ascii_only(f"{row['_id']}  #{place}  {row['event_id']}  {row['status']}{due}"))
            for attempt in row.get("attempts", ()):
                self.stdout.write(ascii_only(f"    {_attempt(attempt)}"))
        self.stdout.write(f"{len(rows)} deliver{'y' if len(rows) == 1 else 'ies'}")

    def _replay(self, options: dict[str, Any]) -> None:
        count, more = replay.replay_dead(
            subscription_id=options["subscription"],
            since=options["since"],
            until=options["until"] or clock.now(),
            limit=options["limit"],
        )
        end = "; there may be more, so run this again" if more else ""
        whose = "dead letter sent on its" if count == 1 else "dead letters sent on their"
        self.stdout.write(f"{count} {whose} way again{end}.")

    def _table(self, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        lines = [list(map(str, line)) for line in rows]
        if not lines:
            self.stdout.write("none")
            return
        widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
        for line in (heads, *lines):
            cells = (f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
            self.stdout.write(ascii_only("  ".join(cells).rstrip()))


def _endpoint(row: dict[str, Any]) -> tuple[Any, ...]:
    state = "active" if row["is_active"] else f"disabled ({row.get('disabled_because') or '?'})"
    times = (_time(row.get("failing_since")), _time(row.get("paused_until")))
    return row["_id"], row["user_id"], state, row.get("consecutive_failures", 0), *times, row["url"]


def _dead_letter(row: dict[str, Any]) -> tuple[Any, ...]:
    last = (row.get("attempts") or [{}])[-1]
    died = _time(row.get("finished_at"))
    outcome = last.get("status_code") or last.get("error") or "-"
    return row["_id"], row["subscription_id"], row["event_id"], died, row.get("attempt_count", 0), outcome


def _attempt(attempt: dict[str, Any]) -> str:
    latency = "-" if attempt["latency_ms"] is None else f"{attempt['latency_ms']} ms"
    outcome, answer = attempt["status_code"] or attempt["error"], attempt["answer"][:ANSWER_SHOWN_MAX]
    return f"{_time(attempt['at'])}  {outcome}  {latency}  {answer}"


def _time(moment: object) -> str:
    return clock.rfc3339(moment) if isinstance(moment, datetime) else "-"


def _moment(given: str) -> datetime:
    """Return a time of RFC 3339, or the first moment of a day in UTC."""
    try:
        if len(given) == len("2026-01-31"):
            return datetime.combine(clock.read_date(given), time.min, UTC)
        return clock.read_rfc3339(given)
    except clock.NotATime:
        reason = "a day such as 2026-01-31 or a time such as 2026-01-31T09:30:00Z"
        raise argparse.ArgumentTypeError(reason) from None
