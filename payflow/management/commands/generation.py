"""`manage.py generation`: which database this is; after a restore, begin a new generation or accept it."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from payflow import clock, generation
from payflow.errors import Transient
from payflow.terminal import visible_line

REASON_LENGTH_MAX = 200


class Command(BaseCommand):
    """What docs/operations.md calls for after a restore."""

    help = (
        "Show the database's generation; --begin a new one after a restore, or --accept one that was found."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take what is to be done and why."""
        what = parser.add_mutually_exclusive_group()
        what.add_argument(
            "--begin", action="store_true", help="begin a new generation: Redis forgets all of it"
        )
        what.add_argument(
            "--accept", action="store_true", help="accept a restore that PayFlow has found by itself"
        )
        parser.add_argument(
            "--reason", type=visible_line(REASON_LENGTH_MAX), help="why; it is stored and shown"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it, then show the generation."""
        reason = options["reason"] or ""
        if (options["begin"] or options["accept"]) and not reason:
            raise CommandError("Say why, with --reason.")
        try:
            if options["begin"]:
                generation.begin(reason=reason)
            if options["accept"] and not generation.accept(reason=reason):
                raise CommandError("There is no restore to accept.")
            self._show(generation.current())
        except Transient as error:
            raise CommandError(error.detail) from error

    def _show(self, row: dict[str, Any] | None) -> None:
        if row is None:
            self.stdout.write("No process has used this database yet.")
            return
        state = "accepted" if row["is_accepted"] else "NOT ACCEPTED: see docs/operations.md, Restore"
        self.stdout.write(f"Generation {row['generation']} since {clock.rfc3339(row['began_at'])}, {state}")
        self.stdout.write(f"  reason: {row['reason']}")
