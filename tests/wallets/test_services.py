"""Opening, freezing, and moving money in and out, with idempotency keys that last."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from ledger.chain import Kind
from ledger.documents import LedgerEntry
from payflow import money
from payflow.errors import IdempotencyKeyReused, Transient
from payflow.ids import new_id
from payflow.mongodb import collection
from tests.ledger.books import assert_sound, stored
from wallets import selectors
from wallets.documents import Status, Wallet
from wallets.errors import BalanceLimit, InsufficientBalance, WalletClosed, WalletExists, WalletNotFound
from wallets.services import (
    deposit,
    ensure_wallet,
    freeze_wallets,
    get_wallet,
    open_wallet,
    unfreeze_wallets,
    withdraw,
)

THREADS = 20
MOVES = pytest.mark.parametrize("move", [deposit, withdraw])


@pytest.fixture
def user() -> str:
    """A user with 100.00 USD."""
    user_id = new_id("usr")
    open_wallet(user_id=user_id, currency="USD")
    deposit(user_id=user_id, currency="USD", amount_minor=10_000, key=None)
    return user_id


def balance(user_id: str, currency: str = "USD") -> int:
    return selectors.state_of(get_wallet(user_id=user_id, currency=currency)).balance_minor


def at_once(call: Callable[[], object]) -> list[object]:
    """Run a call in THREADS threads; return each one's result or error."""
    with ThreadPoolExecutor(max_workers=THREADS) as pool:
        futures = [pool.submit(call) for _ in range(THREADS)]
    return [future.exception() or future.result() for future in futures]


# --- Opening ----------------------------------------------------------------------------------------------


def test_opens_an_active_wallet_with_nothing_in_it() -> None:
    wallet = open_wallet(user_id="u", currency="USD")
    assert (wallet.user_id, wallet.currency, wallet.status) == ("u", "USD", Status.ACTIVE)
    assert balance("u") == 0
    assert stored() == []


def test_refuses_a_second_wallet_in_one_currency() -> None:
    open_wallet(user_id="u", currency="USD")
    with pytest.raises(WalletExists):
        open_wallet(user_id="u", currency="USD")
    open_wallet(user_id="u", currency="EUR")
    open_wallet(user_id="v", currency="USD")
    assert Wallet.objects.count() == 3


def test_a_race_to_open_has_one_winner() -> None:
    results = at_once(lambda: open_wallet(user_id="u", currency="USD"))
    assert sorted(type(result).__name__ for result in results) == ["Wallet"] + ["WalletExists"] * (
        THREADS - 1
    )


def test_a_race_to_ensure_gives_everyone_the_same_wallet() -> None:
    results = at_once(lambda: ensure_wallet(user_id="u", currency="USD").id)
    assert len(set(results)) == 1
    assert Wallet.objects.count() == 1


def test_ensuring_returns_the_wallet_that_is_there() -> None:
    assert ensure_wallet(user_id="u", currency="EUR").id == ensure_wallet(user_id="u", currency="EUR").id


def test_a_wallet_that_is_there_and_cannot_be_found_is_transient(monkeypatch: pytest.MonkeyPatch) -> None:
    open_wallet(user_id="u", currency="USD")
    monkeypatch.setattr(selectors, "find_wallet", lambda **_: None)
    with pytest.raises(Transient):
        get_wallet(user_id="u", currency="USD")


def test_a_missing_default_wallet_is_opened_on_use() -> None:
    """Registration may have died before it opened one."""
    assert get_wallet(user_id="u", currency="USD").status == Status.ACTIVE


def test_a_missing_wallet_in_another_currency_is_not_found() -> None:
    with pytest.raises(WalletNotFound):
        get_wallet(user_id="u", currency="EUR")
    assert Wallet.objects.count() == 0


# --- Freezing ---------------------------------------------------------------------------------------------


@MOVES
def test_no_money_moves_while_frozen(user: str, move: Callable) -> None:
    freeze_wallets(user_id=user)
    with pytest.raises(WalletClosed):
        move(user_id=user, currency="USD", amount_minor=1, key=None)
    unfreeze_wallets(user_id=user)
    move(user_id=user, currency="USD", amount_minor=1, key=None)


def test_freezing_covers_every_wallet_of_one_user(user: str) -> None:
    open_wallet(user_id=user, currency="EUR")
    open_wallet(user_id="other", currency="USD")
    for _ in range(2):
        freeze_wallets(user_id=user)
        assert Wallet.objects(status="FROZEN").distinct("user_id") == [user]
        assert Wallet.objects(status="FROZEN").count() == 2


def test_unfreezing_leaves_closed_wallets_closed(user: str) -> None:
    Wallet.objects(user_id=user).update(set__status="CLOSED")
    freeze_wallets(user_id=user)
    unfreeze_wallets(user_id=user)
    assert get_wallet(user_id=user, currency="USD").status == Status.CLOSED


# --- Moving money -----------------------------------------------------------------------------------------


