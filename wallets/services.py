"""Writing to wallets: open, freeze, deposit, withdraw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from django.conf import settings
from mongoengine.errors import NotUniqueError
from pymongo.errors import DuplicateKeyError

from ledger import chain, posting
from ledger import selectors as ledger
from ledger.chain import Entry, Kind, Posting
from payflow import clock, money
from payflow.crashpoints import crash_point
from payflow.errors import IdempotencyKeyReused, Transient
from payflow.ids import new_id
from payflow.money import format_amount
from payflow.mongodb import collection, unavailable_is_transient
from wallets import selectors
from wallets.documents import DepositTotal, Hold, Status, Wallet
from wallets.errors import (
    BalanceLimit,
    Declined,
    DepositLimit,
    InsufficientBalance,
    WalletClosed,
    WalletExists,
    WalletNotFound,
)


@dataclass(frozen=True, slots=True)
class Movement:
    """What a deposit or withdrawal did; `replayed` when an earlier request with this key did it."""

    entry: Entry
    replayed: bool


MoneyService = Callable[..., Movement]


def open_wallet(*, user_id: str, currency: str) -> Wallet:
    """Open a wallet. Raises WalletExists when the user has one in this currency, Transient.

    Whoever may open one is asked before, and may have been deactivated since: a wallet that comes too late to
    be frozen with the others is frozen because they are.
    """
    now = clock.now()
    wallet = Wallet(
        id=new_id("wal"),
        user_id=user_id,
        currency=currency,
        status=Status.ACTIVE.value,
        created_at=now,
        updated_at=now,
    )
    try:
        with unavailable_is_transient():
            wallet.save(force_insert=True)
    except NotUniqueError as error:
        raise WalletExists(f"You have a {currency} wallet already.", field="currency") from error
    return _share_account_hold(wallet)


def _share_account_hold(wallet: Wallet) -> Wallet:
    """Freeze a new wallet if the user's others are, and thaw it if they no longer are; return it as it is."""
    others = {"user_id": wallet.user_id, "besides": wallet.id, "hold": Hold.ACCOUNT}
    if not selectors.is_another_held(**others):
        return wallet
    _hold({"_id": wallet.id}, Hold.ACCOUNT)
    if not selectors.is_another_held(**others):
        _release({"_id": wallet.id}, Hold.ACCOUNT)
    return _get_by_id(wallet.id)


def ensure_wallet(*, user_id: str, currency: str) -> Wallet:
    """Return the user's wallet in `currency`, opened now if there is none. Safe to repeat and to race.

    Raises Transient.
    """
    wallet = selectors.find_wallet(user_id=user_id, currency=currency)
    if wallet is not None:
        return wallet
    try:
        return open_wallet(user_id=user_id, currency=currency)
    except WalletExists:
        wallet = selectors.find_wallet(user_id=user_id, currency=currency)
        if wallet is None:
            # There and not there: an index and its collection disagree, or somebody has deleted it.
            raise Transient("The wallet could not be read. Try again shortly.") from None
        return wallet


def get_wallet(*, user_id: str, currency: str) -> Wallet:
    """Return the user's wallet. Raises WalletNotFound.

    A missing wallet in the default currency is opened: registration may have died before it did.
    """
    wallet = selectors.find_wallet(user_id=user_id, currency=currency)
    if wallet is not None:
        return wallet
    if currency == settings.DEFAULT_CURRENCY:
        return ensure_wallet(user_id=user_id, currency=currency)
    raise WalletNotFound(f"You have no {currency} wallet; open one with POST /wallets.")


def freeze_wallets(*, user_id: str) -> None:
    """Stop money from moving in or out of a user's wallets. Safe to repeat."""
    _hold({"user_id": user_id}, Hold.ACCOUNT)


def unfreeze_wallets(*, user_id: str) -> None:
    """Undo `freeze_wallets`. Closed wallets stay closed, and those that the audit froze stay frozen."""
    _release({"user_id": user_id}, Hold.ACCOUNT)


def freeze_broken_wallet(wallet_id: str) -> bool:
    """Stop money from moving in or out of one wallet, because its chain is broken. Safe to repeat.

    Return whether it was not frozen for this before.
    """
    return _hold({"_id": wallet_id}, Hold.AUDIT)


def unfreeze_broken_wallet(wallet_id: str) -> Wallet:
    """Undo `freeze_broken_wallet`; a deactivated user's wallet stays frozen. Raises WalletNotFound."""
    _release({"_id": wallet_id}, Hold.AUDIT)
    return _get_by_id(wallet_id)


def _get_by_id(wallet_id: str) -> Wallet:
    wallet = selectors.find_wallet_by_id(wallet_id=wallet_id)
    if wallet is None:
        raise WalletNotFound("There is no such wallet.")
    return wallet


def _hold(which: dict[str, str], hold: Hold) -> bool:
    """Add a reason, unless it is there and in force; return whether a wallet was changed."""
    unheld = [
        {"status": Status.ACTIVE.value},
        {"status": Status.FROZEN.value, "frozen_because": {"$ne": hold.value}},
    ]
    with unavailable_is_transient():
        held = collection(Wallet).update_many(
            {**which, "$or": unheld},
            {
                "$set": {"status": Status.FROZEN.value, "updated_at": clock.now()},
                "$addToSet": {"frozen_because": hold.value},
            },
        )
    return held.modified_count > 0


