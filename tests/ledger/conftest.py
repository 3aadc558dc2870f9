"""What the ledger's tests share."""

from __future__ import annotations

import pytest

from ledger import audit_record
from tests.ledger.story import Story


@pytest.fixture(autouse=True)
def _a_doubt_is_settled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_record, "DOUBT_SECONDS", 0.0)


@pytest.fixture
def story() -> Story:
    """A clean history to tamper with."""
    return Story()
