"""Batches: many transfers of one sender, asked for in one request.

Each transfer is accepted or refused, and later ends, on its own; a batch is whole only in being written down.
What must stay true, wherever somebody dies:
- The batch's document holds all of it before any transaction is written: for each transfer what its
  transaction is made from, under an id that follows from the batch's, or why there is none. So whoever
  finds the document can write the transactions, again and at the same time as others.
- Each transaction's MAC is made with the plan, by the request. Who goes on with a stored plan makes none, so
  a plan that was changed in the database, or inserted there, orders nothing.
- `due_at` stands in it until they are all written and what became of each is decided, once. Until then a
  repeat of the request or recovery goes on with it; from then on they are transactions like others.
- The answer is made from the document alone: a repeat gets the first one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded
from django.conf import settings
from pymongo.errors import BulkWriteError, DocumentTooLarge, DuplicateKeyError

from ledger.keys import transaction_mac
from payflow import clock, correlation
from payflow.api.parsers import PayloadTooLarge
from payflow.api.problems import as_part
from payflow.crashpoints import crash_point
from payflow.errors import IdempotencyKeyReused, Refused, Transient
from payflow.ids import new_id
from payflow.money import format_amount
from payflow.mongodb import DUPLICATE_KEY_CODE, collection, unavailable_is_transient
from payflow.stored_data import Check, invalid, is_count, is_currency, is_text, is_time, one_of, require
from transfers import parties, selectors, services, states
from transfers.body import checked_body
from transfers.documents import Transaction, TransferBatch
from transfers.errors import BatchUnfinished, ReferenceUsed
from transfers.parties import Parties, Revealed, TransferRequest
from transfers.services import Key
from transfers.states import Status

logger = logging.getLogger(__name__)
Row = dict[str, Any]
Problem = dict[str, Any]
# A tick of recovery must be over before the next few come.
PER_TICK_MAX = 20
_is_status = one_of(*(status.value for status in Status))
_CHECKS: dict[str, Check] = {
    "_id": is_text,
    "created_at": is_time,
    "size": is_count,
    "refused": is_count,
}
_FATES = {Status.COMPLETED.value: "moved", Status.FAILED.value: "failed"}


@dataclass(frozen=True, slots=True)
class StartedBatch:
    """A batch that is written down with its transactions, as they were first written.

    `replayed` when an earlier request with this key began it; `is_ours` when this one is to set them going.
    """

    row: Row
    transactions: list[Row]
    replayed: bool
    is_ours: bool


def start_batch(
    *,
    sender_id: str,
    wishes: Iterable[TransferRequest | Problem],
    key: Key | None,
    admit: Callable[[], None] = lambda: None,
    reveal: Callable[[int], Revealed] = parties.reveal_all,
) -> StartedBatch:
    """Write down a batch and all its transactions, each INITIATED. No money has moved yet.

    A wish that is refused already is the problem that says why. Of a batch that is not a repeat `admit` is
    called, to refuse it, before the wishes are read; `reveal` says for how many of them a refusal may tell of
    the receiver. Raises NotAuthenticated, IdempotencyKeyReused,
    PayloadTooLarge, Transient; after the last of these the batch may be written all the same, and after
    BatchUnfinished, one of them, it is.
    """
    row = _find_earlier(sender_id, key)
    replayed = row is not None
    if row is None:
        admit()
        row, replayed = _write_down(sender_id, list(wishes), key, reveal)
    if "due_at" in row:
        try:
            row, transactions, is_ours = finish(row)
        except Transient as error:
            raise BatchUnfinished(row["_id"]) from error
    else:
        transactions, is_ours = transactions_of(row), False
    return StartedBatch(row, transactions, replayed, is_ours)


def finish(batch: Row) -> tuple[Row, list[Row], bool]:
    """Write the batch's transactions and decide what became of each, wherever others stopped.

    Return the batch as it is decided, its transactions, and whether this call did it. Raises Transient.
    """
    transactions = transactions_of(batch)
    taken = _write(batch, transactions)
    crash_point("batch.written")
    problems = {at: {"problem": as_part(ReferenceUsed(batch["items"][at]["reference"]))} for at in taken}
    refused = batch["refused"] + len(problems)
    query = {"_id": batch["_id"], "due_at": {"$exists": True}}
    decided = {"refused": refused, **{f"items.{at}": problem for at, problem in problems.items()}}
    with unavailable_is_transient():
        change = {"$set": decided, "$unset": {"due_at": ""}}
        count = collection(TransferBatch).update_one(query, change).modified_count
    crash_point("batch.decided")
    if not count:
        with unavailable_is_transient():
            decided = collection(TransferBatch).find_one({"_id": batch["_id"]}) or batch
        return decided, transactions_of(decided), False
    items = [problems.get(at, item) for at, item in enumerate(batch["items"])]
    row = {**batch, "refused": refused, "items": items}
    del row["due_at"]
    return row, transactions_of(row) if problems else transactions, True


def finish_stalled() -> int:
    """Finish up to PER_TICK_MAX batches that are due; return how many. One that cannot be stops no other.

    Begins none after RECOVERY_TICK_SECONDS_MAX: what is left is due at the next tick, too. Raises Transient
    when MongoDB does not answer.
    """
    deadline = time.monotonic() + settings.RECOVERY_TICK_SECONDS_MAX
    finished = 0
    for batch in selectors.find_stalled_batches(now=clock.now(), limit=PER_TICK_MAX):
        if time.monotonic() >= deadline:
            break
        try:
            finish(batch)
            finished += 1
        except SoftTimeLimitExceeded:
            raise
        except Exception as error:
            _put_off(batch)
            ids = {"batch_id": batch["_id"], "correlation_id": batch.get("correlation_id") or ""}
            logger.error("batch not finished", extra=ids, exc_info=error)
    return finished


def transactions_of(batch: Row) -> list[Row]:
    """Return the accepted transactions in order, as they are first written down, by whomever."""
    return [
        _transaction(batch, position, item)
        for position, item in enumerate(batch["items"])
        if "problem" not in item
    ]


def batch_body(batch: Row, transactions: Iterable[Row]) -> dict[str, Any]:
    """Return the answer to the request: for each transfer its transaction or its problem, in order.

    Raises StoredDataInvalid.
    """
    accepted = iter(transactions)
    results = [
        item if "problem" in item else {"transaction": checked_body(next(accepted))}
        for item in batch["items"]
    ]
    refused = batch["refused"]
    return {"id": batch["_id"], "created": batch["size"] - refused, "refused": refused, "results": results}


def summary_body(batch: Row, counts: Iterable[Row]) -> dict[str, Any]:
    """Return how a batch gets on, from the sums that `selectors.count_outcomes` has found.

    Transactions that cannot be shown are in none of them, so with one the batch does not count as finished.
    Raises StoredDataInvalid.
    """
    require("transfer_batches", batch, _CHECKS)
    outcomes = dict.fromkeys((status.value for status in Status), 0)
    amounts: dict[str, dict[str, int]] = {}
    for row in counts:
        if not (_is_status(row.get("status")) and is_currency(row.get("currency"))):
            invalid("transactions", f"{row['count']} of {batch['_id']}", "status or currency")
            continue
        if not is_count(row["amount_minor"]):
            invalid("transactions", f"{row['count']} of {batch['_id']}", "amount_minor")
            continue
        outcomes[row["status"]] += row["count"]
        of_currency = amounts.setdefault(row["currency"], dict.fromkeys(("moved", "failed", "in_flight"), 0))
        of_currency[_FATES.get(row["status"], "in_flight")] += row["amount_minor"]
    ended = sum(outcomes[status] for status in states.TERMINAL)
    return {
        "id": batch["_id"],
        "created_at": clock.rfc3339(batch["created_at"]),
        "size": batch["size"],
        "created": sum(outcomes.values()),
        "refused": batch["refused"],
        "outcomes": outcomes,
        "amounts": {
            currency: {fate: format_amount(minor, currency) for fate, minor in fates.items()}
            for currency, fates in sorted(amounts.items())
        },
        "finished": "due_at" not in batch and ended == batch["size"] - batch["refused"],
    }


def _find_earlier(sender_id: str, key: Key | None) -> Row | None:
    row = selectors.find_batch_by_key(sender_id=sender_id, key=key.value) if key else None
    if row and key and row.get("fingerprint") != key.fingerprint:
        raise IdempotencyKeyReused
    return row


def _write_down(
    sender_id: str,
    wishes: list[TransferRequest | Problem],
    key: Key | None,
    reveal: Callable[[int], Revealed],
) -> tuple[Row, bool]:
    """Decide on each wish and write the batch down; return it, and whether somebody else was quicker."""
    batch_id, now = new_id("bat"), clock.now()
    requests = [wish for wish in wishes if isinstance(wish, TransferRequest)]
    outcomes = parties.decide_all(
        requests,
        parties.load(sender_id, requests),
        reveal=reveal,
        paid_before=lambda: selectors.find_paid(sender_id=sender_id),
    )
    items = list(_plan(wishes, iter(outcomes)))
    refused = sum("problem" in item for item in items)
    row: Row = {
        "_id": batch_id,
        "sender_id": sender_id,
        "created_at": now,
        "correlation_id": correlation.current(),
        "size": len(items),
        "refused": refused,
        **({"due_at": clock.after(now, settings.SAGA_STALLED_AFTER_SECONDS)} if refused < len(items) else {}),
        **({"idempotency_key": key.value, "fingerprint": key.fingerprint} if key else {}),
    }
    row["items"] = [_with_mac(row, position, item) for position, item in enumerate(items)]
    try:
        with unavailable_is_transient(services.IN_DOUBT):
            collection(TransferBatch).insert_one(row)
    except DocumentTooLarge as error:
        raise PayloadTooLarge("The batch is larger than can be kept in one piece. Split it.") from error
    except DuplicateKeyError:
        earlier = _find_earlier(sender_id, key)
        if earlier is None:
            raise
        return earlier, True
    crash_point("batch.planned")
    return row, False


def _plan(
    wishes: Iterable[TransferRequest | Problem], outcomes: Iterator[Parties | Refused]
) -> Iterator[dict[str, Any]]:
    """Yield for each wish what its transaction is made from, or its problem. Pure.

    Of several that could be made under one reference the first is; the database knows about the others.
    """
    references = set()
    for wish in wishes:
        if not isinstance(wish, TransferRequest):
            yield {"problem": wish}
            continue
        sides = next(outcomes)
        if isinstance(sides, Parties) and wish.reference is not None and wish.reference in references:
            sides = ReferenceUsed(wish.reference)
        if isinstance(sides, Refused):
            yield {"problem": as_part(sides)}
            continue
        if wish.reference is not None:
            references.add(wish.reference)
        yield services.terms_of(wish, sides)


def _with_mac(batch: Row, position: int, item: Row) -> Row:
    if "problem" in item:
        return item
    return {**item, **transaction_mac(_transaction(batch, position, item))}


def _transaction(batch: Row, position: int, item: Row) -> Row:
    return services.initiated(
        # The batch's time, most of its random part, and the place in it: ids in the order of the request.
        transaction_id=f"txn_{batch['_id'][4:32]}{position:04x}",
        sender_id=batch["sender_id"],
        terms={**item, "batch_id": batch["_id"]},
        at=batch["created_at"],
        correlation_id=batch["correlation_id"],
    )


def _write(batch: Row, transactions: list[Row]) -> list[int]:
    """Insert those transactions that are not there; return the positions of those that cannot be.

    What is refused as a duplicate is there already, or its reference belongs to another transaction, which
    is there for ever: so everybody who asks gets the same answer.
    """
    try:
        with unavailable_is_transient():
            collection(Transaction).insert_many(transactions, ordered=False)
    except BulkWriteError as error:
        failures = error.details.get("writeErrors", [])
        if error.details.get("writeConcernErrors") or any(f["code"] != DUPLICATE_KEY_CODE for f in failures):
            raise Transient("The database did not take the batch. Try again shortly.") from error
        positions = [at for at, item in enumerate(batch["items"]) if "problem" not in item]
        duplicates = {transactions[f["index"]]["_id"]: positions[f["index"]] for f in failures}
        there = {row["_id"] for row in selectors.load(duplicates)}
        return [position for id_, position in duplicates.items() if id_ not in there]
    return []


def _put_off(batch: Row) -> None:
    """Have recovery look at a batch later, and later each time."""
    attempts = states.tries_of(batch) + 1
    seconds = states.next_look_seconds(
        attempts=attempts, stalled_after_seconds=settings.SAGA_STALLED_AFTER_SECONDS
    )
    change = {"attempts": attempts, "due_at": clock.after(clock.now(), seconds)}
    query = {"_id": batch["_id"], "due_at": {"$exists": True}}
    with unavailable_is_transient():
        collection(TransferBatch).update_one(query, {"$set": change})
