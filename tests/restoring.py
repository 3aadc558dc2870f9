"""Copies of the whole database, and putting one back, as a restore of a dump does. Redis is left alone."""

from __future__ import annotations

from typing import Any

import mongoengine
from pymongo.database import Database

Copy = dict[str, list[dict[str, Any]]]


def dump(database: Database | None = None) -> Copy:
    """Return every document of every collection."""
    stored = mongoengine.get_db() if database is None else database
    return {name: list(stored[name].find()) for name in stored.list_collection_names()}


def restore(copy: Copy, database: Database | None = None) -> None:
    """Make the database what it was."""
    stored = mongoengine.get_db() if database is None else database
    for name in stored.list_collection_names():
        stored[name].delete_many({})
        if copy.get(name):
            stored[name].insert_many(copy[name])
