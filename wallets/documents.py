"""The stored shape of a wallet. It holds no balance: the ledger does."""

from __future__ import annotations

from enum import StrEnum

from mongoengine import DateTimeField, Document, ListField, LongField, StringField


class Status(StrEnum):
    """Whether money may move in or out."""

    ACTIVE = "ACTIVE"
    FROZEN = "FROZEN"
    CLOSED = "CLOSED"


class Hold(StrEnum):
    """Why a wallet is frozen. Each reason is lifted by who set it; the last one lifted thaws the wallet."""

    ACCOUNT = "account_deactivated"
    AUDIT = "broken_chain"


class Wallet(Document):
    """One user's money in one currency."""

    id = StringField(primary_key=True)
    user_id = StringField(required=True)
    currency = StringField(required=True)
    status = StringField(required=True, choices=[s.value for s in Status])
    # Of a frozen wallet: one or more of Hold.
    frozen_because = ListField(StringField())
    created_at = DateTimeField(required=True)
    updated_at = DateTimeField(required=True)

    meta = {
        "collection": "wallets",
        "auto_create_index": False,
        "indexes": [
            # One wallet per user and currency, and the way every request finds its wallet.
            {"fields": ["user_id", "currency"], "unique": True},
        ],
    }

    def __str__(self) -> str:
        return f"{self.id} ({self.currency}, {self.status})"


class DepositTotal(Document):
    """What one user has deposited in one currency on one day (UTC), where there is a limit.

    A request adds its amount before it posts, so the total may be too high after a crash, never too low.
    """

    id = StringField(primary_key=True)
    """`<user id>:<currency>:<YYYY-MM-DD>`"""
    amount_minor = LongField(required=True)
    created_at = DateTimeField(required=True)

    meta = {
        "collection": "deposit_totals",
        "auto_create_index": False,
        "indexes": [
            # Housekeeping only: nothing reads the totals of other days.
            {"fields": ["created_at"], "expireAfterSeconds": 3 * 86_400},
        ],
    }

    def __str__(self) -> str:
        return self.id
