"""The stored shapes: a transaction, where its saga stands and how it got there; and the e-mails about it."""

from __future__ import annotations

from enum import StrEnum

from mongoengine import (
    BooleanField,
    DateTimeField,
    DictField,
    Document,
    IntField,
    ListField,
    LongField,
    StringField,
)


class Kind(StrEnum):
    """What a notice tells of."""

    SENT = "TRANSFER_SENT"
    RECEIVED = "TRANSFER_RECEIVED"
    FAILED = "TRANSFER_FAILED"
    WEBHOOK_DISABLED = "WEBHOOK_DISABLED"
    WEBHOOK_HELD = "WEBHOOK_HELD"
    DIGEST = "TRANSFER_DIGEST"


class NoticeStatus(StrEnum):
    """Where a notice stands.

    SENDING: the server may be given it at any moment. UNKNOWN: it was, perhaps, and nobody heard the answer.
    SKIPPED: the recipient wants no mails or cannot be found. DIGESTED: it is part of a digest instead.
    """

    PENDING = "PENDING"
    SENDING = "SENDING"
    SENT = "SENT"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"
    SKIPPED = "SKIPPED"
    DIGESTED = "DIGESTED"


class Transaction(Document):
    """One transfer between two wallets of one currency. `transfers/states.py` names its moves."""

    id = StringField(primary_key=True)
    sender_id = StringField(required=True)
    receiver_id = StringField(required=True)
    sender_wallet_id = StringField(required=True)
    receiver_wallet_id = StringField(required=True)
    amount_minor = LongField(required=True)
    currency = StringField(required=True)
    description = StringField()
    # The sender's own name for it. Absent, not null, where there is none.
    reference = StringField()
    # The batch that it was asked for with, if any.
    batch_id = StringField()
    status = StringField(required=True)
    # CREDIT or REFUND; set once, by an update that requires it unset, and never changed.
    settlement = StringField()
    # Three keys: code, detail, refunded.
    failure = DictField(null=True)
    # Every move: its status, its time and its reason.
    history = ListField(DictField())
    initiated_at = DateTimeField(required=True)
    completed_at = DateTimeField()
    # When recovery looks at it next; absent once it is terminal and every event has been published.
    due_at = DateTimeField()
    attempts = IntField(default=0)
    # When it ended; absent once its notices are written down, and before.
    notices_due_at = DateTimeField()
    # Recovery gave up hoping: staff must look. Gone when it has ended or an operator has it tried anew.
    needs_attention = BooleanField(default=False)
    # What operators did by command: at, who, action, outcome. Not in the history, which drives the events.
    operator_actions = ListField(DictField())
    # The caller's key and a digest of what it asked for with it.
    idempotency_key = StringField()
    fingerprint = StringField()
    correlation_id = StringField()
    # The MAC over what it orders (`ledger/keys.py`), made once: no other transaction is driven.
    key_id = StringField(required=True)
    mac = StringField(required=True)

    meta = {
        "collection": "transactions",
        "auto_create_index": False,
        "indexes": [
            # Pages of what a user sent and received, newest first (ids are ordered by time).
            {"fields": ["sender_id", "-id"]},
            {"fields": ["receiver_id", "-id"]},
            # Recovery's work list. Sparse: finished transactions are not in it.
            {"fields": ["due_at"], "sparse": True},
            # The postman's. Sparse: what people have been told of is not in it.
            {"fields": ["notices_due_at"], "sparse": True},
            # The staff's work list.
            {"fields": ["needs_attention"], "partialFilterExpression": {"needs_attention": True}},
            # A key moves money once, whatever Redis remembers.
            {
                "fields": ["sender_id", "idempotency_key"],
                "unique": True,
                "partialFilterExpression": {"idempotency_key": {"$type": "string"}},
            },
            # Staff ask for a key before they know whose it is. The index above begins with the sender,
            # because one that is unique must begin with what the collection is sharded by.
            {"fields": ["idempotency_key"], "sparse": True},
            # A sender's reference names one transfer, for ever: who sends an invoice's payment again under
            # another key, or in two batches at once, pays it once.
            {
                "fields": ["sender_id", "reference"],
                "unique": True,
                "partialFilterExpression": {"reference": {"$type": "string"}},
            },
            # What came of a batch, and its pages. Sparse: most transactions are in none.
            {"fields": ["batch_id"], "sparse": True},
        ],
    }

    def __str__(self) -> str:
        return f"{self.id} {self.status}"


