"""What every test may rely on: indexes are in place, and MongoDB and Redis start empty."""

from __future__ import annotations

from collections.abc import Iterator

import mongoengine
import pytest
from django.conf import settings

from payflow import mongodb, redisdb
from payflow.mongodb import collection


@pytest.fixture(scope="session")
def _indexes() -> None:
    assert settings.ENVIRONMENT == "test", "these tests empty their database"
    mongodb.ensure_indexes()


@pytest.fixture
def stores(_indexes: None) -> None:
    """Empty every mongoengine collection and Redis."""
    for document in mongoengine.Document.__subclasses__():
        collection(document).delete_many({})
    redisdb.client().flushdb()


@pytest.fixture(autouse=True)
def _empty_stores(request: pytest.FixtureRequest) -> Iterator[None]:
    if "pure" not in request.keywords:
        request.getfixturevalue("stores")
    yield
