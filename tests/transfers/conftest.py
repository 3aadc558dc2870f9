"""Two people, an audit of everything they did, and a mail server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.conf import LazySettings
from django.core.management import call_command

from tests.transfers import world
from tests.transfers.mail_sink import Sink, listening_sink
from transfers import notices


@pytest.fixture
def alice() -> str:
    """She holds 100.00 USD."""
    return world.person("alice", balance_minor=10_000)


@pytest.fixture
def bob() -> str:
    """He holds nothing yet."""
    return world.person("bob")


@pytest.fixture
def audited() -> Iterator[None]:
    """The audit must be clean when the test has ended."""
    yield
    call_command("audit", verbosity=0)


@pytest.fixture
def sink(settings: LazySettings) -> Iterator[Sink]:
    """A mail server that this process sends its mails to."""
    with listening_sink() as sink:
        settings.EMAIL_BACKEND = "payflow.smtp.SmtpBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT, settings.EMAIL_TIMEOUT = "127.0.0.1", sink.port, 5
        settings.DEFAULT_FROM_EMAIL = "PayFlow <payments@payflow.example>"
        settings.PUBLIC_URL = "https://payflow.example"
        yield sink


@pytest.fixture
def failed(alice: str, bob: str) -> str:
    """A declined transfer: one notice, for the sender."""
    transaction = world.start(alice, bob, 900_000)
    world.play(transaction)
    notices.write_down(transactions_max=1)
    return transaction
