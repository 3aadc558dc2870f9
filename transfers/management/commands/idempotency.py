"""`manage.py idempotency KEY`: who used an idempotency key, when, where, and what came of it.

Redis knows every use of the last day; MongoDB knows for ever what has moved money. Prints no bodies: of a
request there is a digest, of an answer its status and size. Exit status: 0 done, 1 it could not be told.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts import selectors as accounts
from ledger import selectors as ledger
from ledger.chain import Kind
from payflow import clock, idempotency
from payflow.errors import Transient
from payflow.idempotency import Known
from payflow.terminal import ascii_only, table
from transfers import selectors
from wallets.services import keyed_operation_id

ROWS_MAX = 100
USE_HEADS = ("user", "email", "at", "endpoint", "outcome", "bytes", "expires in", "body digest")
MONEY_HEADS = ("what", "id", "user", "email", "status", "at")


class Command(BaseCommand):
    """Reads only; safe on a running system."""

    help = "Tell who used an idempotency key, when, where, and what came of it."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("key", metavar="KEY")
        parser.add_argument("--user", metavar="EMAIL_OR_ID", help="only what this user did with it")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Look the key up in both places; whatever goes wrong becomes one sentence."""
        key = options["key"]
        if not idempotency.is_key(key):
            raise CommandError("An idempotency key is 1 to 64 characters of A-Z, a-z, 0-9, _ and -.")
        try:
            user_id = _find_user_id(options["user"]) if options["user"] else None
            uses = _uses(key, user_id)
            money = list(_money(key, user_id, uses or []))
            emails = _emails([use.user_id for use in uses or []] + [row["user_id"] for row in money])
        except Transient as error:
            raise CommandError(error.detail) from error
        if options["json"]:
            self.stdout.write(json.dumps(_as_json(key, uses, money, emails), indent=2))
        else:
            self._print(uses, money, emails, user_id)

    def _print(
        self,
        uses: list[Known] | None,
        money: list[dict[str, str]],
        emails: dict[str, str | None],
        user_id: str | None,
    ) -> None:
        self.stdout.write("Redis: uses of the last day, newest first")
        if uses is None:
            self.stdout.write("  not answering")
        else:
            self._lines(table(USE_HEADS, (_use_row(use, emails) for use in uses)))
        self.stdout.write("\nMongoDB: what has been written down under it, for ever")
        self._lines(table(MONEY_HEADS, (_money_row(row, emails) for row in money)))
        if user_id is None:
            self.stdout.write(
                "\nDeposits and withdrawals are found for the users shown above; --user names another."
            )

    def _lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.stdout.write(line)


def _find_user_id(email_or_id: str) -> str:
    find = accounts.find_user_by_email
    user = find(email=email_or_id) if "@" in email_or_id else accounts.find_user(user_id=email_or_id)
    if user is None:
        raise CommandError(ascii_only(f"There is no user {email_or_id}."))
    return str(user.pk)


def _uses(key: str, user_id: str | None) -> list[Known] | None:
    """Return what Redis knows; None when it does not answer, for MongoDB may."""
    try:
        uses = idempotency.find_uses(key)
    except Transient:
        return None
    return [use for use in uses if user_id in (None, use.user_id)]


def _money(key: str, user_id: str | None, uses: list[Known]) -> Iterator[dict[str, str]]:
    """Yield what the key has started or moved."""
    transactions = selectors.list_transactions_by_key(key=key, sender_id=user_id, limit=ROWS_MAX)
    batches = selectors.list_batches_by_key(key=key, sender_id=user_id, limit=ROWS_MAX)
    for row in transactions:
        yield _found("transaction", row["_id"], row["sender_id"], row["status"], row["initiated_at"])
    for row in batches:
        written = "being written down" if row.get("due_at") else "written down"
        status = f"{row['size']} transfers, {written}"
        yield _found("batch", row["_id"], row["sender_id"], status, row["created_at"])
    senders = [row["sender_id"] for row in (*transactions, *batches)]
    users = {user_id} if user_id else {*senders, *(use.user_id for use in uses)}
    ids = {
        keyed_operation_id(kind, user, key): user
        for user in users
        for kind in (Kind.DEPOSIT, Kind.WITHDRAWAL)
    }
    for id_, entry in ledger.read_entries(ids).items():
        if isinstance(entry, ledger.BrokenEntry):
            yield _found("ledger entry", id_, ids[id_], f"broken: {entry.reason}", None)
        else:
            yield _found("ledger entry", id_, ids[id_], entry.kind.value, entry.created_at)


def _found(what: str, id_: str, user_id: str, status: str, at: datetime | None) -> dict[str, str]:
    return {
        "what": what,
        "id": id_,
        "user_id": user_id,
        "status": status,
        "at": clock.rfc3339(at) if at else "-",
    }


def _emails(user_ids: Iterable[str]) -> dict[str, str | None]:
    users = {user_id: accounts.find_user(user_id=user_id) for user_id in set(user_ids)}
    return {user_id: user.email if user else None for user_id, user in users.items()}


def _use_row(use: Known, emails: dict[str, str | None]) -> tuple[Any, ...]:
    return (
        use.user_id,
        emails[use.user_id] or "-",
        _time(use),
        f"{use.method} {use.path}",
        use.status or "in progress",
        "-" if use.answer_bytes is None else use.answer_bytes,
        f"{use.expires_in_seconds:.0f} s",
        use.fingerprint[:16],
    )


def _money_row(row: dict[str, str], emails: dict[str, str | None]) -> tuple[str, ...]:
    email = emails[row["user_id"]] or "-"
    return row["what"], row["id"], row["user_id"], email, row["status"], row["at"]


def _time(use: Known) -> str:
    return clock.rfc3339(datetime.fromtimestamp(use.at, UTC))


def _as_json(
    key: str, uses: list[Known] | None, money: list[dict[str, str]], emails: dict[str, str | None]
) -> dict[str, Any]:
    shown = None
    if uses is not None:
        shown = [{**asdict(use), "email": emails[use.user_id], "at": _time(use)} for use in uses]
    return {
        "key": key,
        "redis": shown,
        "mongodb": [{**row, "email": emails[row["user_id"]]} for row in money],
    }
