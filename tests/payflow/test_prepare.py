"""`manage.py prepare` may die at any of its commands, and be repeated until the database is as it must be."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from typing import Any

import mongoengine
import pytest
from django.conf import LazySettings
from django.contrib.contenttypes.models import ContentType
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection
from pymongo.errors import OperationFailure
from pymongo.monitoring import CommandListener, CommandStartedEvent

from payflow import mongodb
from payflow.management.commands import ensure_indexes

READING = {
    "aggregate", "count", "dbStats", "distinct", "endSessions", "explain", "find", "getMore", "hello",
    "ismaster", "killCursors", "listCollections", "listIndexes", "ping",
}  # fmt: skip
OF_ONE_ATTEMPT = {"_id", "applied", "lsid", "$clusterTime", "txnNumber", "maxTimeMS", "id", "uid"}
OF_ONE_DATABASE = "database_generation"
ATTEMPTS_MAX = 400


class Died(BaseException):
    """The process was killed right before it sent a command."""


class Deadly(CommandListener):
    """Dies at each command that writes, once; when the command comes again it is carried out."""

    def __init__(self) -> None:
        self.died_at: dict[str, None] = {}

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name in READING or OF_ONE_DATABASE in event.command.values():
            return
        what = repr(_stable(event.command))
        if what not in self.died_at:
            self.died_at[what] = None
            raise Died(what[:300])

    def succeeded(self, event: Any) -> None:
        pass

    def failed(self, event: Any) -> None:
        pass


def _stable(value: Any) -> Any:
    """Return a command without what differs between two attempts at it."""
    if isinstance(value, dict):
        return {key: _stable(inner) for key, inner in value.items() if key not in OF_ONE_ATTEMPT}
    return [_stable(inner) for inner in value] if isinstance(value, list | tuple) else value


@pytest.fixture
def use_database(settings: LazySettings) -> Iterator[Any]:
    """Point Django and mongoengine at another database; each one used is dropped in the end."""
    before = {name: connection.settings_dict[name] for name in ("NAME", "OPTIONS")}
    database, options = settings.MONGODB_DATABASE, settings.MONGODB_OPTIONS
    used = set()

    def use(name: str, listener: CommandListener | None = None) -> None:
        if name != database:
            used.add(name)
        listening = {"event_listeners": [listener]} if listener else {}
        connection.close_pool()
        connection.settings_dict |= {"NAME": name, "OPTIONS": {**before["OPTIONS"], **listening}}
        settings.MONGODB_DATABASE, settings.MONGODB_OPTIONS = name, {**options, **listening}
        mongodb.reconnect()

    yield use
    use(database)
    for name in used:
        mongoengine.get_connection().drop_database(name)
    ContentType.objects.clear_cache()


def described(name: str) -> dict[str, Any]:
    """Return everything in a database but the ids that it made up."""
    database = mongoengine.get_connection()[name]
    labels = {row["_id"]: (row["app_label"], row["model"]) for row in database.django_content_type.find()}
    found = {}
    for collection in sorted(set(database.list_collection_names()) - {OF_ONE_DATABASE}):
        rows = [
            sorted(
                (key, str(labels.get(value, value)))
                for key, value in row.items()
                if key not in ("_id", "applied")
            )
            for row in database[collection].find()
        ]
        indexes = sorted(
            repr(sorted(index.to_dict().items())) for index in database[collection].list_indexes()
        )
        found[collection] = {"indexes": indexes, "rows": sorted(rows)}
    return found


@pytest.mark.timeout(600)
def test_dies_at_each_of_its_commands_and_ends_like_a_clean_run(use_database: Any) -> None:
    use_database("payflow_prepared")
    call_command("prepare", verbosity=0)
    deadly = Deadly()
    use_database("payflow_prepared_by_the_dying", deadly)
    attempts = 0
    while True:
        attempts += 1
        assert attempts < ATTEMPTS_MAX
        try:
            call_command("prepare", verbosity=0)
        except Died:
            continue
        break
    assert attempts == len(deadly.died_at) + 1 > 50
    clean = described("payflow_prepared")
    assert len(clean) > 15
    assert described("payflow_prepared_by_the_dying") == clean


def test_says_what_the_server_said_when_it_has_no_space(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = "available disk space of 3 bytes is less than required minimum of 524288000"

    def refuse() -> list[str]:
        raise OperationFailure(f"{refusal}, full error: {{'ok': 0}}", 14_031)

    monkeypatch.setattr(ensure_indexes.mongodb, "ensure_indexes", refuse)
    with pytest.raises(CommandError, match="too little space") as caught:
        call_command("prepare", stdout=StringIO())
    assert refusal in str(caught.value)
    assert "full error" not in str(caught.value)


def test_names_the_cause_that_django_keeps_beside_an_empty_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> list[str]:
        raise DatabaseError from OperationFailure("not allowed", 13)

    monkeypatch.setattr(ensure_indexes.mongodb, "ensure_indexes", refuse)
    with pytest.raises(CommandError, match="OperationFailure: not allowed"):
        call_command("prepare", stdout=StringIO())
