"""Reading wallets and their balances."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from ledger import selectors as ledger
from ledger.chain import Entry
from ledger.reading import LENIENT
from ledger.selectors import BrokenEntry
from payflow import clock
from payflow.mongodb import collection, unavailable_is_transient
from payflow.stored_data import (
    Check,
    invalid,
    is_currency,
    is_text,
    is_time,
    one_of,
    represent_all,
    require,
)
from wallets.documents import Hold, Status, Wallet

WALLETS_PER_USER_MAX = 200
_STORED_FIELDS = ("user_id", "currency", "status", "frozen_because", "created_at", "updated_at")
_CHECKS: dict[str, Check] = {
    "_id": is_text,
    "user_id": is_text,
    "currency": is_currency,
    "status": one_of(*(status.value for status in Status)),
    "created_at": is_time,
    "updated_at": is_time,
}


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
    return _first({"user_id": user_id, "currency": currency})


def find_wallet_by_id(*, wallet_id: str) -> Wallet | None:
    """Return a wallet by its id."""
    return _first({"_id": wallet_id})


def _first(query: dict[str, str]) -> Wallet | None:
    return next(iter(_find(query, limit=1)), None)


def _find(query: dict[str, str], *, limit: int) -> list[Wallet]:
    """Return wallets as they are stored, oldest first: mongoengine's own reading fails at odd values."""
    stored = collection(Wallet).with_options(codec_options=LENIENT)
    with unavailable_is_transient():
        rows = list(stored.find(query).sort("_id", 1).limit(limit))
    return [Wallet(id=row["_id"], **{name: row.get(name) for name in _STORED_FIELDS}) for row in rows]


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
    """Return a user's wallets with their balances, oldest first; there are at most as many as currencies.

    Those that cannot be shown are left out. Raises StoredDataInvalid or Unreadable when that is all of them.
    """
    wallets = _find({"user_id": user_id}, limit=WALLETS_PER_USER_MAX)
    heads = ledger.read_heads([wallet.id for wallet in wallets])
    states = represent_all(wallets, lambda wallet: _good_state(wallet, heads.get(wallet.id)))
    # An empty list would say that there is no money: say what is wrong instead.
    return [state_of(wallets[0])] if wallets and not states else states


def _good_state(wallet: Wallet, head: Entry | BrokenEntry | None) -> WalletState:
    if isinstance(head, BrokenEntry):
        raise invalid("ledger_entries", f"newest of {wallet.id}", head.reason)
    return _state(wallet, head)


def state_of(wallet: Wallet) -> WalletState:
    """Return a wallet with its balance. Raises StoredDataInvalid, Unreadable."""
    return _state(wallet, ledger.find_head(wallet_id=wallet.id))


def balance_at(wallet: Wallet, *, at: datetime | None = None) -> tuple[int, datetime]:
    """Return a wallet's balance and the moment it stood at: `at`, or now when that is None or to come.

    Raises StoredDataInvalid, Unreadable.
    """
    _require_good(wallet)
    now = clock.now()
    if at is None or at >= now:
        # Not by time: another machine's clock may be ahead, and its newest entry counts now.
        head = ledger.find_head(wallet_id=wallet.id)
        return head.balance_minor if head else 0, now
    entry = ledger.find_entry_at(wallet_id=wallet.id, at=at)
    return entry.balance_minor if entry else 0, at


def _state(wallet: Wallet, head: Entry | None) -> WalletState:
    _require_good(wallet)
    if head is None:
        return WalletState(wallet, 0, wallet.updated_at)
    return WalletState(wallet, head.balance_minor, max(wallet.updated_at, head.created_at))


def _require_good(wallet: Wallet) -> None:
    stored = {"_id": wallet.id, **{name: getattr(wallet, name) for name in _CHECKS if name != "_id"}}
    require("wallets", stored, _CHECKS)


def is_active(wallet: Wallet | WalletRow) -> bool:
    """Say whether money may move in or out."""
    return wallet.status == Status.ACTIVE
