"""Starting a transaction. What happens next is the saga's (transfers/saga.py)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from pymongo.errors import DuplicateKeyError

from accounts import selectors as accounts
from payflow import clock, correlation
from payflow.errors import IdempotencyKeyReused
from payflow.ids import new_id
from payflow.mongodb import collection, unavailable_is_transient
from transfers import selectors
from transfers.documents import Transaction
from transfers.errors import CurrencyMismatch, ReceiverNotFound, SelfTransfer
from transfers.states import Status
from wallets import selectors as wallets
from wallets import services as wallet_services
from wallets.errors import WalletClosed


@dataclass(frozen=True, slots=True)
class TransferRequest:
    """What a sender asks for; exactly one of `receiver_id` and `receiver_email` is set."""

    sender_id: str
    receiver_id: str | None
    receiver_email: str | None
    amount_minor: int
    currency: str
    description: str


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


def start_transaction(*, request: TransferRequest, key: Key | None) -> Started:
    """Write a transaction down as INITIATED. No money has moved yet; the caller starts the saga.

    Raises NotAuthenticated, SelfTransfer, ReceiverNotFound, CurrencyMismatch, WalletClosed,
    IdempotencyKeyReused, Transient.
    """
    if key and (earlier := _find_earlier(request.sender_id, key)):
        return earlier
    receiver_id, sender_wallet_id, receiver_wallet_id = _parties(request)
    now = clock.now()
    row = {
        "_id": new_id("txn"),
        "sender_id": request.sender_id,
        "receiver_id": receiver_id,
        "sender_wallet_id": sender_wallet_id,
        "receiver_wallet_id": receiver_wallet_id,
        "amount_minor": request.amount_minor,
        "currency": request.currency,
        "description": request.description,
        "status": Status.INITIATED.value,
        "settlement": None,
        "failure": None,
        "history": [{"status": Status.INITIATED.value, "at": now, "reason": ""}],
        "initiated_at": now,
        "completed_at": None,
        "due_at": now + timedelta(seconds=settings.SAGA_STALLED_AFTER_SECONDS),
        "attempts": 0,
        "needs_attention": False,
        "correlation_id": correlation.current(),
        **({"idempotency_key": key.value, "fingerprint": key.fingerprint} if key else {}),
    }
    try:
        with unavailable_is_transient():
            collection(Transaction).insert_one(row)
    except DuplicateKeyError:
        earlier = _find_earlier(request.sender_id, key) if key else None
        if earlier is None:
            raise
        return earlier
    return Started(row, replayed=False)


def _find_earlier(sender_id: str, key: Key) -> Started | None:
    row = selectors.find_by_key(sender_id=sender_id, key=key.value)
    if row is None:
        return None
    if row["fingerprint"] != key.fingerprint:
        raise IdempotencyKeyReused("This idempotency key was used for another request; use a new one.")
    return Started(row, replayed=True)


def _parties(request: TransferRequest) -> tuple[str, str, str]:
    """Return the receiver's id and both wallets' ids.

    A sender or a receiver named by id who has an active wallet needs no further look: a user is deactivated
    only after their wallets are frozen. A wallet in the default currency that registration missed is opened.
    """
    field = "receiver_id" if request.receiver_id is not None else "receiver_email"
    receiver_id = request.receiver_id or _require(
        accounts.find_user_by_email(email=request.receiver_email or ""), field
    )
    if receiver_id == request.sender_id:
        raise SelfTransfer("Sender and receiver must be two different users.", field=field)
    found = wallets.find_wallets_of(user_ids=(request.sender_id, receiver_id), currency=request.currency)
    gives_money = request.sender_id in found and wallets.is_active(found[request.sender_id])
    if not gives_money:
        accounts.require_active(user_id=request.sender_id)
    takes_money = receiver_id in found and wallets.is_active(found[receiver_id])
    if request.receiver_id is not None and not takes_money:
        _require(accounts.find_user(user_id=receiver_id), field)
    if request.currency == settings.DEFAULT_CURRENCY:
        for user_id in {request.sender_id, receiver_id} - found.keys():
            found[user_id] = wallet_services.ensure_wallet(user_id=user_id, currency=request.currency)
    for user_id, whose in ((request.sender_id, "You have"), (receiver_id, "The receiver has")):
        if user_id not in found:
            raise CurrencyMismatch(f"{whose} no {request.currency} wallet.", field="currency")
    for user_id, whose in ((request.sender_id, "Your"), (receiver_id, "The receiver's")):
        if not wallets.is_active(found[user_id]):
            raise WalletClosed(f"{whose} wallet is frozen or closed; no money can move in or out.")
    return receiver_id, found[request.sender_id].id, found[receiver_id].id


def _require(receiver: accounts.User | None, field: str) -> str:
    """Return the receiver's id. Raises ReceiverNotFound unless there is one who is active."""
    if receiver is None or not receiver.is_active:
        raise ReceiverNotFound("Nobody who can receive money is known by this.", field=field)
    return str(receiver.pk)
