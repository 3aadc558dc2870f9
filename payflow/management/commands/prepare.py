"""`manage.py prepare`: bring the database up to date, migrations and then indexes. Safe to repeat."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from pymongo.errors import OperationFailure, PyMongoError

from payflow import generation
from payflow.errors import Transient

OUT_OF_DISK_SPACE_CODE = 14_031


class Command(BaseCommand):
    """What must be done before any process starts; it goes on where an earlier run has stopped."""

    help = "Bring the database up to date: migrations, then indexes. Safe to repeat, whatever interrupted it."

    def handle(self, *args: Any, **options: Any) -> None:
        """Do both; an error of the database is told as a sentence."""
        try:
            call_command("migrate", verbosity=0)
            call_command("ensure_indexes", verbosity=options["verbosity"])
            # Redis need not be there yet; then recovery looks.
            with suppress(Transient):
                generation.look()
        except (DatabaseError, PyMongoError) as error:
            cause = error if isinstance(error, PyMongoError) else error.__cause__ or error
            raise CommandError(_sentence(cause)) from error


def _sentence(cause: BaseException) -> str:
    repeat = "Then run it again: it goes on where it stopped."
    if isinstance(cause, OperationFailure) and cause.code == OUT_OF_DISK_SPACE_CODE:
        reason = f"MongoDB has too little space (OutOfDiskSpace: {_short(cause)})."
        return f"{reason} Make room where its data lie. {repeat}"
    return f"MongoDB refused or did not answer ({type(cause).__name__}: {_short(cause)}). Mend that. {repeat}"


def _short(cause: BaseException) -> str:
    """Return what the server said, without the whole answer that the driver appends."""
    return str(cause).partition(", full error:")[0][:300]
