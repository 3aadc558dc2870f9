"""Subscriptions, events and deliveries: what the tests of webhooks play with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import ModuleType
from typing import Any

import mongoengine
import pymongo
import pytest
from django.conf import settings
from pymongo import monitoring

from payflow import clock
from payflow.events import Event, EventType
from payflow.ids import new_id
from payflow.mongodb import collection
from webhooks import fanout, secrets, sequencing, turns
from webhooks.documents import Delivery, Subscription, WebhookEvent

ALICE, BOB = "a" * 24, "b" * 24
ALL = [event.value for event in EventType]
LIFE = [
    EventType.TRANSACTION_INITIATED,
    EventType.DEBIT_SUCCESS,
    EventType.CREDIT_SUCCESS,
    EventType.TRANSACTION_COMPLETED,
]
SECRET = secrets.new_secret()


def subscribe(
    user_id: str = ALICE, *, url: str = "http://localhost:9/", events: Sequence[str] = ALL, **more: Any
) -> str:
    """Write a subscription down, without asking what its URL is; return its id."""
    now = clock.now()
    row = {
        "_id": new_id("wh"),
        "user_id": user_id,
        "slot": collection(Subscription).count_documents({"user_id": user_id}) + 1,
        "url": url,
        "events": list(events),
        "is_active": True,
        "secrets": [secrets.sealed(SECRET, now=now)],
        "consecutive_failures": 0,
        "created_at": now,
        "updated_at": now,
        **more,
    }
    collection(Subscription).insert_one(row)
    return row["_id"]


def subscription(subscription_id: str) -> dict[str, Any]:
    row = collection(Subscription).find_one({"_id": subscription_id})
    assert row is not None
    return row


def change(subscription_id: str, **fields: Any) -> None:
    collection(Subscription).update_one({"_id": subscription_id}, {"$set": fields})


def events_of(
    transaction_id: str | None = None,
    types: Iterable[EventType] = LIFE,
    *,
    sender: str = ALICE,
    receiver: str = BOB,
    at: datetime | None = None,
) -> list[Event]:
    """Return events as the saga tells them."""
    chosen, moment = transaction_id or new_id("txn"), at or clock.now()
    data = {
        "id": chosen,
        "sender_id": sender,
        "receiver_id": receiver,
        "history": [{"status": "INITIATED", "at": clock.rfc3339(moment), "reason": None}],
    }
    return [Event(chosen, each, moment, data) for each in types]


def tell(count: int = 1, **more: Any) -> None:
    """Fan the whole life of so many transactions out."""
    for _ in range(count):
        fanout.fan_out(events_of(**more))


def deliveries(subscription_id: str | None = None) -> list[dict[str, Any]]:
    """Return deliveries in the order of their places, each with what its event says."""
    query = {"subscription_id": subscription_id} if subscription_id else {}
    rows = list(collection(Delivery).find(query).sort([("sequence", 1), ("_id", 1)]))
    payloads = {row["_id"]: row["payload"] for row in collection(WebhookEvent).find()}
    return [
        {
            "attempts": [],
            "attempt_count": 0,
            "tries": 0,
            **row,
            "event_type": fanout.event_type_of(row["event_id"]),
            "transaction_id": fanout.transaction_of(row["event_id"]),
            "payload": payloads.get(row["event_id"]),
        }
        for row in rows
    ]


def only_delivery(subscription_id: str) -> dict[str, Any]:
    (row,) = deliveries(subscription_id)
    return row


def one_event(subscription_id: str) -> str:
    """Send a subscription a single event; return its delivery's id."""
    return fanout.send_test(subscription_id=subscription_id)


def place(subscription_id: str) -> None:
    while sequencing.place(subscription_id=subscription_id, limit=500):
        pass


def sequences(subscription_id: str) -> list[int | None]:
    return [row.get("sequence") for row in deliveries(subscription_id)]


def make_due(subscription_id: str) -> None:
    """Let the time of every retry and of the circuit come."""
    past = clock.after(clock.now(), -1)
    collection(Delivery).update_many(
        {"subscription_id": subscription_id, "next_attempt_at": {"$gt": past}, "claim": None},
        {"$set": {"next_attempt_at": past}},
    )
    collection(Subscription).update_one(
        {"_id": subscription_id, "paused_until": {"$gt": past}}, {"$set": {"paused_until": past}}
    )


def work(subscription_id: str, *, turns_max: int = 100) -> None:
    """Take turns as long as there is something to do at once."""
    for _ in range(turns_max):
        if subscription_id not in turns.take(subscription_id=subscription_id):
            return
    raise AssertionError("there is always more to do")


def outcomes(row: dict[str, Any]) -> list[int | str]:
    """Return what came of each attempt: a status, or the word for what went wrong."""
    return [each["status_code"] or each["error"] for each in row["attempts"]]


class Commands(monitoring.CommandListener):
    """Counts what is sent to MongoDB while it listens."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.names.append(event.command_name)

    def succeeded(self, event: object) -> None:
        pass

    def failed(self, event: object) -> None:
        pass


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> Iterator[list[str]]:
    """Have a module use a client that counts its commands."""
    listener = Commands()
    client: pymongo.MongoClient = pymongo.MongoClient(settings.MONGODB_URI, event_listeners=[listener])

    def counting(
        document: type[mongoengine.Document], *, lasting: bool = True
    ) -> pymongo.collection.Collection:
        return client[settings.MONGODB_DATABASE][document._get_collection_name()]

    monkeypatch.setattr(module, "collection", counting)
    yield listener.names
    client.close()
