"""What operators do to one transaction by command: try it again, or give the money back.

What must stay true: an operator decides nothing that is decided already. Both go through the saga's own
steps, so they are as safe to repeat and to race as everything else. Who did what, and what came of it, is
written down on the transaction, refused wishes included: first the wish, then the outcome.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.conf import settings

from ledger import selectors as ledger
from ledger.chain import Kind
from payflow import clock
from payflow.errors import Refused
from payflow.mongodb import collection, unavailable_is_transient
from transfers import recovery, saga, selectors, states
from transfers.documents import Transaction
from transfers.errors import HasEnded, NotRefundable, TransactionNotFound
from transfers.moves import Row
from transfers.selectors import log_ids
from transfers.states import Settlement, Status

logger = logging.getLogger(__name__)
ACTIONS_KEPT_MAX = 200
UNFINISHED = "no outcome yet"


def find(transaction_id: str) -> Row:
    """Return one transaction. Raises TransactionNotFound."""
    row = selectors.find_transaction(transaction_id=transaction_id)
    if row is None:
        raise TransactionNotFound(f"There is no transaction {transaction_id}.")
    return row


def retry(*, transaction_id: str, who: str) -> Row:
    """Drive a transaction now, count its tries from the start and clear its flag; return it as it is then.

    Raises TransactionNotFound, HasEnded, Transient, and whatever keeps it from being driven.
    """
    return _recorded(transaction_id, who, "retry", _retry)


def refund(*, transaction_id: str, who: str) -> Row:
    """Give the money back to the sender, unless the credit is decided; return the transaction as it is then.

    Raises TransactionNotFound, NotRefundable, Transient.
    """
    return _recorded(transaction_id, who, "refund", _refund)


def _recorded(transaction_id: str, who: str, action: str, act: Callable[[Row], None]) -> Row:
    row = find(transaction_id)
    wish = {"at": clock.now(), "who": who, "action": action}
    kept = {"$each": [{**wish, "outcome": UNFINISHED}], "$slice": -ACTIONS_KEPT_MAX}
    with unavailable_is_transient():
        collection(Transaction).update_one({"_id": transaction_id}, {"$push": {"operator_actions": kept}})
    try:
        act(find(transaction_id))
    except Exception as error:
        verb = "refused" if isinstance(error, Refused) else "failed"
        _record_outcome(row, wish, f"{verb}: {getattr(error, 'detail', type(error).__name__)}")
        raise
    row = find(transaction_id)
    _record_outcome(row, wish, row["status"])
    return find(transaction_id)


def _record_outcome(row: Row, wish: dict[str, Any], outcome: str) -> None:
    extra = {"who": wish["who"], "action": wish["action"], "outcome": outcome}
    logger.warning("operator acted", extra={**log_ids(row), **extra})
    query = {"_id": row["_id"], "operator_actions": {"$elemMatch": {**wish, "outcome": UNFINISHED}}}
    with unavailable_is_transient():
        change = {"$set": {"operator_actions.$.outcome": outcome}}
        collection(Transaction).update_one(query, change)


def _retry(row: Row) -> None:
    anew = {
        "needs_attention": False,
        "attempts": 0,
        "due_at": clock.after(clock.now(), settings.SAGA_STALLED_AFTER_SECONDS),
    }
    query = {"_id": row["_id"], "due_at": {"$exists": True}}
    with unavailable_is_transient():
        is_open = collection(Transaction).update_one(query, {"$set": anew}).matched_count
    if not is_open:
        raise HasEnded(f"The transaction is {row['status']}; there is nothing left to do.")
    recovery.drive([row])


def _refund(row: Row) -> None:
    if row["status"] == Status.INITIATED:
        row = _catch_up(row)
    if row.get("settlement") == Settlement.CREDIT:
        raise NotRefundable("Its credit is decided; it can only be credited.")
    if row["status"] == Status.FAILED:
        refunded = (row.get("failure") or {}).get("refunded")
        raise NotRefundable("It is refunded already." if refunded else "It was declined; nothing was taken.")
    saga.refund([row["_id"]], undecided_because=states.REFUNDED_BY_OPERATOR, tell_all=True)
    if find(row["_id"]).get("settlement") == Settlement.CREDIT:
        raise NotRefundable("Its credit was decided just now; it can only be credited.")


def _catch_up(row: Row) -> Row:
    """Move a transaction on whose debit stands in the ledger already; its executor died in between."""
    entry = ledger.find_entry(operation_id=f"{row['_id']}:debit")
    if entry is None or entry.kind is not Kind.DEBIT:
        raise NotRefundable("Nothing has been debited, so there is nothing to give back.")
    saga.debit([row["_id"]], tell_all=True)
    return find(row["_id"])