def _release(which: dict[str, str], hold: Hold) -> None:
    """Lift one reason and thaw what has none left, in one update: nothing can come between the two.

    Where no reason is noted, it is the one that there was before there were others.
    """
    left = {"$setDifference": [{"$ifNull": ["$frozen_because", [Hold.ACCOUNT.value]]}, [hold.value]]}
    status = {"$cond": [{"$eq": ["$frozen_because", []]}, Status.ACTIVE.value, Status.FROZEN.value]}
    with unavailable_is_transient():
        collection(Wallet).update_many(
            {**which, "status": Status.FROZEN.value},
            [{"$set": {"frozen_because": left, "updated_at": clock.now()}}, {"$set": {"status": status}}],
        )


def deposit(
    *, user_id: str, currency: str, amount_minor: int, key: str | None, granter_id: str | None = None
) -> Movement:
    """Bring money in from outside. `key` is the caller's idempotency key.

    Where deposits of a day are limited, this one counts for the user, and for the user `granter_id` who let
    them deposit: otherwise many accounts would lift the limit of one granter.

    Raises WalletNotFound, WalletClosed, BalanceLimit, DepositLimit, IdempotencyKeyReused, Transient.
    """
    limited = [user_id, *([granter_id] if granter_id else [])]
    return _move(Kind.DEPOSIT, user_id, currency, amount_minor, key, limited=limited)


def withdraw(*, user_id: str, currency: str, amount_minor: int, key: str | None) -> Movement:
    """Send money outside. Raises InsufficientBalance, else as `deposit`."""
    return _move(Kind.WITHDRAWAL, user_id, currency, amount_minor, key)


def _move(
    kind: Kind, user_id: str, currency: str, amount_minor: int, key: str | None, limited: Sequence[str] = ()
) -> Movement:
    # The ledger's own unique index makes the key last: it holds when Redis has lost everything.
    operation_id = keyed_operation_id(kind, user_id, key) if key else f"{new_id('op')}:{kind.value.lower()}"
    earlier = ledger.find_entry(operation_id=operation_id) if key else None
    if earlier is not None and earlier.currency != currency:
        raise IdempotencyKeyReused
    wallet = get_wallet(user_id=user_id, currency=currency)
    wish = Posting(operation_id, wallet.id, kind, amount_minor, currency)
    if earlier is None and not selectors.is_active(wallet):
        raise WalletClosed("This wallet is frozen or closed; no money can move in or out.")
    # Of several requests with one key at once, one has posted it.
    inserted: set[str] = set()
    entry = earlier or _post(wish, limited, inserted)
    crash_point("wallets.posted")
    if entry is None:
        raise Transient("The ledger could not be written. Try again shortly.")
    if not chain.answers(entry, wish):
        raise IdempotencyKeyReused
    if entry.kind is Kind.DECLINED:
        raise _refusal(entry, replayed=operation_id not in inserted)
    return Movement(entry, replayed=operation_id not in inserted)


def _post(wish: Posting, limited: Sequence[str], inserted: set[str]) -> Entry | None:
    """Post a wish. A deposit counts towards each day's limit first, so no crash leaves it uncounted."""
    limit = settings.DEPOSITS_PER_DAY_MAX
    if not limited or limit is None:
        return posting.post([wish], inserted=inserted).get(wish.operation_id)
    day = f"{wish.currency}:{clock.now():%Y-%m-%d}"
    reserved: list[str] = []
    try:
        for user_id in limited:
            _reserve(f"{user_id}:{day}", wish, limit_minor=limit * 10 ** money.EXPONENTS[wish.currency])
            reserved.append(f"{user_id}:{day}")
    except DepositLimit:
        _unreserve(reserved, wish)
        # A repeat may find the limit used up by the request that it repeats.
        if (entry := ledger.find_entry(operation_id=wish.operation_id)) is None:
            raise
        return entry
    entry = posting.post([wish], inserted=inserted).get(wish.operation_id)
    if entry is None or entry.kind is Kind.DECLINED or wish.operation_id not in inserted:
        _unreserve(reserved, wish)
    return entry


def _reserve(total_id: str, wish: Posting, *, limit_minor: int) -> None:
    """Add a deposit to a day's total, in one conditional update. Raises DepositLimit, Transient."""
    room = {"_id": total_id, "amount_minor": {"$lte": limit_minor - wish.amount_minor}}
    add = {"$inc": {"amount_minor": wish.amount_minor}, "$setOnInsert": {"created_at": clock.now()}}
    # The first of a day inserts; where a total without room is there, or a request was faster, it cannot.
    for is_first in (wish.amount_minor <= limit_minor, False):
        try:
            with unavailable_is_transient():
                done = collection(DepositTotal).update_one(room, add, upsert=is_first)
        except DuplicateKeyError:
            continue
        if done.matched_count or done.upserted_id:
            return
    limit = f"{format_amount(limit_minor, wish.currency)} {wish.currency}"
    raise DepositLimit(f"At most {limit} may be deposited in a day.")


def _unreserve(total_ids: Sequence[str], wish: Posting) -> None:
    """Take a deposit that brought no money off the totals. Where that fails they stay too high: safe."""
    with unavailable_is_transient():
        collection(DepositTotal).update_many(
            {"_id": {"$in": [*total_ids]}}, {"$inc": {"amount_minor": -wish.amount_minor}}
        )


def keyed_operation_id(kind: Kind, user_id: str, key: str) -> str:
    """Return the id of the entry that a user's deposit or withdrawal with an idempotency key becomes."""
    return f"key_{user_id}_{key}:{kind.value.lower()}"


def _refusal(entry: Entry, *, replayed: bool) -> Declined:
    balance = f"{format_amount(entry.balance_minor, entry.currency)} {entry.currency}"
    if entry.reason == chain.Reason.BALANCE_LIMIT:
        detail = f"The wallet holds {balance}; with this deposit it would hold more than it may."
        return BalanceLimit(detail, replayed=replayed)
    return InsufficientBalance(f"The wallet holds {balance}.", replayed=replayed)
