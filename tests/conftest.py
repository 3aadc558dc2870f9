"""What every test stands on: a migrated database, and nothing left in it by the test before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import hypothesis
import mongoengine
import pytest
from django.conf import LazySettings, settings
from django.core.management import call_command
from pymongo import DeleteMany
from pytest_django import DjangoDbBlocker

from accounts import sessions
from ledger import audit_record, seen
from payflow import leases, mongodb, redisdb
from payflow.api import limits
from payflow.stack.drill.proxy import Proxy, Upstream
from payflow.stack.embedded import free_port
from webhooks import backlog

# A slow machine is no reason to fail.
hypothesis.settings.register_profile("payflow", deadline=None)
hypothesis.settings.load_profile("payflow")

# Made once by `migrate`; emptying them would only cost making them again.
KEPT = frozenset({"django_migrations", "django_content_type", "auth_permission"})


@pytest.fixture(scope="session", autouse=True)
def _database(django_test_environment: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    assert settings.ENVIRONMENT == "test", "these tests empty their database"
    # Not pytest-django's own set-up: it makes the database only for tests that carry its mark, and the
    # mark would flush after each of them.
    with django_db_blocker.unblock():
        mongoengine.get_connection().drop_database(settings.MONGODB_DATABASE)
        call_command("migrate", verbosity=0)
        mongodb.ensure_indexes()
        yield


@pytest.fixture(autouse=True)
def _empty(_database: None) -> None:
    redisdb.client().flushdb()
    redisdb.SERVER.answers()
    mongodb.SERVER.answers()
    limits._spent.clear()
    leases._held.clear()
    backlog._credits.clear()
    seen.forget()
    audit_record.forget_that_it_began()
    sessions._Ended.families, sessions._Ended.read_at, sessions._Ended.read_until_ms = {}, float("-inf"), 0
    database = mongoengine.get_db()
    # One command for all: some thousand tests pay for it.
    found = sorted(set(database.list_collection_names()) - KEPT)
    emptying = [DeleteMany({}, namespace=f"{database.name}.{name}") for name in found]
    database.client.bulk_write(emptying, ordered=False, write_concern=mongodb.UNJOURNALED)


@pytest.fixture
def redis_down(settings: LazySettings) -> Iterator[None]:
    """Redis's address with nobody listening there."""
    url = settings.REDIS_URL
    settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    redisdb.client.cache_clear()
    yield
    # In this order: a thread that renews leases may ask for a client at any moment.
    settings.REDIS_URL = url
    redisdb.client.cache_clear()


@pytest.fixture
def redis_proxy(settings: LazySettings) -> Iterator[Proxy]:
    """Between this process and Redis; not the broker."""
    url = settings.REDIS_URL
    parts = urlsplit(url)
    with Proxy((parts.hostname or "", parts.port or 6379)) as proxy:
        settings.REDIS_URL = parts._replace(netloc=f"127.0.0.1:{proxy.port}").geturl()
        redisdb.client.cache_clear()
        yield proxy
        settings.REDIS_URL = url
        redisdb.client.cache_clear()
    redisdb.SERVER.answers()


@pytest.fixture
def mongodb_proxy(settings: LazySettings) -> Iterator[Proxy]:
    """Between mongoengine and MongoDB; Django's own connection goes past it."""
    uri = settings.MONGODB_URI
    with Proxy(_upstream(uri)) as proxy:
        settings.MONGODB_URI = f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true&journal=true"
        mongodb.reconnect()
        yield proxy
        settings.MONGODB_URI = uri
        mongodb.reconnect()
    mongodb.SERVER.answers()


def _upstream(uri: str) -> Upstream:
    parts = urlsplit(uri)
    if (path := unquote(parts.netloc)).endswith(".sock"):
        return Path(path)
    return parts.hostname or "", parts.port or 27017
