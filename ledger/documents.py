"""The stored shape of the ledger: one append-only collection.

Only `ledger/posting.py` inserts here and nothing ever updates or deletes.
"""

from __future__ import annotations

from mongoengine import DateTimeField, Document, LongField, StringField


class LedgerEntry(Document):
    """One fact about one wallet; `ledger/chain.py` says what makes it valid."""

    id = StringField(primary_key=True)
    wallet_id = StringField(required=True)
    sequence = LongField(required=True)
    kind = StringField(required=True)
    amount_minor = LongField(required=True)
    balance_minor = LongField(required=True)
    requested_minor = LongField()
    currency = StringField(required=True)
    contra = StringField(required=True)
    transaction_id = StringField()
    reason = StringField()
    created_at = DateTimeField(required=True)
    previous_hash = StringField(required=True)
    hash = StringField(required=True)

    meta = {
        "collection": "ledger_entries",
        "auto_create_index": False,
        "indexes": [
            # The guard against overdraft and reordering; also serves tails, pages and the audit's scan.
            {"fields": ["wallet_id", "sequence"], "unique": True},
            # A page of one kind out of a long history.
            {"fields": ["wallet_id", "kind", "sequence"]},
            # The balance at a past moment.
            {"fields": ["wallet_id", "created_at", "sequence"]},
        ],
    }

    def __str__(self) -> str:
        return f"{self.wallet_id} #{self.sequence} {self.kind} {self.amount_minor} {self.currency}"
