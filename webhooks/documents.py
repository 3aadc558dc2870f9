"""The stored shapes: who wants to hear of what, and every delivery with every attempt at it."""

from __future__ import annotations

from enum import StrEnum

from mongoengine import (
    BooleanField,
    DateTimeField,
    DictField,
    Document,
    FloatField,
    IntField,
    ListField,
    LongField,
    StringField,
)


class DeliveryStatus(StrEnum):
    """Where a delivery stands. PENDING is on its way or waits for its next attempt."""

    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    DEAD = "DEAD"


class DisabledBecause(StrEnum):
    """Why nothing is sent to an endpoint: its owner or staff said so, it said 410, it failed for too long."""

    OWNER = "OWNER"
    STAFF = "STAFF"
    GONE = "GONE"
    FAILING = "FAILING"


class Subscription(Document):
    """One endpoint of one user, and the events it hears of."""

    id = StringField(primary_key=True)
    user_id = StringField(required=True)
    # Which of the user's places for webhooks it has, from 1 up: what makes their limit exact.
    slot = IntField()
    url = StringField(required=True)
    events = ListField(StringField())
    is_active = BooleanField(required=True, default=True)
    # One of DisabledBecause while it is not active.
    disabled_because = StringField()
    # The newest first: {sealed, created_at, expires_at}; only the newest has no expires_at. See secrets.py.
    secrets = ListField(DictField())
    # Failures in a row of whole attempts, and since when; reset by a success and by enabling it again.
    consecutive_failures = IntField(default=0)
    failing_since = DateTimeField()
    # Its circuit: set while it is open or half open, then nothing but a single probe is sent. See circuit.py.
    paused_until = DateTimeField()
    # It has a new chance since then, and the worker has yet to have tried at once what waits for it.
    fresh_since = DateTimeField()
    # The highest place among those of its deliveries that are no longer kept; it is not given again.
    removed_sequence = LongField()
    # Too many of its owner's deliveries are undelivered: since then its events are held. See backlog.py.
    held_since = DateTimeField()
    # When it was held last, until then.
    released_at = DateTimeField()
    # When a delivery worker last ended its work on it without an error, give or take a few seconds.
    worked_at = DateTimeField()
    # Its owner must get a message: why (a value of DisabledBecause, or HELD), since when that is so, and when
    # the message is tried next.
    owner_notice = StringField()
    owner_notice_since = DateTimeField()
    owner_notice_at = DateTimeField()
    created_at = DateTimeField(required=True)
    updated_at = DateTimeField(required=True)

    meta = {
        "collection": "webhook_subscriptions",
        "auto_create_index": False,
        "indexes": [
            # A user's own, and at every event those of the two parties.
            {"fields": ["user_id", "-id"]},
            # A place is taken once, however many requests come at once.
            {
                "fields": ["user_id", "slot"],
                "unique": True,
                "partialFilterExpression": {"slot": {"$type": "number"}},
            },
            # Owners who have yet to be told. Sparse: hardly any.
            {"fields": ["owner_notice_at"], "sparse": True},
            # Endpoints with a new chance. Sparse: only until the worker has looked.
            {"fields": ["fresh_since"], "sparse": True},
            # Endpoints whose events are held. Sparse: few.
            {"fields": ["held_since"], "sparse": True},
        ],
    }

    def __str__(self) -> str:
        return f"{self.id} {self.url}"


class WebhookEvent(Document):
    """One event as every delivery of it sends it: stored once, however many endpoints hear of it."""

    id = StringField(primary_key=True)
    # 12 hex digits of milliseconds and 2 of the rank: the order in which deliveries are placed.
    position = StringField(required=True)
    # The body, byte for byte as every attempt signs and sends it.
    payload = StringField(required=True)
    # Subscriptions that are held and have no delivery of it yet. Absent where there are none.
    held_for = ListField(StringField())
    # Removed then, unless a delivery refers to it.
    kept_until = DateTimeField(required=True)

    meta = {
        "collection": "webhook_events",
        "auto_create_index": False,
        "indexes": [
            # What a held subscription gets next.
            {
                "fields": ["held_for", "position"],
                "partialFilterExpression": {"held_for": {"$exists": True}},
            },
            # What may be removed.
            {"fields": ["kept_until"]},
        ],
    }

    def __str__(self) -> str:
        return self.id


class WebhookSweep(Document):
    """The one record of the sweep: when it ran last, and what it saw. /health reads it."""

    id = StringField(primary_key=True)
    at = DateTimeField(required=True)
    # How long the endpoint that waits longest for a delivery worker has waited.
    waiting_seconds = FloatField(required=True)

    meta = {"collection": "webhook_sweeps", "auto_create_index": False}

    def __str__(self) -> str:
        return f"{self.id} {self.at}"


class Delivery(Document):
    """One event for one subscription. Its id is made of both, so a second fan-out finds the first.

    There are many: what an event's id says (its type and transaction), and what the subscription says (its
    owner), is not stored here again. A field that counts is absent while it is zero.
    """

    id = StringField(primary_key=True)
    subscription_id = StringField(required=True)
    event_id = StringField(required=True)
    created_at = DateTimeField(required=True)
    # Its place among its subscription's deliveries: 1, 2, 3 ... without gaps; given before the first attempt.
    sequence = LongField()
    status = StringField(required=True)
    # Each: {at, status_code, latency_ms, error, answer, claim}, written when it begins, so that one whose
    # worker died shows, too. The newest ATTEMPTS_KEPT_MAX of delivery.py are kept; attempt_count counts all.
    attempts = ListField(DictField())
    attempt_count = IntField(default=0)
    # Attempts since it was last sent on its way: what the schedule goes by. Sending it again begins anew.
    tries = IntField(default=0)
    # When it is due; absent before it has its place and once it is DELIVERED or DEAD. While an attempt runs:
    # when the claim runs out.
    next_attempt_at = DateTimeField()
    # Who works on it now; only the holder of the claim says when it is due next.
    claim = StringField()
    finished_at = DateTimeField()

    meta = {
        "collection": "webhook_deliveries",
        "auto_create_index": False,
        "indexes": [
            # Gapless: a place is given once. And the pages that a receiver catches up with.
            {
                "fields": ["subscription_id", "sequence"],
                "unique": True,
                "partialFilterExpression": {"sequence": {"$type": "long"}},
            },
            # What has no place yet, in the order of the events. Only the new ones are in it.
            {
                "fields": ["subscription_id", "id"],
                "name": "without_place",
                "partialFilterExpression": {"sequence": None, "status": "PENDING"},
            },
            # What is due: endpoint by endpoint, the longest due first. What has ended is not in it.
            {
                "fields": ["subscription_id", "next_attempt_at", "sequence"],
                "name": "due",
                "partialFilterExpression": {"status": "PENDING"},
            },
            # The log of an endpoint by outcome, and the dead letters.
            {"fields": ["subscription_id", "status", "-id"]},
            {"fields": ["status", "-finished_at"], "partialFilterExpression": {"status": "DEAD"}},
            # What has ended long ago and may go. Sparse: what is under way is not in it.
            {"fields": ["finished_at"], "sparse": True},
        ],
    }

    def __str__(self) -> str:
        return f"{self.id} {self.event_type} {self.status}"
