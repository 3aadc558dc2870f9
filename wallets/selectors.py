"""Reading wallets and their balances."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from ledger import selectors as ledger
from ledger.chain import Entry
from payflow import clock
from payflow.mongodb import collection, unavailable_is_transient
from wallets.documents import Hold, Status, Wallet

WALLETS_PER_USER_MAX = 200


@dataclass(frozen=True, slots=True)
class WalletState:
    """A wallet with what its newest ledger entry says."""

    wallet: Wallet
    balance_minor: int
    updated_at: datetime


class WalletRow(NamedTuple):
    """What a transfer needs to know of a wallet."""

    id: str
    user_id: str
    currency: str
    status: str


def find_wallet(*, user_id: str, currency: str) -> Wallet | None:
    """Return a user's wallet in one currency."""
    with unavailable_is_transient():
        return Wallet.objects(user_id=user_id, currency=currency).first()


def find_wallet_by_id(*, wallet_id: str) -> Wallet | None:
    """Return a wallet by its id."""
    with unavailable_is_transient():
        return Wallet.objects(id=wallet_id).first()


def is_another_held(*, user_id: str, besides: str, hold: Hold) -> bool:
    """Say whether another wallet of the user than `besides` is frozen for this reason."""
    query = {"user_id": user_id, "_id": {"$ne": besides}, "frozen_because": hold.value}
    with unavailable_is_transient():
        return collection(Wallet).find_one(query, {"_id": 1}) is not None


def find_wallets_by_id(*, wallet_ids: Iterable[str]) -> dict[str, WalletRow]:
    """Return those wallets that exist, by id."""
    return {row.id: row for row in _find_rows({"_id": {"$in": list(wallet_ids)}})}


def find_wallets_of(
    *, user_ids: Iterable[str], currencies: Iterable[str]
) -> dict[tuple[str, str], WalletRow]:
    """Return the wallets of several users in some currencies, by user id and currency."""
    query = {"user_id": {"$in": list(user_ids)}, "currency": {"$in": list(currencies)}}
    return {(row.user_id, row.currency): row for row in _find_rows(query)}


def _find_rows(query: dict[str, Any]) -> list[WalletRow]:
    # Past mongoengine, whose documents cost more to build than to fetch: every transfer comes through here.
    with unavailable_is_transient():
        found = collection(Wallet).find(query, dict.fromkeys(("user_id", "currency", "status"), 1))
        return [WalletRow(row["_id"], row["user_id"], row["currency"], row["status"]) for row in found]


def list_states(*, user_id: str) -> list[WalletState]:
    """Return a user's wallets with their balances, oldest first; there are at most as many as currencies."""
    with unavailable_is_transient():
        wallets = list(Wallet.objects(user_id=user_id).order_by("id").limit(WALLETS_PER_USER_MAX))
    heads = ledger.find_heads([wallet.id for wallet in wallets])
    return [_state(wallet, heads.get(wallet.id)) for wallet in wallets]


def state_of(wallet: Wallet) -> WalletState:
    """Return a wallet with its balance."""
    return _state(wallet, ledger.find_head(wallet_id=wallet.id))


def balance_at(wallet: Wallet, *, at: datetime | None = None) -> tuple[int, datetime]:
    """Return a wallet's balance and the moment it stood at: `at`, or now when that is None or to come."""
    now = clock.now()
    if at is None or at >= now:
        # Not by time: another machine's clock may be ahead, and its newest entry counts now.
        head = ledger.find_head(wallet_id=wallet.id)
        return head.balance_minor if head else 0, now
    entry = ledger.find_entry_at(wallet_id=wallet.id, at=at)
    return entry.balance_minor if entry else 0, at


def _state(wallet: Wallet, head: Entry | None) -> WalletState:
    if head is None:
        return WalletState(wallet, 0, wallet.updated_at)
    return WalletState(wallet, head.balance_minor, max(wallet.updated_at, head.created_at))


def is_active(wallet: Wallet | WalletRow) -> bool:
    """Say whether money may move in or out."""
    return wallet.status == Status.ACTIVE
