"""Posting, against the invariants of the ledger (docs/guarantees.md). Each test ends by checking them:

L1  For every wallet, sequences are 1..n without gap, `balance = previous balance + amount`, hashes chain.
L2  No balance is ever negative.
L3  An operation id has at most one entry, however often and however concurrently it is posted.
L4  A transaction has at most one settlement: a credit or a refund, never both.
L5  Per currency: the sum of all entries with contra `clearing` = -(amounts debited and not yet settled).
L6  Per currency: the sum of newest balances = deposits - withdrawals - in flight.
L7  Every transaction ends; FAILED after a debit implies a refund. (The saga's to keep: tests/transfers.)
L8  Every entry carries the MAC of a known ledger key. (tests/ledger/test_forgery.py attacks it.)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ledger import posting, selectors
from ledger.chain import Contra, Entry, Kind, Posting, Reason
from ledger.documents import LedgerEntry
from ledger.posting import BATCH_MAX, find_hot_length, post
from payflow import money
from payflow.ids import new_id
from payflow.mongodb import collection
from tests.ledger.books import assert_sound, deposit, leg, stored, wallet_id, withdrawal


@pytest.fixture(autouse=True)
def _the_invariants_hold_afterwards() -> Iterator[None]:
    yield
    assert_sound()


def only(entries: dict[str, Entry]) -> Entry:
    (entry,) = entries.values()
    return entry


def kinds(entries: dict[str, Entry]) -> list[Kind]:
    return [entry.kind for entry in entries.values()]


# --- One posting ------------------------------------------------------------------------------------------


def test_posts_the_first_entry_of_a_wallet() -> None:
    wallet = wallet_id()
    entry = only(post([deposit(wallet, 100, key="a")]))
    assert (entry.id, entry.wallet_id, entry.sequence, entry.kind) == ("a:deposit", wallet, 1, Kind.DEPOSIT)
    assert (entry.amount_minor, entry.balance_minor, entry.contra) == (100, 100, Contra.EXTERNAL)


def test_returns_what_is_stored() -> None:
    entry = only(post([deposit(wallet_id(), 100, key="a")]))
    assert selectors.find_entry(operation_id="a:deposit") == entry


def test_posting_nothing_does_nothing() -> None:
    assert post([]) == {}


def test_money_of_a_transaction_goes_through_clearing() -> None:
    wallet, transaction = wallet_id(), new_id("txn")
    post([deposit(wallet, 100)])
    entry = only(post([leg(Kind.DEBIT, transaction, wallet, 40)]))
    assert (entry.contra, entry.transaction_id) == (Contra.CLEARING, transaction)


@pytest.mark.parametrize("make", [withdrawal, lambda w, a: leg(Kind.DEBIT, new_id("txn"), w, a)])
def test_declines_when_balance_is_short(make: Callable[[str, int], Posting]) -> None:
    wallet = wallet_id()
    post([deposit(wallet, 100)])
    entry = only(post([make(wallet, 101)]))
    assert (entry.kind, entry.reason) == (Kind.DECLINED, Reason.INSUFFICIENT_BALANCE)
    assert (entry.amount_minor, entry.balance_minor, entry.requested_minor) == (0, 100, 101)


def test_declines_a_debit_of_a_wallet_that_never_had_money() -> None:
    entry = only(post([withdrawal(wallet_id(), 1)]))
    assert (entry.kind, entry.sequence, entry.balance_minor) == (Kind.DECLINED, 1, 0)


def test_allows_taking_everything() -> None:
    wallet = wallet_id()
    post([deposit(wallet, 100)])
    assert only(post([withdrawal(wallet, 100)])).balance_minor == 0


def test_a_decision_stands_when_money_arrives_later() -> None:
    wallet = wallet_id()
    wish = withdrawal(wallet, 50)
    declined = only(post([wish]))
    post([deposit(wallet, 100)])
    assert only(post([wish])) == declined


def test_a_refusal_decided_elsewhere_excludes_the_debit() -> None:
    wallet, transaction = wallet_id(), new_id("txn")
    post([deposit(wallet, 100)])
    expired = leg(Kind.DECLINED, transaction, wallet, 40)
    assert only(post([expired])).kind is Kind.DECLINED
    assert only(post([leg(Kind.DEBIT, transaction, wallet, 40)])).kind is Kind.DECLINED


def test_declines_deposits_beyond_what_a_wallet_may_hold() -> None:
    wallet = wallet_id()
    largest = money.AMOUNT_MINOR_MAX
    fits = money.BALANCE_MINOR_SOFT_MAX // largest
    for _ in range(fits // BATCH_MAX):
        entries = post([deposit(wallet, largest) for _ in range(BATCH_MAX)])
        assert set(kinds(entries)) == {Kind.DEPOSIT}
    refused = only(post([deposit(wallet, 1)]))
    assert (refused.kind, refused.reason) == (Kind.DECLINED, Reason.BALANCE_LIMIT)
    assert refused.balance_minor == money.BALANCE_MINOR_SOFT_MAX


def test_a_decided_credit_fits_where_a_deposit_no_longer_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(money, "BALANCE_MINOR_SOFT_MAX", 100)
    wallet, sender, transaction = wallet_id(), wallet_id(), new_id("txn")
    post([deposit(wallet, 100), deposit(sender, 50)])
    post([leg(Kind.DEBIT, transaction, sender, 50)])
    assert only(post([leg(Kind.CREDIT, transaction, wallet, 50)])).balance_minor == 150


# --- Batches ----------------------------------------------------------------------------------------------


def test_a_batch_is_never_all_or_nothing() -> None:
    rich, poor = wallet_id(), wallet_id()
    post([deposit(rich, 100), deposit(poor, 1)])
    assert kinds(post([withdrawal(rich, 50), withdrawal(poor, 50)])) == [Kind.WITHDRAWAL, Kind.DECLINED]


def test_a_batch_keeps_the_order_within_a_wallet() -> None:
    wallet = wallet_id()
    entries = post([withdrawal(wallet, 1), deposit(wallet, 1), withdrawal(wallet, 1)])
    assert kinds(entries) == [Kind.DECLINED, Kind.DEPOSIT, Kind.WITHDRAWAL]
    assert [entry.sequence for entry in entries.values()] == [1, 2, 3]


@pytest.mark.parametrize("per_wallet", [1, 2, 3, 4, 25])
def test_rounds_and_hot_wallets_build_the_same_chains(per_wallet: int) -> None:
    wallets = [wallet_id() for _ in range(4)]
    wishes = [deposit(wallet, 10) for _ in range(per_wallet) for wallet in wallets]
    assert len(post(wishes)) == 4 * per_wallet
    assert [entry["sequence"] for entry in stored()] == list(range(1, per_wallet + 1)) * 4


@pytest.mark.parametrize(
    ("lengths", "hot", "reason"),
    [
        ([], 1, "nothing to insert"),
        ([1], 1, "one round trip either way"),
        ([500], 1, "one hot wallet: one ordered insert, not 500 rounds"),
        ([1] * 200, 2, "two hundred wallets: one round"),
        ([1, 2, 3] * 50, 4, "three rounds, not 150 ordered inserts"),
        ([1] * 100 + [40], 2, "one round for the many, one insert for the hot one"),
        ([2, 2, 2, 30, 40], 3, "two rounds, two inserts"),
        ([17] * 30, 1, "never more rounds than the bound"),
    ],
)
def test_takes_the_fewest_round_trips(lengths: list[int], hot: int, reason: str) -> None:
    assert find_hot_length(lengths) == hot, reason


def test_cool_and_hot_wallets_share_a_batch() -> None:
    hot, cool = wallet_id(), [wallet_id() for _ in range(3)]
    wishes = [deposit(hot, 1) for _ in range(30)] + [deposit(wallet, 1) for wallet in cool]
    post(wishes)
    heads = selectors.read_heads([hot, *cool])
    assert {wallet: head.sequence for wallet, head in heads.items()} == {hot: 30, **dict.fromkeys(cool, 1)}


def test_no_unordered_insert_holds_two_entries_of_one_wallet(monkeypatch: pytest.MonkeyPatch) -> None:
    inserted: list[tuple[bool, list[str]]] = []
    insert = posting._insert

    def watch(entries: list[Entry], *, ordered: bool) -> list[Entry]:
        inserted.append((ordered, [entry.wallet_id for entry in entries]))
        return insert(entries, ordered=ordered)

    monkeypatch.setattr(posting, "_insert", watch)
    wallets = [wallet_id() for _ in range(5)]
    post([deposit(wallet, 1) for number, wallet in enumerate(wallets) for _ in range(number + 1)])
    assert all(ordered or len(set(names)) == len(names) for ordered, names in inserted)
    assert all(len(set(names)) == 1 for ordered, names in inserted if ordered)


def test_a_full_batch_passes_and_a_larger_one_is_refused() -> None:
    wallets = [wallet_id() for _ in range(100)]
    wishes = [deposit(wallets[number % 100], 1) for number in range(BATCH_MAX)]
    assert len(post(wishes)) == BATCH_MAX
    with pytest.raises(ValueError, match="at most 1000"):
        post([*wishes, deposit(wallet_id(), 1)])


def test_the_same_operation_twice_in_a_batch_is_one() -> None:
    wish = deposit(wallet_id(), 10)
    assert only(post([wish, wish])).balance_minor == 10


def test_one_id_for_two_postings_in_a_batch_is_refused_before_anything_is_written() -> None:
    wallet = wallet_id()
    with pytest.raises(ValueError, match="two different postings"):
        post([deposit(wallet, 10, key="a"), deposit(wallet, 11, key="a")])
    assert stored() == []


@pytest.mark.parametrize("amount", [0, -1, money.AMOUNT_MINOR_MAX + 1])
def test_an_amount_out_of_range_is_no_posting(amount: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        deposit(wallet_id(), amount)


# --- Repeats ----------------------------------------------------------------------------------------------


def test_a_repeat_returns_the_first_entries_and_writes_nothing() -> None:
    wallets = [wallet_id() for _ in range(3)]
    wishes = [deposit(wallet, 10) for wallet in wallets for _ in range(6)]
    first, before = post(wishes), stored()
    assert post(wishes) == first
    assert stored() == before


def test_a_repeat_with_new_postings_among_it_adds_only_these() -> None:
    wallet = wallet_id()
    old, new = deposit(wallet, 10), deposit(wallet, 5)
    post([old])
    entries = post([new, old])
    assert entries[new.operation_id].balance_minor == 15
    assert len(stored()) == 2


def test_a_repeat_under_another_amount_returns_what_was_done() -> None:
    wallet = wallet_id()
    post([deposit(wallet, 10, key="a")])
    assert only(post([deposit(wallet, 99, key="a")])).amount_minor == 10


# --- Impossible postings ----------------------------------------------------------------------------------


def test_another_currency_is_left_out_and_others_move_on() -> None:
    wallet, other = wallet_id(), wallet_id()
    post([deposit(wallet, 100)])
    euros, dollars, elsewhere = deposit(wallet, 5, currency="EUR"), deposit(wallet, 7), deposit(other, 1)
    entries = post([euros, dollars, elsewhere])
    assert entries.keys() == {dollars.operation_id, elsewhere.operation_id}
    assert entries[dollars.operation_id].balance_minor == 107


def test_two_currencies_for_a_new_wallet_leave_the_second_out() -> None:
    wallet = wallet_id()
    first, second = deposit(wallet, 5, currency="EUR"), deposit(wallet, 7)
    assert post([first, second]).keys() == {first.operation_id}


def test_a_settlement_beyond_int64_is_left_out_and_others_move_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(money, "INT64_MAX", 100)
    full, other, sender = wallet_id(), wallet_id(), wallet_id()
    transaction = new_id("txn")
    post([deposit(full, 100), deposit(sender, 20)])
    post([leg(Kind.DEBIT, transaction, sender, 20)])
    credit, elsewhere = leg(Kind.CREDIT, transaction, full, 20), deposit(other, 1)
    assert post([credit, elsewhere]).keys() == {elsewhere.operation_id}


# --- The cost of reading heads ----------------------------------------------------------------------------


def test_heads_are_read_by_a_distinct_scan() -> None:
    """Its cost must not grow with history: one key per wallet is touched, not one per entry."""
    wallets = [wallet_id() for _ in range(3)]
    post([deposit(wallet, 1) for wallet in wallets for _ in range(50)])
    entries = collection(LedgerEntry)
    aggregate = {"aggregate": entries.name, "pipeline": selectors.heads_pipeline(wallets), "cursor": {}}
    explained = entries.database.command({"explain": aggregate, "verbosity": "executionStats"})
    plan = json.dumps(explained, default=str)
    assert "DISTINCT_SCAN" in plan
    assert "COLLSCAN" not in plan
    assert max(_numbers(explained, "totalKeysExamined")) <= 2 * len(wallets)


def _numbers(tree: Any, name: str) -> Iterator[int]:
    if isinstance(tree, dict):
        if isinstance(tree.get(name), int):
            yield tree[name]
        for inner in tree.values():
            yield from _numbers(inner, name)
    elif isinstance(tree, list):
        for inner in tree:
            yield from _numbers(inner, name)


def test_heads_of_no_wallets_and_of_too_many() -> None:
    assert selectors.read_heads([]) == {}
    with pytest.raises(ValueError, match="at most"):
        selectors.read_heads([wallet_id() for _ in range(selectors.HEADS_MAX + 1)])
