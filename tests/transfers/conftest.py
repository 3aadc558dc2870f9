"""Two people, and an audit of everything they did."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.core.management import call_command

from tests.transfers import world


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
