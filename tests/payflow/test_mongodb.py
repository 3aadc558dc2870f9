"""What every connection asks of MongoDB."""

from __future__ import annotations

import mongoengine
from django.db import connection
from pymongo import ReadPreference

from payflow.mongodb import collection
from transfers.documents import Transaction


def test_every_connection_writes_to_a_journaled_majority_and_reads_what_one_has() -> None:
    for database in (mongoengine.get_db(), connection.database):
        assert database.write_concern.document == {"w": "majority", "j": True}
        assert database.read_concern.level == "majority"
        assert database.read_preference == ReadPreference.PRIMARY


def test_what_need_not_last_still_waits_for_a_majority() -> None:
    relaxed = collection(Transaction, lasting=False)
    assert relaxed.write_concern.document == {"w": "majority", "j": False}
    assert relaxed.read_concern.level == "majority"