def test_deposits_and_withdrawals_are_the_balance(user: str) -> None:
    deposit(user_id=user, currency="USD", amount_minor=50, key=None)
    moved = withdraw(user_id=user, currency="USD", amount_minor=10_049, key=None)
    assert (moved.entry.kind, moved.entry.balance_minor, moved.replayed) == (Kind.WITHDRAWAL, 1, False)
    assert balance(user) == 1
    assert_sound()


def test_refuses_to_overdraw_and_says_what_is_there(user: str) -> None:
    with pytest.raises(InsufficientBalance, match=r"100\.00 USD"):
        withdraw(user_id=user, currency="USD", amount_minor=10_001, key=None)
    assert balance(user) == 10_000


def test_refuses_to_hold_more_than_a_wallet_may(user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(money, "BALANCE_MINOR_SOFT_MAX", 10_000)
    with pytest.raises(BalanceLimit):
        deposit(user_id=user, currency="USD", amount_minor=1, key=None)
    assert balance(user) == 10_000


def test_a_race_to_withdraw_never_overdraws(user: str) -> None:
    results = at_once(lambda: withdraw(user_id=user, currency="USD", amount_minor=3_000, key=None))
    assert sum(isinstance(result, InsufficientBalance) for result in results) == THREADS - 3
    assert balance(user) == 1_000
    assert_sound()


# --- Idempotency keys -------------------------------------------------------------------------------------


@MOVES
def test_a_key_moves_money_once(user: str, move: Callable) -> None:
    first = move(user_id=user, currency="USD", amount_minor=700, key="k")
    again = move(user_id=user, currency="USD", amount_minor=700, key="k")
    assert (first.replayed, again.replayed) == (False, True)
    assert again.entry == first.entry
    assert len(stored()) == 2


@MOVES
def test_without_a_key_every_request_moves_money(user: str, move: Callable) -> None:
    for _ in range(2):
        assert not move(user_id=user, currency="USD", amount_minor=700, key=None).replayed
    assert len(stored()) == 3


@MOVES
def test_a_key_with_another_amount_is_refused(user: str, move: Callable) -> None:
    move(user_id=user, currency="USD", amount_minor=700, key="k")
    with pytest.raises(IdempotencyKeyReused) as refusal:
        move(user_id=user, currency="USD", amount_minor=701, key="k")
    assert refusal.value.status == 422
    assert len(stored()) == 2


@MOVES
@pytest.mark.parametrize("has_wallet", [True, False])
def test_a_key_with_another_currency_is_refused(user: str, move: Callable, has_wallet: bool) -> None:
    move(user_id=user, currency="USD", amount_minor=700, key="k")
    if has_wallet:
        open_wallet(user_id=user, currency="EUR")
    with pytest.raises(IdempotencyKeyReused):
        move(user_id=user, currency="EUR", amount_minor=700, key="k")
    assert len(stored()) == 2


def test_a_key_means_one_thing_per_endpoint(user: str) -> None:
    deposit(user_id=user, currency="USD", amount_minor=700, key="k")
    assert not withdraw(user_id=user, currency="USD", amount_minor=700, key="k").replayed
    assert balance(user) == 10_000


def test_a_key_belongs_to_one_user(user: str) -> None:
    deposit(user_id=user, currency="USD", amount_minor=700, key="k")
    assert not deposit(user_id="other", currency="USD", amount_minor=5, key="k").replayed
    assert (balance(user), balance("other")) == (10_700, 5)


def test_a_refusal_is_repeated_even_when_money_has_arrived(user: str) -> None:
    with pytest.raises(InsufficientBalance) as first:
        withdraw(user_id=user, currency="USD", amount_minor=10_001, key="k")
    deposit(user_id=user, currency="USD", amount_minor=1_000, key=None)
    with pytest.raises(InsufficientBalance) as again:
        withdraw(user_id=user, currency="USD", amount_minor=10_001, key="k")
    assert again.value.detail == first.value.detail
    assert (first.value.replayed, again.value.replayed) == (False, True)
    assert balance(user) == 11_000


def test_what_was_done_before_freezing_is_still_answered(user: str) -> None:
    first = deposit(user_id=user, currency="USD", amount_minor=700, key="k")
    freeze_wallets(user_id=user)
    assert deposit(user_id=user, currency="USD", amount_minor=700, key="k").entry == first.entry
    with pytest.raises(WalletClosed):
        deposit(user_id=user, currency="USD", amount_minor=700, key="other")


@MOVES
def test_a_race_under_one_key_moves_money_once(user: str, move: Callable) -> None:
    results = at_once(lambda: move(user_id=user, currency="USD", amount_minor=700, key="k").entry)
    assert len(set(results)) == 1
    assert collection(LedgerEntry).count_documents({}) == 2
    assert_sound()


def test_a_race_under_one_key_with_two_amounts_has_one_winner(user: str) -> None:
    amounts = iter([5, 7] * THREADS)
    results = at_once(
        lambda: deposit(user_id=user, currency="USD", amount_minor=next(amounts), key="k").entry.amount_minor
    )
    refused = [result for result in results if isinstance(result, IdempotencyKeyReused)]
    assert len(refused) == THREADS // 2
    assert len({result for result in results if isinstance(result, int)}) == 1
    assert balance(user) in (10_005, 10_007)
