"""Posting against competitors, deaths and failures. Whatever happens in between, L1 to L6 hold afterwards."""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from ledger import posting, selectors
from ledger.chain import Entry, Kind
from ledger.errors import Contention
from ledger.posting import post
from payflow.errors import Transient
from tests.ledger import poster
from tests.ledger.books import assert_sound, deposit, stored, wallet_id, withdrawal


@pytest.fixture(autouse=True)
def _the_invariants_hold_afterwards() -> Iterator[None]:
    yield
    assert_sound()


def only(entries: dict[str, Entry]) -> Entry:
    (entry,) = entries.values()
    return entry


# --- Competitors ------------------------------------------------------------------------------------------


class Competitor:
    """Acts between the moment `post` reads the heads and the moment it inserts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any], times: int = 1) -> None:
        self._act, self._left = act, times
        self._read_heads = selectors.read_heads
        self._patch = monkeypatch
        monkeypatch.setattr(selectors, "read_heads", self)

    def __call__(self, wallet_ids: Collection[str]) -> dict[str, Entry]:
        heads = self._read_heads(wallet_ids)
        if self._left:
            self._left -= 1
            self._patch.setattr(selectors, "read_heads", self._read_heads)
            self._act()
            self._patch.setattr(selectors, "read_heads", self)
        return heads


@pytest.mark.parametrize("count", [1, 2, 4, 20])
def test_a_chain_that_somebody_extended_first_is_read_again(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wallet = wallet_id()
    post([deposit(wallet, 100)])
    Competitor(monkeypatch, lambda: post([deposit(wallet, 1)]), times=3)
    entries = post([deposit(wallet, 10) for _ in range(count)])
    assert [entry.sequence for entry in entries.values()] == list(range(5, 5 + count))
    assert max(entry.balance_minor for entry in entries.values()) == 103 + 10 * count


def test_a_wallets_first_entry_is_fought_over_too(monkeypatch: pytest.MonkeyPatch) -> None:
    wallet = wallet_id()
    Competitor(monkeypatch, lambda: post([deposit(wallet, 1)]))
    assert only(post([deposit(wallet, 10)])).balance_minor == 11


def test_the_competitor_spends_the_money_first(monkeypatch: pytest.MonkeyPatch) -> None:
    wallet = wallet_id()
    post([deposit(wallet, 100)])
    Competitor(monkeypatch, lambda: post([withdrawal(wallet, 60)]))
    assert only(post([withdrawal(wallet, 60)])).kind is Kind.DECLINED


@pytest.mark.parametrize("count", [1, 20])
def test_the_competitor_posts_the_same_operations_first(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wallet = wallet_id()
    wishes = [deposit(wallet, 10) for _ in range(count)]
    theirs: dict[str, Entry] = {}
    Competitor(monkeypatch, lambda: theirs.update(post(wishes)))
    assert post(wishes) == theirs
    assert len(stored()) == count


def test_an_operation_that_was_done_unnoticed_collides_on_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    wallet, wish = wallet_id(), deposit(wallet_id(), 10)
    theirs = only(post([wish]))
    read_entries, calls = selectors.read_entries, []

    def unaware(operation_ids: Collection[str]) -> dict[str, Entry]:
        calls.append(operation_ids)
        return {} if len(calls) == 1 else read_entries(operation_ids)

    monkeypatch.setattr(selectors, "read_entries", unaware)
    other = deposit(wallet, 1)
    entries = post([wish, other])
    assert entries[wish.operation_id] == theirs
    assert entries[other.operation_id].balance_minor == 1


def test_half_of_a_hot_chain_was_done_unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ordered insert stops in the middle; what comes after must not be posted on a wrong head."""
    wallet = wallet_id()
    wishes = [deposit(wallet, 10) for _ in range(20)]
    post(wishes[7:9])
    read_entries, calls = selectors.read_entries, []

    def unaware(operation_ids: Collection[str]) -> dict[str, Entry]:
        calls.append(operation_ids)
        return {} if len(calls) == 1 else read_entries(operation_ids)

    monkeypatch.setattr(selectors, "read_entries", unaware)
    assert len(post(wishes)) == 20
    assert selectors.read_heads([wallet])[wallet].balance_minor == 200


