"""Fixtures of the API tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery.contrib.testing.worker import start_worker
from django.conf import LazySettings
from django.test import Client

from payflow import mongodb
from payflow.celery import app
from payflow.stack.embedded import free_port
from tests.api import contract
from tests.api.client import Api, Party, join


@pytest.fixture(autouse=True)
def _contract(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer that a test gets, whatever the test is about, is held against the OpenAPI document."""
    ask = Client.request

    def request(self: Client, **request: Any) -> Any:
        response = ask(self, **request)
        contract.check(response)
        return response

    monkeypatch.setattr(Client, "request", request)


@pytest.fixture
def anyone() -> Api:
    """A client without credentials."""
    return Api()


@pytest.fixture
def anna() -> Party:
    """She holds 100.00 USD."""
    return join("Anna", cents=100_00)


@pytest.fixture
def bob() -> Party:
    """He holds nothing yet."""
    return join("Bob")


@pytest.fixture
def stranger() -> Party:
    """Somebody who has nothing to do with it."""
    return join("Stranger", cents=100_00)


@pytest.fixture
def staff() -> Party:
    """A user who is staff."""
    return join("Staff", is_staff=True)


@pytest.fixture
def saga_worker() -> Iterator[None]:
    """A Celery worker in a thread of this process."""
    # Named, because a process goes on with the queues that an earlier worker in it was given.
    options = {"pool": "solo", "queues": ["payflow-saga"], "perform_ping_check": False}
    with start_worker(app, shutdown_timeout=30, **options):
        yield


@pytest.fixture
def mongodb_down(settings: LazySettings) -> Iterator[None]:
    """The address of mongoengine's documents with nobody listening there."""
    uri, options = settings.MONGODB_URI, settings.MONGODB_OPTIONS
    settings.MONGODB_URI = f"mongodb://127.0.0.1:{free_port()}/?directConnection=true"
    settings.MONGODB_OPTIONS = {**options, "timeoutMS": 100}
    mongodb.reconnect()
    yield
    settings.MONGODB_URI, settings.MONGODB_OPTIONS = uri, options
    mongodb.reconnect()
