"""API keys for tests."""

from __future__ import annotations

from datetime import timedelta

from accounts import api_keys
from accounts.models import User
from payflow import clock


def mint(
    owner: User, *scopes: str, created_by: User | None = None, days: float = 1, name: str = "Robot"
) -> api_keys.Minted:
    """Return a new key of `owner`; without `created_by` they made it themselves."""
    return api_keys.mint_key(
        owner=owner,
        name=name,
        scopes=scopes or ("wallets:read",),
        expires_at=clock.now() + timedelta(days=days),
        created_by=created_by or owner,
    )
