"""`manage.py errors`: the table of every error code, docs/errors.md."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand

from payflow.api import problems

_INTRODUCTION = f"""\
# Errors

Every refusal is a problem document (RFC 9457, `{problems.MEDIA_TYPE}`):

    {{"type": "{problems.TYPE}:self_transfer", "title": "Transfer to yourself", "status": 400,
     "detail": "Sender and receiver must be two different users.", "code": "self_transfer",
     "errors": [{{"field": "receiver_id", "code": "self_transfer", "detail": "..."}}],
     "correlation_id": "cor_01a206d76dcec734b919b5991b274829"}}

Decide by `code`; it never changes, and `type` is its URN. `detail` says in words what happened this time,
`errors` which fields are concerned. `correlation_id` is what the logs of this request carry; it stands in
`X-Correlation-Id`, too.

This table is written by `manage.py errors --write docs/errors.md`.

| code | status | title | what happened | what to do |
| --- | --- | --- | --- | --- |
"""


def table() -> str:
    """Return docs/errors.md."""
    return _INTRODUCTION + "".join(_row(kind) for kind in problems.catalogue().values())


def _row(kind: problems.Kind) -> str:
    statuses = ", ".join(map(str, kind.statuses))
    return f"| `{kind.code}` | {statuses} | {kind.title} | {kind.meaning} | {kind.advice} |\n"


class Command(BaseCommand):
    """Prints the table, or writes it to a file."""

    help = "Print the table of all error codes, or write it to a file."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the file."""
        parser.add_argument("--write", metavar="FILE", type=Path, help="write to this file instead")

    def handle(self, *, write: Path | None, **options: Any) -> None:
        """Print or write."""
        if write:
            write.write_text(table(), encoding="utf-8")
        else:
            self.stdout.write(table(), ending="")
