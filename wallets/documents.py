"""The stored shape of a wallet. It holds no balance: the ledger does."""

from __future__ import annotations

from enum import StrEnum

from mongoengine import DateTimeField, Document, StringField


class Status(StrEnum):
    """Whether money may move in or out."""

    ACTIVE = "ACTIVE"
    FROZEN = "FROZEN"
    CLOSED = "CLOSED"


class Wallet(Document):
    """One user's money in one currency."""

    id = StringField(primary_key=True)
    user_id = StringField(required=True)
    currency = StringField(required=True)
    status = StringField(required=True, choices=[s.value for s in Status])
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
