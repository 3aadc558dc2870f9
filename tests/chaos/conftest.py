"""One real stack for all tests here that speak to it over HTTP, audited after each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from payflow.stack.stack import Stack
from tests.chaos.people import Person


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = {
        "PAYFLOW_CRASH_POINTS": "file",
        "REDIS_REQUEST_SECONDS": "0.25",
        "SAGA_STALLED_AFTER_SECONDS": "2",
        "SAGA_QUEUE_AGE_SECONDS_MAX": "3",
        "WEBHOOK_TOTAL_SECONDS": "2",
        "WEBHOOK_CLAIM_SECONDS": "5",
        "WEBHOOK_RETRY_SECONDS": ",".join(["1"] * 100),
        "WEBHOOK_CIRCUIT_SECONDS": "1",
        "WEBHOOK_SWEEP_EVERY_SECONDS": "1",
    }
    with Stack.on_free_ports(tmp_path_factory.mktemp("stack"), settings) as running:
        yield running


@pytest.fixture
def alice(stack: Stack) -> Person:
    return Person(stack.base_url, "alice", deposit="100.00")


@pytest.fixture
def bob(stack: Stack) -> Person:
    return Person(stack.base_url, "bob")


@pytest.fixture
def audited(stack: Stack) -> Iterator[None]:
    yield
    stack.manage("audit", "--expect-settled")