class TransferBatch(Document):
    """What one request with many transfers asked for, and what was decided about each of them.

    `transfers/batches.py` says how it is written.
    """

    id = StringField(primary_key=True)
    sender_id = StringField(required=True)
    created_at = DateTimeField(required=True)
    correlation_id = StringField()
    size = IntField(required=True)
    # How many of them became no transaction; known once `due_at` is gone.
    refused = IntField(required=True)
    # One for each transfer, in order: what its transaction is made from, with its MAC, or {problem}.
    items = ListField(DictField())
    # When recovery looks at it next; absent once every transaction is written down.
    due_at = DateTimeField()
    attempts = IntField(default=0)
    # The caller's key and a digest of what it asked for with it.
    idempotency_key = StringField()
    fingerprint = StringField()

    meta = {
        "collection": "transfer_batches",
        "auto_create_index": False,
        "indexes": [
            # Recovery's work list. Sparse: finished batches are not in it.
            {"fields": ["due_at"], "sparse": True},
            # A key moves money once, whatever Redis remembers.
            {
                "fields": ["sender_id", "idempotency_key"],
                "unique": True,
                "partialFilterExpression": {"idempotency_key": {"$type": "string"}},
            },
            # Staff ask for a key before they know whose it is.
            {"fields": ["idempotency_key"], "sparse": True},
        ],
    }

    def __str__(self) -> str:
        return f"{self.id} of {self.size}"


class Notice(Document):
    """One e-mail: about one event, to one user; its id is made of both. See transfers/notices.py."""

    id = StringField(primary_key=True)
    kind = StringField(required=True)
    user_id = StringField(required=True)
    # Who caused it, for turns: the transfer's sender, else the recipient.
    sender_id = StringField()
    event_id = StringField(required=True)
    # What it tells of: a transaction, or facts of their own about what may be gone when it is sent.
    transaction_id = StringField()
    facts = DictField()
    # Of a transfer, for the sums of a digest.
    amount_minor = LongField()
    currency = StringField()
    # The digest that it is part of.
    digest_id = StringField()
    status = StringField(required=True)
    # Each: {at, result, reason}; the newest ones.
    attempts = ListField(DictField())
    attempt_count = IntField(default=0)
    # When it is due; while somebody has claimed it: when the claim runs out. Absent once it has ended.
    next_attempt_at = DateTimeField()
    claim = StringField()
    created_at = DateTimeField(required=True)
    finished_at = DateTimeField()

    meta = {
        "collection": "notices",
        "auto_create_index": False,
        "indexes": [
            # The work list. Sparse: what has ended is not in it.
            {"fields": ["next_attempt_at"], "sparse": True},
            # The work list by turns. Only what is to be sent is in them.
            {
                "fields": ["sender_id", "next_attempt_at"],
                "name": "due_by_sender",
                "partialFilterExpression": {"status": "PENDING"},
            },
            {
                "fields": ["user_id", "next_attempt_at"],
                "name": "due_by_recipient",
                "partialFilterExpression": {"status": "PENDING"},
            },
            # How many mails somebody has got in an hour.
            {
                "fields": ["user_id", "finished_at"],
                "partialFilterExpression": {"status": {"$in": ["SENT", "UNKNOWN"]}},
            },
            # What a digest is about. Sparse: most are in none.
            {"fields": ["digest_id"], "sparse": True},
            # What staff look up: one user's.
            {"fields": ["user_id", "-id"]},
            # And what went wrong: only that.
            {
                "fields": ["status", "-id"],
                "partialFilterExpression": {"status": {"$in": ["FAILED", "UNKNOWN"]}},
            },
            # What has ended long ago and may go. Sparse: what is to be sent is not in it.
            {"fields": ["finished_at"], "sparse": True},
        ],
    }

    def __str__(self) -> str:
        return f"{self.id} {self.kind} {self.status}"
