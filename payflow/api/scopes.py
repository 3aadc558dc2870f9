"""What an API key may be allowed to do; a viewset's `scopes` names one for each action open to keys."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """One permission of an API key; none includes another."""

    TRANSACTIONS_READ = "transactions:read"
    TRANSACTIONS_WRITE = "transactions:write"
    WALLETS_READ = "wallets:read"
    DEPOSITS_WRITE = "deposits:write"
    WEBHOOKS_WRITE = "webhooks:write"
