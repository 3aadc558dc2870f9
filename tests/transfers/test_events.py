"""Events of real workers that are killed between a change and its publishing: each is told, in order."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from payflow import redisdb
from payflow.events import STREAM
from tests.transfers import world
from tests.transfers.workers import prefork_worker
from transfers import inbox, recovery, tasks

pytestmark = pytest.mark.usefixtures("audited")


def streamed(transaction: str) -> list[str]:
    """Return the ids of a transaction's events in the stream, repeats included."""
    messages = (json.loads(fields["event"]) for _, fields in redisdb.client().xrange(STREAM))
    return [message["id"] for message in messages if message["data"]["id"] == transaction]


@pytest.mark.parametrize(
    ("point", "amount_minor", "event", "is_told"),
    [
        ("saga.moved_to_debited", 100, "DEBIT_SUCCESS", False),
        ("saga.moved_to_completed", 100, "TRANSACTION_COMPLETED", False),
        ("saga.told_of_completed", 100, "TRANSACTION_COMPLETED", True),
        ("saga.moved_to_failed", 900_000, "TRANSACTION_FAILED", False),
    ],
)
def test_a_kill_between_the_change_and_the_publishing_loses_no_event(
    point: str, amount_minor: int, event: str, is_told: bool, alice: str, bob: str, tmp_path: Path
) -> None:
    transaction = world.start(alice, bob, amount_minor)
    with prefork_worker({"PAYFLOW_CRASH_AT": point, "PAYFLOW_DATA_DIR": str(tmp_path)}) as worker:
        inbox.push([transaction])
        tasks.start_saga()
        assert worker.wait(timeout=60) == -signal.SIGKILL
    assert (f"{transaction}:{event}" in streamed(transaction)) is is_told
    world.make_due(transaction)
    recovery.recover_stalled()
    assert "due_at" not in world.row_of(transaction)
    # Each for the first time in the order of the history; what was told before is told again.
    assert list(dict.fromkeys(streamed(transaction))) == world.expected_events(transaction)
