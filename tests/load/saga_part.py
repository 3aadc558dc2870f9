"""Measures the saga from its own side: transfers written down, then the clock until all are COMPLETED."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

from django.conf import settings

from payflow import clock
from payflow.ids import new_id
from payflow.mongodb import collection
from tests.load import windows
from tests.load.load import LoadError
from tests.load.target import SETTLE_SECONDS_MAX, Target, ended_since, settle
from transfers import inbox, parties, services, tasks
from transfers.documents import Transaction
from wallets import selectors as wallets

INSERT_MAX = 1_000


def saga_alone(target: Target) -> dict[str, Any]:
    """Transfers per second from the first message to the last completion."""
    count = target.sizes.saga_transfers
    target.say(f"the saga alone: {count} transfers")
    before = clock.now()
    ids = _write_down(target.user_ids, count)
    with windows.measured(target.sessions) as window:
        started = clock.now()
        inbox.push(ids)
        tasks.start_saga()
        settle()
    rows = ended_since(before.timestamp())
    if len(rows) != count:
        raise LoadError(f"the saga was given {count} transfers and completed {len(rows)}")
    del window.cpu[windows.CLIENT]
    seconds = (max(row["completed_at"] for row in rows) - started).total_seconds()
    return {"transfers": count, **window.cost_of(count, seconds)}


def _write_down(user_ids: list[str], count: int) -> list[str]:
    """Insert transactions like the one that the service writes, that one included; return their ids.

    Recovery is kept away from them: what it would do to a queue this long is not what is measured here.
    """
    currency = settings.DEFAULT_CURRENCY
    found = wallets.find_wallets_of(user_ids=user_ids, currencies=[currency])
    wallet_of = {owner: wallet.id for (owner, _), wallet in found.items()}
    wish = parties.TransferRequest(user_ids[0], user_ids[1], None, 1, currency, "")
    pattern = services.start_transaction(request=wish, key=None).row
    due_at = clock.now() + timedelta(seconds=SETTLE_SECONDS_MAX)
    collection(Transaction).update_one({"_id": pattern["_id"]}, {"$set": {"due_at": due_at}})
    rows = []
    for _ in range(count - 1):
        sender, receiver = random.sample(user_ids, 2)
        row = {
            **pattern,
            "_id": new_id("txn"),
            "due_at": due_at,
            "sender_id": sender,
            "receiver_id": receiver,
        }
        row |= {"sender_wallet_id": wallet_of[sender], "receiver_wallet_id": wallet_of[receiver]}
        rows.append(services.with_mac(row))
    for begin in range(0, len(rows), INSERT_MAX):
        collection(Transaction).insert_many(rows[begin : begin + INSERT_MAX], ordered=False)
    return [pattern["_id"], *(row["_id"] for row in rows)]
