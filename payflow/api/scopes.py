"""What an API key may do. A viewset's `scopes` names what each action open to keys needs."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Scope(StrEnum):
    """One permission of an API key; none includes another."""

    TRANSACTIONS_READ = "transactions:read"
    TRANSACTIONS_WRITE = "transactions:write"
    WALLETS_READ = "wallets:read"
    DEPOSITS_WRITE = "deposits:write"
    WEBHOOKS_WRITE = "webhooks:write"


# One scope, or several that an action needs together.
Needed = Scope | tuple[Scope, ...]


def needed_scopes(scopes: Mapping[str, Needed], action: str | None) -> tuple[Scope, ...]:
    """Return the scopes that a key needs for an action, all of them; none where no key may do it."""
    needed = scopes.get(action or "", ())
    return (needed,) if isinstance(needed, Scope) else needed
