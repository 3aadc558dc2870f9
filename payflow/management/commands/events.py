"""`manage.py events`: show what happens to transactions, as it happens or from a place in the stream.

Ends by Ctrl-C, or after --limit events. What it prints is safe for a terminal, whatever people have written.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from payflow import listening
from payflow.events import EventType
from payflow.listening import START, STREAM_ID, Heard
from payflow.terminal import whole_number

LIMIT_MAX = 10**9


class Command(BaseCommand):
    """Reads events and changes nothing; safe on a running system."""

    help = "Show events: live, or from the stream with --from-start or --since."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare filters, where to begin and when to end."""
        types = [event.value for event in EventType]
        parser.add_argument(
            "--type", action="append", choices=types, metavar="TYPE", help="only this type; may be repeated"
        )
        parser.add_argument(
            "--transaction", action="append", metavar="ID", help="only this transaction; may be repeated"
        )
        parser.add_argument("--user", metavar="ID", help="only what this user is a party to")
        parser.add_argument("--json", action="store_true", help="one JSON object per line")
        parser.add_argument(
            "--limit", type=whole_number(1, LIMIT_MAX), metavar="N", help="end after so many events"
        )
        begin = parser.add_mutually_exclusive_group()
        begin.add_argument(
            "--from-start", action="store_true", help="first what the stream still has, then what follows"
        )
        begin.add_argument(
            "--since", type=_stream_id, metavar="STREAM_ID", help="go on after this place in the stream"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Show events until it is enough."""
        last = None
        try:
            for heard, event in _wanted(self._heard(options), options):
                last = heard.stream_id
                self.stdout.write(_as_json(heard, event) if options["json"] else _as_line(event))
                self.stdout.flush()
        except KeyboardInterrupt:
            if last:
                self._say(f"Go on with --since {last}")
        except BrokenPipeError:
            # The reader has gone; nothing is left to say, at the interpreter's end neither.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _heard(self, options: dict[str, Any]) -> Iterator[Heard]:
        place = START if options["from_start"] else options["since"]
        return listening.since(place, self._say) if place else listening.live(self._say)

    def _say(self, text: str) -> None:
        self.stderr.write(_printable(text))
        self.stderr.flush()


def _wanted(heard: Iterator[Heard], options: dict[str, Any]) -> Iterator[tuple[Heard, dict[str, Any]]]:
    """Yield the events that the filters let through, as many as are wanted; pass over what is no event."""
    left = options["limit"] or LIMIT_MAX
    for one in heard:
        event = _parsed(one.message)
        if event is not None and _passes(event, options):
            yield one, event
            left -= 1
            if not left:
                return


def _parsed(message: str) -> dict[str, Any] | None:
    with suppress(ValueError, RecursionError):
        event = json.loads(message)
        if isinstance(event, dict) and isinstance(event.get("data"), dict):
            return event
    return None


def _passes(event: dict[str, Any], options: dict[str, Any]) -> bool:
    data, types, transactions = event["data"], options["type"], options["transaction"]
    return (
        (not types or event.get("type") in types)
        and (not transactions or data.get("id") in transactions)
        and (not options["user"] or options["user"] in (data.get("sender_id"), data.get("receiver_id")))
    )


def _as_json(heard: Heard, event: dict[str, Any]) -> str:
    """In ASCII: nothing in it can steer a terminal."""
    return json.dumps({"stream_id": heard.stream_id, **event} if heard.stream_id else event)


def _as_line(event: dict[str, Any]) -> str:
    data = event["data"]
    parties = f"{data.get('sender_id')} -> {data.get('receiver_id')}"
    amount = f"{data.get('amount')} {data.get('currency')}"
    line = f"{event.get('created_at')}  {event.get('type'):<21}  {data.get('id')}  {amount:>14}  {parties}"
    failure = data.get("failure")
    if isinstance(failure, dict):
        line += f"  {failure.get('code')}"
    if data.get("description"):
        line += f'  "{data["description"]}"'
    return _printable(line)


def _printable(text: str) -> str:
    """Write out what would steer the terminal or turn the text around."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )


def _stream_id(text: str) -> str:
    if not STREAM_ID.fullmatch(text):
        raise argparse.ArgumentTypeError("a place in the stream such as 1767225600000-0")
    return text
