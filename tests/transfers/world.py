"""People with wallets, transfers between them, an ear on the event bus: what the saga's tests play with."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from accounts.models import User
from ledger import selectors as ledger
from payflow import clock, events, redisdb
from payflow.ids import new_id
from payflow.mongodb import collection
from transfers import inbox, saga, selectors, services, states
from transfers.documents import Transaction
from transfers.states import Status
from wallets import services as wallet_services
from wallets.selectors import find_wallet

CURRENCY = "USD"


def person(name: str, *, balance_minor: int = 0) -> str:
    """Create a user with a wallet and some money; return the user's id."""
    user = User.objects.create(email=f"{name}-{new_id('x')}@example.com", name=name)
    user_id = str(user.pk)
    wallet_services.open_wallet(user_id=user_id, currency=CURRENCY)
    if balance_minor:
        wallet_services.deposit(user_id=user_id, currency=CURRENCY, amount_minor=balance_minor, key=None)
    return user_id


def wallet_id_of(user_id: str) -> str:
    wallet = find_wallet(user_id=user_id, currency=CURRENCY)
    assert wallet is not None
    return wallet.id


def balance_of(user_id: str) -> int:
    head = ledger.find_head(wallet_id=wallet_id_of(user_id))
    return head.balance_minor if head else 0


def start(sender: str, receiver: str, amount_minor: int, key: str | None = None) -> str:
    """Write a transaction down, as the API does; return its id."""
    request = services.TransferRequest(sender, receiver, None, amount_minor, CURRENCY, "")
    given = services.Key(key, f"{receiver}:{amount_minor}") if key else None
    return services.start_transaction(request=request, key=given).row["_id"]


def row_of(transaction_id: str) -> dict:
    row = selectors.find_transaction(transaction_id=transaction_id)
    assert row is not None
    return row


def status_of(transaction_id: str) -> Status:
    return Status(row_of(transaction_id)["status"])


def path_of(transaction_id: str) -> list[str]:
    return [move["status"] for move in row_of(transaction_id)["history"]]


def play(*transaction_ids: str) -> None:
    """Run the whole saga in this process, as the chain of tasks would."""
    step = saga.credit(saga.debit(list(transaction_ids)))
    saga.complete(step.credited)
    if step.refused:
        saga.refund(step.refused)


def make_due(*transaction_ids: str) -> None:
    """Let recovery see these transactions as stalled."""
    past = clock.now() - timedelta(seconds=1)
    query = {"_id": {"$in": list(transaction_ids)}, "due_at": {"$exists": True}}
    collection(Transaction).update_many(query, {"$set": {"due_at": past}})


def make_old(transaction_id: str, seconds: float) -> None:
    """Let a transaction have begun in the past."""
    order_otherwise(transaction_id, initiated_at=clock.now() - timedelta(seconds=seconds))


def order_otherwise(transaction_id: str, **changes: Any) -> None:
    """Change what a transaction orders, and its MAC with it, as only PayFlow can."""
    row = services.with_mac({**row_of(transaction_id), **changes})
    changes |= {name: row[name] for name in ("key_id", "mac")}
    collection(Transaction).update_one({"_id": transaction_id}, {"$set": changes})


def saw_in_inbox(seconds: float, head: str) -> None:
    """Have recovery remember that this id had waited longest so long ago."""
    at_ms = clock.epoch_ms(clock.now()) - round(seconds * 1000)
    redisdb.client().rpush(inbox.LOOKS_KEY, f"{at_ms} {head}")


def a_tick_passes() -> None:
    """Let what recovery has seen of the inbox have been seen two seconds earlier."""
    looks = [look.partition(" ") for look in redisdb.client().lrange(inbox.LOOKS_KEY, 0, -1)]
    for position, (at_ms, blank, head) in enumerate(looks):
        redisdb.client().lset(inbox.LOOKS_KEY, position, f"{int(at_ms) - 2_000}{blank}{head}")


def expected_events(transaction_id: str) -> list[str]:
    """Return the ids of all events that the transaction's history calls for, in order."""
    statuses = [Status(status) for status in path_of(transaction_id)]
    return [f"{transaction_id}:{event.value}" for _, event in states.events_of(statuses)]


class Listener:
    """Collects what is published on the bus."""

    def __init__(self) -> None:
        self._pubsub = redisdb.client().pubsub(ignore_subscribe_messages=False)
        self._pubsub.subscribe(events.CHANNEL)
        assert self._pubsub.get_message(timeout=5)["type"] == "subscribe"
        self._heard: list[dict] = []

    def bodies(self) -> list[dict]:
        """Return every event heard so far, in order."""
        redisdb.client().publish(events.CHANNEL, json.dumps({"id": "end-of-line"}))
        for _ in range(1_000_000):
            message = self._pubsub.get_message(timeout=5)
            body = json.loads(message["data"])
            if body["id"] == "end-of-line":
                break
            self._heard.append(body)
        return self._heard

    def ids(self) -> list[str]:
        return [body["id"] for body in self.bodies()]

    def close(self) -> None:
        self._pubsub.close()


@contextmanager
def listening() -> Iterator[Listener]:
    listener = Listener()
    try:
        yield listener
    finally:
        listener.close()


def start_due(sender: str, receiver: str, count: int) -> list[str]:
    """Return transactions that are due for recovery."""
    transactions = [start(sender, receiver, 10) for _ in range(count)]
    make_due(*transactions)
    return transactions


def statuses(transactions: list[str]) -> Counter:
    """Return how many of them are in which status."""
    return Counter(status_of(transaction).value for transaction in transactions)