@pytest.mark.parametrize("count", [1, 20])
def test_heads_that_are_stale_cost_an_attempt_and_nothing_else(count: int) -> None:
    wallet = wallet_id()
    post([deposit(wallet, 100)])
    stale = selectors.read_heads([wallet])
    post([withdrawal(wallet, 95)])
    entries = post([withdrawal(wallet, 10) for _ in range(count)], heads=stale)
    assert {entry.kind for entry in entries.values()} == {Kind.DECLINED}
    assert [entry.sequence for entry in entries.values()] == list(range(3, 3 + count))


def test_heads_that_are_missing_cost_an_attempt_and_nothing_else() -> None:
    wallet = wallet_id()
    post([deposit(wallet, 100)])
    assert only(post([deposit(wallet, 10)], heads={})).balance_minor == 110


def test_a_quiet_wallet_moves_on_while_another_is_fought_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "ATTEMPTS_MAX", 3)
    busy, quiet = wallet_id(), wallet_id()
    Competitor(monkeypatch, lambda: post([deposit(busy, 1)]), times=100)
    with pytest.raises(Contention) as error:
        post([deposit(busy, 10, key="busy"), deposit(quiet, 10, key="quiet")])
    assert error.value.wallet_ids == [busy]
    assert isinstance(error.value, Transient)
    monkeypatch.undo()
    assert selectors.find_entries(["quiet:deposit", "busy:deposit"]).keys() == {"quiet:deposit"}


# --- Deaths and failures ----------------------------------------------------------------------------------


class Death(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("survived", range(6))
def test_a_death_between_two_inserts_leaves_whole_entries_and_a_repeat_finishes(
    survived: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wallets = [wallet_id() for _ in range(4)]
    wishes = [deposit(wallet, 10) for number, wallet in enumerate(wallets) for _ in range(2 + 2 * number)]
    insert, calls = posting._insert, []

    def mortal(entries: list[Entry], *, ordered: bool) -> list[Entry]:
        calls.append(entries)
        if len(calls) > survived:
            raise Death
        return insert(entries, ordered=ordered)

    monkeypatch.setattr(posting, "_insert", mortal)
    try:
        post(wishes)
    except Death:
        assert_sound()
    monkeypatch.setattr(posting, "_insert", insert)
    assert len(post(wishes)) == len(wishes)
    assert len(stored()) == len(wishes)


@pytest.mark.parametrize(("point", "found"), [("posting.before_insert", 0), ("posting.after_insert", 9)])
def test_a_killed_process_leaves_whole_entries_and_a_repeat_finishes(
    point: str, found: int, tmp_path: Path
) -> None:
    wallets = [wallet_id() for _ in range(2)]
    wishes = [deposit(wallets[0], 10), *(deposit(wallets[1], 10) for _ in range(8))]
    crashing = {"PAYFLOW_CRASH_AT": point, "PAYFLOW_DATA_DIR": str(tmp_path)}
    assert poster.start([wishes], **crashing).wait(timeout=60) == -signal.SIGKILL
    assert len(stored()) == found
    assert_sound()
    again = poster.answers(poster.start([wishes], **crashing))
    assert again.keys() == {wish.operation_id for wish in wishes}
    assert len(stored()) == 9


def test_mongodb_down_is_transient(monkeypatch: pytest.MonkeyPatch) -> None:
    with MongoClient("127.0.0.1", 9, serverSelectionTimeoutMS=50) as nobody:
        monkeypatch.setattr(posting, "collection", lambda _: nobody.none.entries)
        with pytest.raises(Transient):
            post([deposit(wallet_id(), 1)])
        monkeypatch.setattr(selectors, "collection", lambda _: nobody.none.entries)
        with pytest.raises(Transient):
            post([deposit(wallet_id(), 1)])
    monkeypatch.undo()
    assert stored() == []
