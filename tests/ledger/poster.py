"""A process that posts: `python -m tests.ledger.poster` reads batches and prints what became of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from django.conf import settings

from ledger.chain import Kind, Posting
from ledger.posting import post
from payflow import mongodb

Wish = list[Any]


def as_wish(posting: Posting) -> Wish:
    """Return a posting as JSON carries it."""
    return [
        posting.operation_id, posting.wallet_id, posting.kind.value, posting.amount_minor, posting.currency,
        posting.transaction_id,
    ]  # fmt: skip


def start(batches: list[list[Posting]], **environment: str) -> subprocess.Popen[str]:
    """Start a poster in a process group of its own and hand it its batches."""
    poster = subprocess.Popen(
        [sys.executable, "-m", "tests.ledger.poster"],
        cwd=settings.BASE_DIR,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert poster.stdin is not None
    poster.stdin.write(json.dumps([[as_wish(posting) for posting in batch] for batch in batches]))
    poster.stdin.close()
    return poster


def answers(poster: subprocess.Popen[str]) -> dict[str, list[Any]]:
    """Wait for a poster to end well; return kind, wallet, sequence and hash of each operation."""
    assert poster.stdout is not None
    output = poster.stdout.read()
    assert poster.wait(timeout=120) == 0
    result: dict[str, list[Any]] = json.loads(output)
    return result


def main() -> None:
    """Post the batches one after the other."""
    mongodb.connect()
    found: dict[str, list[Any]] = {}
    for batch in json.load(sys.stdin):
        for entry in post([Posting(o, w, Kind(k), a, c, t) for o, w, k, a, c, t in batch]).values():
            answer = [entry.kind.value, entry.wallet_id, entry.sequence, entry.hash]
            if found.setdefault(entry.id, answer) != answer:
                raise AssertionError(f"{entry.id} was answered in two ways")
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
