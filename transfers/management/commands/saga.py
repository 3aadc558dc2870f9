"""`manage.py saga list|show|retry|refund`: see what has not ended, and steer it.

Exit status: 0 done, 1 refused or failed, with the reason in one sentence.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from pymongo.errors import PyMongoError

from ledger import selectors as ledger
from payflow import clock
from payflow.errors import Refused, Transient
from payflow.money import EXPONENTS, format_amount
from payflow.terminal import ascii_only, table, visible_line, whole_number
from transfers import operations, selectors
from transfers.states import Status

LIMIT_DEFAULT = 20
LIMIT_MAX = 1_000
WHO_LENGTH_MAX = 64
ACTS = {"retry": operations.retry, "refund": operations.refund}


class Command(BaseCommand):
    """Reads and steers sagas; safe on a running system."""

    help = "List and show transactions; have one tried again, or refunded."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments of each action."""
        actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|retry|refund")
        listing = actions.add_parser("list", help="transactions that have not ended, the longest due first")
        listing.add_argument("--stalled", action="store_true", help="only those due for recovery")
        listing.add_argument("--attention", action="store_true", help="only those flagged for staff")
        listing.add_argument(
            "--status", choices=[status.value for status in Status], help="only in this state"
        )
        listing.add_argument(
            "--limit", type=whole_number(1, LIMIT_MAX), default=LIMIT_DEFAULT, help="how many at most"
        )
        show = actions.add_parser("show", help="one transaction: timeline, entries, actions")
        retry = actions.add_parser("retry", help="drive one now and clear its flag")
        refund = actions.add_parser("refund", help="give the money back, unless its credit is decided")
        for one in (show, retry, refund):
            one.add_argument("id", metavar="ID")
        for act in (retry, refund):
            act.add_argument(
                "--who",
                type=visible_line(WHO_LENGTH_MAX),
                help="who is acting; the user of this process if left out",
            )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run one action; whatever goes wrong becomes one sentence."""
        action = options["action"]
        try:
            if action == "list":
                self._list(options)
            elif action == "show":
                self._show(options["id"])
            else:
                row = ACTS[action](transaction_id=options["id"], who=options["who"] or _who_runs_this())
                self.stdout.write(f"{row['_id']} is now {row['status']}.")
        except (Refused, Transient) as error:
            raise CommandError(ascii_only(error.detail)) from error
        except PyMongoError as error:
            raise CommandError(f"MongoDB said {type(error).__name__}.") from error
        except CommandError:
            raise
        except Exception as error:
            reason = f"It cannot be driven ({type(error).__name__}: {error})."
            raise CommandError(ascii_only(reason)) from error

    def _list(self, options: dict[str, Any]) -> None:
        rows = selectors.list_sagas(
            limit=options["limit"],
            due_before=clock.now() if options["stalled"] else None,
            needs_attention=options["attention"],
            status=Status(options["status"]) if options["status"] else None,
        )
        heads = ("id", "status", "settlement", "amount", "initiated", "due", "attempts", "attention")
        self._table(heads, map(_listed, rows))
        more = "; there may be more" if len(rows) == options["limit"] else ""
        self.stdout.write(f"{len(rows)} transaction{'' if len(rows) == 1 else 's'}{more}")

    def _show(self, transaction_id: str) -> None:
        row = operations.find(transaction_id)
        for name, value in _facts(row):
            self.stdout.write(ascii_only(f"{name:<12}{value}"))
        self.stdout.write("\nTimeline")
        moves = row.get("history") or []
        self._table(("at", "status", "reason"), ((_time(m["at"]), m["status"], m["reason"]) for m in moves))
        self.stdout.write("\nLedger entries")
        heads = ("operation", "kind", "amount", "balance", "wallet", "sequence", "at")
        self._table(heads, _entries(transaction_id))
        self.stdout.write("\nOperator actions")
        acts = row.get("operator_actions") or []
        self._table(
            ("at", "who", "action", "outcome"),
            ((_time(act["at"]), act["who"], act["action"], act["outcome"]) for act in acts),
        )

    def _table(self, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        for line in table(heads, rows):
            self.stdout.write(line)


def _listed(row: dict[str, Any]) -> tuple[Any, ...]:
    return (
        row["_id"],
        row.get("status"),
        row.get("settlement") or "-",
        _amount(row.get("amount_minor"), row.get("currency")),
        _time(row.get("initiated_at")),
        _time(row.get("due_at")),
        row.get("attempts", 0),
        "yes" if row.get("needs_attention") else "-",
    )


def _facts(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    failure = row.get("failure") or {}
    refunded = "refunded" if failure.get("refunded") else "not refunded"
    yield "id", row["_id"]
    yield "status", str(row.get("status"))
    yield "settlement", row.get("settlement") or "not decided"
    yield "amount", _amount(row.get("amount_minor"), row.get("currency"))
    for side in ("sender", "receiver"):
        yield side, f"{row.get(f'{side}_id')}, wallet {row.get(f'{side}_wallet_id')}"
    yield "failure", f"{failure['code']}, {refunded}: {failure['detail']}" if failure else "-"
    yield "initiated", _time(row.get("initiated_at"))
    yield "completed", _time(row.get("completed_at"))
    yield "due", _time(row.get("due_at"))
    yield "attempts", str(row.get("attempts", 0))
    yield "attention", "yes" if row.get("needs_attention") else "-"
    yield "correlation", row.get("correlation_id") or "-"


def _entries(transaction_id: str) -> Iterator[tuple[Any, ...]]:
    operations_ = [f"{transaction_id}:{name}" for name in ("debit", "credit", "refund")]
    found = ledger.read_entries(operations_)
    for id_ in (operation for operation in operations_ if operation in found):
        operation, entry = id_.rpartition(":")[2], found[id_]
        if isinstance(entry, ledger.BrokenEntry):
            yield operation, f"broken: {entry.reason}", "-", "-", "-", "-", "-"
            continue
        amount, balance = (
            _amount(minor, entry.currency) for minor in (entry.amount_minor, entry.balance_minor)
        )
        kind = f"{entry.kind.value} ({entry.reason})" if entry.reason else entry.kind.value
        yield operation, kind, amount, balance, entry.wallet_id, entry.sequence, _time(entry.created_at)


def _amount(minor: object, currency: object) -> str:
    """Show an amount; a broken document must show, too."""
    if isinstance(minor, int) and isinstance(currency, str) and currency in EXPONENTS:
        return f"{format_amount(minor, currency)} {currency}"
    return f"{minor} minor units of {currency}"


def _time(moment: object) -> str:
    return clock.rfc3339(moment) if isinstance(moment, datetime) else "-"


def _who_runs_this() -> str:
    """Return the operating system's name for the user of this process, not what the environment claims."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
