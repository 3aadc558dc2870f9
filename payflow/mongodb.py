"""The one way to MongoDB for mongoengine's documents, and how its failures are told apart.

Every client is a `Client`, also Django's (payflow/mongodb_backend), and keeps to a request's budget.
Every client writes with `w=majority, j=true`: what was acknowledged is on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import mongoengine
import pymongo
from django.conf import settings
from django.utils.module_loading import autodiscover_modules
from pymongo import WriteConcern
from pymongo.collection import Collection
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConnectionFailure,
    ExecutionTimeout,
    NetworkTimeout,
    PyMongoError,
    WTimeoutError,
)
from pymongo.errors import ServerSelectionTimeoutError as SelectionTimeout

from payflow import circuits, storage
from payflow.errors import Transient

Row = TypeVar("Row", bound=Mapping[str, Any])
UNAVAILABLE = (AutoReconnect, NetworkTimeout, SelectionTimeout, ExecutionTimeout, WTimeoutError)
_UNSENT = "operation would exceed time limit"
DUPLICATE_KEY_CODE = 11_000
# A single server acknowledges before its journal is on disk; a replica set still waits for its majority.
UNJOURNALED = WriteConcern(w="majority", j=False)


class MongoAway(circuits.ServerAway, SelectionTimeout):
    """A request is refused: MongoDB counts as away, or its budget is spent. Nothing was written."""


def ping(seconds: float | None = None) -> None:
    """Raise Transient unless MongoDB answers in time, or within `seconds`."""
    try:
        with pymongo.timeout(seconds or settings.MONGODB_TIMEOUT_MS / 1_000):
            mongoengine.get_db().command("ping")
    except PyMongoError as error:
        raise Transient("The database is not answering.") from error


SERVER = circuits.Server(
    name="mongodb",
    ping=ping,
    budget_seconds=lambda: settings.MONGODB_TIMEOUT_MS / 1_000,
    pause_seconds=lambda: settings.MONGODB_AWAY_SECONDS,
    refusal=lambda: MongoAway("MongoDB is not answering."),
    # A query that the server itself ended as too slow is no sign that it is away.
    failures=(ConnectionFailure,),
)


class Client(pymongo.MongoClient):
    """Counts what a request waits for MongoDB, and refuses it at once where MongoDB counts as away."""

    def _retry_internal(self, *args: Any, **named: Any) -> Any:
        """Everything that pymongo sends for its callers passes here, each with all its retries."""
        with SERVER.errand() as left:
            if left is None:
                return super()._retry_internal(*args, **named)
            try:
                with pymongo.timeout(left):
                    return super()._retry_internal(*args, **named)
            except ExecutionTimeout as error:
                # pymongo has sent nothing, because by its measurements the answer would come too late.
                if _UNSENT in str(error) and left > SERVER.budget_seconds() / circuits.PING_SHARE:
                    SERVER.failed()
                raise


def connect() -> None:
    """Register the connection; nothing is opened until the first operation, so forking stays safe."""
    mongoengine.connect(
        db=settings.MONGODB_DATABASE,
        host=settings.MONGODB_URI,
        alias="default",
        mongo_client_class=Client,
        connect=False,
        tz_aware=True,
        uuidRepresentation="standard",
        **settings.MONGODB_OPTIONS,
    )


def reconnect() -> None:
    """Drop what a forked child inherited and register a connection of its own."""
    mongoengine.disconnect_all()
    connect()
    SERVER.answers()


def collection(document: type[mongoengine.Document], *, lasting: bool = True) -> Collection:
    """Return the pymongo collection behind a document class, for bulk and conditional writes.

    Without `lasting` a single server acknowledges a write before its journal is on disk (a replica set
    still waits for its majority): only for what recovery would find out again, were it lost.
    """
    found = document._get_collection()
    return found if lasting else found.with_options(write_concern=UNJOURNALED)


def ensure_indexes() -> list[str]:
    """Create the indexes that every app's documents declare; return the collections' names."""
    autodiscover_modules("documents")
    documents = [d for d in mongoengine.Document.__subclasses__() if not d._meta.get("abstract")]
    for document in documents:
        document.ensure_indexes()
    return sorted(document._get_collection_name() for document in documents)


@contextmanager
def unavailable_is_transient(
    detail: str = "The database is not answering. Try again shortly.",
) -> Iterator[None]:
    """Turn "MongoDB did not answer" into Transient, so that callers need not know pymongo's errors."""
    try:
        yield
    except UNAVAILABLE as error:
        raise Transient(detail) from error


def insert_missing(target: Collection, rows: Sequence[Row]) -> list[Row]:
    """Insert the rows whose keys are not there yet; return those that were there. Raises Transient.

    One task may insert very many rows, so it looks for room again here, and raises StorageFull.
    """
    storage.ensure_room()
    try:
        with unavailable_is_transient():
            target.insert_many(rows, ordered=False)
    except BulkWriteError as error:
        faults = error.details.get("writeErrors", [])
        # A write that was not confirmed may be rolled back, even beside one that was refused as a duplicate.
        if error.details.get("writeConcernErrors") or any(f["code"] != DUPLICATE_KEY_CODE for f in faults):
            raise Transient("The database could not confirm a write. Try again shortly.") from error
        return [rows[fault["index"]] for fault in faults]
    return []
