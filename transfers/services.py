"""Starting a transaction. What happens next is the saga's (transfers/saga.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from pymongo.errors import DuplicateKeyError

from ledger.keys import transaction_mac
from payflow import clock, correlation
from payflow.errors import IdempotencyKeyReused, Refused
from payflow.ids import new_id
from payflow.mongodb import collection, unavailable_is_transient
from transfers import parties, selectors
from transfers.documents import Transaction
from transfers.errors import ReferenceUsed
from transfers.parties import Parties, Revealed, TransferRequest, reveal_all
from transfers.states import Status

IN_DOUBT = (
    "The database did not answer in time, and may have written it down all the same. Send it again with the"
    " same Idempotency-Key; without one, look with GET /transactions before you do."
)


@dataclass(frozen=True, slots=True)
class Started:
    """A stored transaction; `replayed` when an earlier request with this key started it."""

    row: dict[str, Any]
    replayed: bool


@dataclass(frozen=True, slots=True)
class Key:
    """The caller's idempotency key with a digest of what it was used for."""

    value: str
    fingerprint: str


def start_transaction(
    *, request: TransferRequest, key: Key | None, reveal: Callable[[int], Revealed] = reveal_all
) -> Started:
    """Write a transaction down as INITIATED. No money has moved yet; the caller starts the saga.

    `reveal` says whether a refusal may tell of the receiver. Raises what it refuses with, NotAuthenticated,
    SelfTransfer, ReceiverNotFound, CurrencyMismatch, WalletClosed, ReferenceUsed, IdempotencyKeyReused,
    Transient.
    """
    if key and (earlier := _find_earlier(request.sender_id, key)):
        return earlier
    facts = parties.load(request.sender_id, [request])
    (sides,) = parties.decide_all(
        [request], facts, reveal=reveal, paid_before=lambda: selectors.find_paid(sender_id=request.sender_id)
    )
    if isinstance(sides, Refused):
        raise sides
    row = {
        **with_mac(
            initiated(
                transaction_id=new_id("txn"),
                sender_id=request.sender_id,
                terms=terms_of(request, sides),
                at=clock.now(),
                correlation_id=correlation.current(),
            )
        ),
        **({"idempotency_key": key.value, "fingerprint": key.fingerprint} if key else {}),
    }
    try:
        with unavailable_is_transient(IN_DOUBT):
            collection(Transaction).insert_one(row)
    except DuplicateKeyError as error:
        earlier = _find_earlier(request.sender_id, key) if key else None
        if earlier is not None:
            return earlier
        if request.reference is None:
            raise
        raise ReferenceUsed(request.reference) from error
    return Started(row, replayed=False)


def terms_of(request: TransferRequest, sides: Parties) -> dict[str, Any]:
    """Return what a transfer consists of, beside its sender. Pure."""
    terms = {
        "receiver_id": sides.receiver_id,
        "sender_wallet_id": sides.sender_wallet_id,
        "receiver_wallet_id": sides.receiver_wallet_id,
        "amount_minor": request.amount_minor,
        "currency": request.currency,
        "description": request.description,
    }
    # A row without a reference must not have the field: the index that makes it unique would count it.
    return terms if request.reference is None else {**terms, "reference": request.reference}


def initiated(
    *, transaction_id: str, sender_id: str, terms: Mapping[str, Any], at: datetime, correlation_id: str
) -> dict[str, Any]:
    """Return a transaction as it is first written down, the same for the same arguments.

    Its MAC is not made here: a plan that was stored meanwhile brings the one that was made with it.
    """
    return {
        "_id": transaction_id,
        "sender_id": sender_id,
        **terms,
        "status": Status.INITIATED.value,
        "settlement": None,
        "failure": None,
        "history": [{"status": Status.INITIATED.value, "at": at, "reason": ""}],
        "initiated_at": at,
        "completed_at": None,
        "due_at": clock.after(at, settings.SAGA_STALLED_AFTER_SECONDS),
        "attempts": 0,
        "needs_attention": False,
        "correlation_id": correlation_id,
    }


def with_mac(row: dict[str, Any]) -> dict[str, Any]:
    """Return a transaction with the MAC over what it orders: for one that was decided on just now only."""
    return {**row, **transaction_mac(row)}


def _find_earlier(sender_id: str, key: Key) -> Started | None:
    row = selectors.find_by_key(sender_id=sender_id, key=key.value)
    if row is None:
        return None
    if row.get("fingerprint") != key.fingerprint:
        raise IdempotencyKeyReused
    return Started(row, replayed=True)
