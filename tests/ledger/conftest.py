"""What the ledger's tests share."""

from __future__ import annotations

import pytest

from tests.ledger.story import Story


@pytest.fixture
def story() -> Story:
    """A clean history to tamper with."""
    return Story()
