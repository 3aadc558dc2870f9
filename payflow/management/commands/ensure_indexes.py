"""`manage.py ensure_indexes`: create the indexes that the documents declare. Safe to repeat."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from payflow import mongodb


class Command(BaseCommand):
    """An explicit step: no process creates indexes on its way."""

    help = "Create the MongoDB indexes that PayFlow's documents declare."

    def handle(self, *args: Any, **options: Any) -> None:
        """Create what is missing."""
        names = mongodb.ensure_indexes()
        if options["verbosity"] > 0:
            self.stdout.write(f"Indexes are in place on {', '.join(names)}.")
