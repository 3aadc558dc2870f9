"""The queries as they are sent: each looks at what it returns and at nothing else, however much there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import mongoengine
import pytest
from django.conf import LazySettings
from pymongo.monitoring import CommandListener

from payflow import clock, mongodb
from tests.transfers import world
from transfers import batches, selectors, services
from transfers.parties import TransferRequest
from transfers.selectors import Direction
from transfers.services import Key

SENT_WITH_EVERY_COMMAND = ("lsid", "$db", "$readPreference", "$clusterTime", "maxTimeMS", "readConcern")


class Commands(CommandListener):
    """Keeps the queries that are sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def started(self, event: Any) -> None:
        """Keep a query as it can be explained."""
        if event.command_name in {"find", "aggregate"}:
            kept = {k: v for k, v in event.command.items() if k not in SENT_WITH_EVERY_COMMAND}
            self.sent.append(kept)

    def succeeded(self, event: Any) -> None:
        """Leave it."""

    def failed(self, event: Any) -> None:
        """Leave it; the caller raises."""


@pytest.fixture
def commands(settings: LazySettings) -> Iterator[Commands]:
    listener, options = Commands(), settings.MONGODB_OPTIONS
    settings.MONGODB_OPTIONS = {**options, "event_listeners": [listener]}
    mongodb.reconnect()
    yield listener
    settings.MONGODB_OPTIONS = options
    mongodb.reconnect()


def looked_at(command: dict[str, Any]) -> int:
    """Return how many documents the server looks at to answer."""
    explained = mongoengine.get_db().command("explain", command, verbosity="executionStats")
    return next(_values_of("totalDocsExamined", explained))


def _values_of(name: str, node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        yield from ([node[name]] if name in node else [])
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            yield from _values_of(name, inner)


@pytest.fixture
def written() -> dict[str, str]:
    """Twenty batches of one sender's, four transfers each, and twenty transfers alone."""
    anna, bob = world.person("anna"), world.person("bob")
    for n in range(20):
        wishes: list[Any] = [TransferRequest(anna, bob, None, 1, "USD", "", f"{n}/{m}") for m in range(4)]
        batch = batches.start_batch(sender_id=anna, wishes=wishes, key=Key(f"batch-{n}", ""))
        alone = TransferRequest(anna, bob, None, 1, "USD", "")
        services.start_transaction(request=alone, key=Key(f"alone-{n}", ""))
    return {"anna": anna, "bob": bob, "batch": batch.row["_id"]}


QUERIES: dict[str, tuple[Callable[[dict[str, str]], Any], int]] = {
    "a key": (lambda w: selectors.find_by_key(sender_id=w["anna"], key="alone-7"), 1),
    "an unknown key": (lambda w: selectors.find_by_key(sender_id=w["anna"], key="x"), 0),
    "a batch's key": (lambda w: selectors.find_batch_by_key(sender_id=w["anna"], key="batch-7"), 1),
    "a reference": (lambda w: selectors.find_by_reference(sender_id=w["anna"], reference="7/2"), 1),
    "a listed reference": (
        lambda w: selectors.list_transactions(user_id=w["anna"], limit=21, reference="7/2"), 1
    ),
    "a sent reference": (
        lambda w: selectors.list_transactions(
            user_id=w["anna"], limit=21, reference="7/2", direction=Direction.SENT
        ), 1
    ),
    "an unknown reference": (
        lambda w: selectors.list_transactions(user_id=w["anna"], limit=21, reference="x"), 0
    ),
    "a batch": (lambda w: selectors.list_transactions(user_id=w["anna"], limit=21, batch_id=w["batch"]), 4),
    "anybody's batch": (
        lambda w: selectors.list_transactions(user_id="x", limit=21, batch_id=w["batch"], of_anybody=True), 4
    ),
    "outcomes": (lambda w: selectors.count_outcomes(batch_id=w["batch"]), 4),
    "stalled": (lambda w: selectors.find_stalled(due_by=clock.after(clock.now(), -60), limit=10), 0),
    "stalled batches": (lambda w: selectors.find_stalled_batches(now=clock.now(), limit=10), 0),
    "the first page": (lambda w: selectors.list_transactions(user_id=w["anna"], limit=21), 22),
}  # fmt: skip


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_uses_its_index(written: dict[str, str], commands: Commands, name: str) -> None:
    ask, documents = QUERIES[name]
    ask(written)
    (command,) = commands.sent
    assert looked_at(command) <= documents, command


def test_the_count_is_of_what_the_server_looks_at(written: dict[str, str], commands: Commands) -> None:
    list(mongodb.collection(services.Transaction).find({"description": "x"}))
    (command,) = commands.sent
    assert looked_at(command) == 100
