"""The stored shape of a transaction: what was asked, where its saga stands, and how it got there."""

from __future__ import annotations

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
    # Recovery gave up hoping: staff must look. Gone when it has ended or an operator has it tried anew.
    needs_attention = BooleanField(default=False)
    # What operators did by command: at, who, action, outcome. Not in the history, which drives the events.
    operator_actions = ListField(DictField())
    # The caller's key and a digest of what it asked for with it.
    idempotency_key = StringField()
    fingerprint = StringField()
    correlation_id = StringField()

    meta = {
        "collection": "transactions",
        "auto_create_index": False,
        "indexes": [
            # Pages of what a user sent and received, newest first (ids are ordered by time).
            {"fields": ["sender_id", "-id"]},
            {"fields": ["receiver_id", "-id"]},
            # Recovery's work list. Sparse: finished transactions are not in it.
            {"fields": ["due_at"], "sparse": True},
            # The staff's work list.
            {"fields": ["needs_attention"], "partialFilterExpression": {"needs_attention": True}},
            # A key moves money once, whatever Redis remembers.
            {
                "fields": ["sender_id", "idempotency_key"],
                "unique": True,
                "partialFilterExpression": {"idempotency_key": {"$type": "string"}},
            },
        ],
    }

    def __str__(self) -> str:
        return f"{self.id} {self.status}"
