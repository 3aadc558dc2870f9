"""The stored shape of the ledger: one append-only collection, and beside it what the audit remembers.

Only `ledger/posting.py` inserts entries and nothing ever updates or deletes them.
"""

from __future__ import annotations

from mongoengine import (
    BooleanField,
    DateTimeField,
    DictField,
    Document,
    ListField,
    LongField,
    StringField,
)


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
    # A MAC over the hash, and which of LEDGER_KEYS made it: see `ledger/keys.py`.
    key_id = StringField(required=True)
    mac = StringField(required=True)

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


class Checkpoint(Document):
    """Up to where a wallet's chain has been verified; its id is the wallet's. See `ledger/checkpoints.py`."""

    id = StringField(primary_key=True)
    sequence = LongField(required=True)
    hash = StringField(required=True)
    balance_minor = LongField(required=True)
    verified_at = DateTimeField(required=True)
    beginning = LongField(required=True)
    counter = LongField(required=True)
    key_id = StringField(required=True)
    mac = StringField(required=True)

    meta = {"collection": "ledger_checkpoints", "auto_create_index": False}

    def __str__(self) -> str:
        return f"{self.id} verified to #{self.sequence}"


class Finding(Document):
    """A broken invariant that the continuous audit has found; its id says where. See `ledger/findings.py`."""

    id = StringField(primary_key=True)
    is_open = BooleanField(required=True)
    invariant = StringField(required=True)
    detail = StringField(required=True)
    # Either a wallet with the position in its chain, or a transaction.
    wallet_id = StringField()
    sequence = LongField()
    transaction_id = StringField()
    found_at = DateTimeField(required=True)
    cleared_at = DateTimeField()
    cleared_by = StringField()
    beginning = LongField(required=True)
    counter = LongField(required=True)
    key_id = StringField(required=True)
    mac = StringField(required=True)

    meta = {
        "collection": "ledger_findings",
        "auto_create_index": False,
        "indexes": [
            # What is open, for the verdict; and whether a wallet is among it, for every step of the audit.
            {"fields": ["is_open", "wallet_id"]},
        ],
    }

    def __str__(self) -> str:
        return f"{self.id}: {self.detail}"


class AuditState(Document):
    """How far the continuous audit has come, and its latest verdict: one document under a MAC.

    `ledger/audit_record.py` says how it is written.
    """

    id = StringField(primary_key=True)
    # Only grows: a writer names the one that it follows.
    counter = LongField(required=True)
    # Whose checkpoints and findings count; and who began, when and why, each: at, by, reason, instead_of.
    beginning = LongField(required=True)
    beginnings = ListField(DictField())
    # Every wallet that had entries before this moment has a checkpoint.
    complete_since = DateTimeField()
    # Of the checkpoints and of the findings: how many there are, the sum of their MACs, how far both were
    # added up again.
    registers = DictField()
    # What is wrong with the record: reason, since.
    unverified = DictField(null=True)
    # Changes to checkpoints and findings that are counted already and may be still to make.
    intent = ListField(DictField())
    key_id = StringField(required=True)
    mac = StringField(required=True)
    # Where the slices of the next tick begin.
    position = DictField()
    verdict = DictField()

    meta = {"collection": "ledger_audit", "auto_create_index": False}

    def __str__(self) -> str:
        return f"audit, {self.counter}"
