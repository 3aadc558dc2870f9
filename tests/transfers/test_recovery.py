"""Recovery: what it takes first, whose turn it is, and what one bad transaction may do."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import Any

import pytest
from django.conf import LazySettings

from payflow import clock, mongodb
from payflow.errors import Transient
from payflow.mongodb import collection
from tests.transfers import world
from transfers import recovery, saga
from transfers.documents import Transaction
from transfers.recovery import Report
from transfers.states import Status


@pytest.fixture
def alice() -> str:
    return world.person("alice", balance_minor=100_000)


@pytest.fixture
def bob() -> str:
    return world.person("bob")


def change(transaction_id: str, **fields: Any) -> None:
    collection(Transaction).update_one({"_id": transaction_id}, {"$set": fields})


# --- Which, and how many ----------------------------------------------------------------------------------


def test_does_nothing_when_nothing_is_due(alice: str, bob: str) -> None:
    transaction = world.start(alice, bob, 10)
    assert recovery.recover_stalled() == Report()
    assert world.row_of(transaction)["attempts"] == 0


def test_takes_the_longest_overdue_first_and_no_more_than_a_batch(
    alice: str, bob: str, settings: LazySettings
) -> None:
    settings.RECOVERY_BATCH_MAX = 3
    transactions = world.start_due(alice, bob, 8)
    order = [*transactions[5:], *reversed(transactions[:5])]
    for position, transaction in enumerate(order):
        change(transaction, due_at=clock.after(clock.now(), position - 1_000))
    for driven in (3, 6):
        assert recovery.recover_stalled() == Report(driven=3)
        assert [world.status_of(t) is Status.COMPLETED for t in order] == [n < driven for n in range(8)]
    assert recovery.recover_stalled() == Report(driven=2)


def test_what_it_cannot_end_does_not_stand_before_what_it_can(
    alice: str, bob: str, settings: LazySettings
) -> None:
    """A full batch that never ends moves out of the way of what fell due after it."""
    settings.RECOVERY_BATCH_MAX = 3
    broken = world.start_due(alice, bob, 3)
    for transaction in broken:
        change(transaction, currency="EUR", due_at=clock.after(clock.now(), -1_000))
    fine = world.start_due(alice, bob, 3)
    recovery.recover_stalled()
    recovery.recover_stalled()
    assert world.statuses(fine) == {"COMPLETED": 3}
    assert world.statuses(broken) == {"INITIATED": 3}


def test_declines_what_is_too_old_to_begin_and_ends_what_had_begun(alice: str, bob: str) -> None:
    old, begun = world.start_due(alice, bob, 2)
    saga.debit([begun])
    for transaction in (old, begun):
        world.make_old(transaction, 3_600)
    world.make_due(old, begun)
    recovery.recover_stalled()
    assert world.row_of(old)["failure"]["code"] == "expired"
    assert world.status_of(begun) is Status.COMPLETED


def test_counts_its_tries_and_waits_longer_each_time(alice: str, bob: str) -> None:
    (transaction,) = world.start_due(alice, bob, 1)
    change(transaction, currency="EUR")
    for attempt in range(1, 5):
        world.make_due(transaction)
        before = clock.now()
        recovery.recover_stalled()
        row = world.row_of(transaction)
        assert row["attempts"] == attempt
        assert row["due_at"] >= clock.after(before, 5 * 2**attempt)


# --- Attention --------------------------------------------------------------------------------------------


def test_flags_for_staff_once_and_says_so_once(
    alice: str, bob: str, settings: LazySettings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.SAGA_ATTENTION_AFTER_ATTEMPTS = 3
    (transaction,) = world.start_due(alice, bob, 1)
    world.order_otherwise(transaction, currency="EUR")
    flagged = []
    for _ in range(6):
        world.make_due(transaction)
        flagged.append(recovery.recover_stalled().flagged)
    assert flagged == [0, 0, 1, 0, 0, 0]
    warnings = [r for r in caplog.records if r.message == "transactions need attention"]
    assert [(r.levelno, r.transaction_ids) for r in warnings] == [(logging.WARNING, [transaction])]
    assert world.row_of(transaction)["needs_attention"] is True


def test_what_has_ended_needs_no_attention(alice: str, bob: str) -> None:
    (transaction,) = world.start_due(alice, bob, 1)
    change(transaction, needs_attention=True, attempts=20)
    recovery.recover_stalled()
    row = world.row_of(transaction)
    assert (row["status"], row["needs_attention"], row["attempts"]) == ("COMPLETED", False, 21)


def test_without_redis_it_moves_what_it_can(alice: str, bob: str, redis_down: None) -> None:
    """Nothing can be told, so nothing is handed on; but the debit is made, and once."""
    (transaction,) = world.start_due(alice, bob, 1)
    with pytest.raises(Transient):
        recovery.recover_stalled()
    assert world.status_of(transaction) is Status.DEBITED
    assert world.balance_of(alice) == 99_990


# --- One that cannot be driven ----------------------------------------------------------------------------


POISONS: dict[str, dict[str, Any]] = {
    "an amount of nothing": {"amount_minor": 0},
    "no history": {"history": None},
    "a state nobody knows": {"status": "PONDERING"},
    "an amount in words": {"amount_minor": "ten"},
    "tries in words": {"attempts": "many", "amount_minor": 0},
    "no beginning": {"initiated_at": None},
}


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS)
def test_one_that_cannot_be_driven_stops_no_other(
    alice: str, bob: str, poison: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    transactions = world.start_due(alice, bob, 21)
    bad = transactions.pop(13)
    change(bad, **poison)
    # What no MAC can be made over is not driven for want of one.
    with contextlib.suppress(TypeError, ValueError):
        world.order_otherwise(bad)
    report = recovery.recover_stalled()
    assert world.statuses(transactions) == {"COMPLETED": 20}
    assert world.balance_of(bob) == 200
    assert (report.undriven, report.flagged) == (1, 1)
    row = world.row_of(bad)
    assert row["needs_attention"] is True
    assert row["attempts"] == 1
    assert [r.transaction_id for r in caplog.records if r.levelno == logging.ERROR] == [bad]


def test_one_known_to_be_bad_is_kept_apart(alice: str, bob: str, monkeypatch: pytest.MonkeyPatch) -> None:
    transactions = world.start_due(alice, bob, 21)
    bad = transactions.pop(13)
    world.order_otherwise(bad, amount_minor=0, needs_attention=True)
    driven: list[int] = []
    real = recovery.drive
    monkeypatch.setattr(recovery, "drive", lambda rows: driven.append(len(rows)) or real(rows))
    assert recovery.recover_stalled() == Report(driven=20, flagged=0, undriven=1)
    assert driven == [20, 1]


def test_one_whose_wallet_is_always_busy_stops_no_other_and_is_flagged_in_time(
    alice: str, bob: str, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SAGA_ATTENTION_AFTER_ATTEMPTS = 2
    transactions = world.start_due(alice, bob, 9)
    busy = transactions.pop(4)
    real = saga.debit

    def debit(ids: list[str], **options: Any) -> list[str]:
        if busy in ids:
            raise Transient
        return real(ids, **options)

    monkeypatch.setattr(saga, "debit", debit)
    assert recovery.recover_stalled() == Report(driven=8, flagged=0, undriven=1)
    assert world.statuses(transactions) == {"COMPLETED": 8}
    world.make_due(busy)
    assert recovery.recover_stalled() == Report(driven=0, flagged=1, undriven=1)


def test_a_server_that_is_down_is_no_transactions_fault(
    alice: str, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transactions = world.start_due(alice, bob, 9)
    tries = []

    def down(*args: object, **options: object) -> None:
        tries.append(args)
        raise Transient

    with monkeypatch.context() as patched:
        patched.setattr(saga, "debit", down)
        patched.setattr(mongodb, "ping", down)
        with pytest.raises(Transient):
            recovery.recover_stalled()
    assert len(tries) == 2  # one batch, one ping
    assert not any(world.row_of(t)["needs_attention"] for t in transactions)
    world.make_due(*transactions)
    recovery.recover_stalled()
    assert world.statuses(transactions) == {"COMPLETED": 9}


def test_a_tick_that_meets_nothing_but_trouble_ends_in_time(
    alice: str, bob: str, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.RECOVERY_TICK_SECONDS_MAX = 0.2
    transactions = world.start_due(alice, bob, 12)
    tries = []

    def broken(rows: list) -> None:
        tries.append(rows)
        threading.Event().wait(0.1)
        raise KeyError("surprise")

    monkeypatch.setattr(recovery, "drive", broken)
    assert recovery.recover_stalled().undriven == 12
    assert len(tries) <= 3
    assert [world.row_of(t)["attempts"] for t in transactions] == [1] * 12


def test_what_a_tick_had_no_time_for_is_no_try(alice: str, bob: str, settings: LazySettings) -> None:
    settings.RECOVERY_TICK_SECONDS_MAX = 0
    transactions = world.start_due(alice, bob, 3)
    change(transactions[0], attempts=4)
    assert recovery.recover_stalled() == Report(undriven=3)
    assert [world.row_of(t)["attempts"] for t in transactions] == [4, 0, 0]
    settings.RECOVERY_TICK_SECONDS_MAX = 20
    assert recovery.recover_stalled() == Report(driven=3)


def test_what_stood_behind_a_server_that_went_down_is_no_try(
    alice: str, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, behind = world.start_due(alice, bob, 2)
    change(behind, needs_attention=True)

    def down(*args: object, **options: object) -> None:
        raise Transient

    with monkeypatch.context() as patched:
        patched.setattr(saga, "debit", down)
        patched.setattr(mongodb, "ping", down)
        with pytest.raises(Transient):
            recovery.recover_stalled()
    assert [world.row_of(t)["attempts"] for t in (first, behind)] == [1, 0]
    assert recovery.recover_stalled().driven == 1
    assert world.status_of(behind) is Status.COMPLETED


def test_what_another_has_claimed_meanwhile_is_not_given_back(
    alice: str, bob: str, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.RECOVERY_TICK_SECONDS_MAX = 0
    (transaction,) = world.start_due(alice, bob, 1)
    real = recovery._drive_apart

    def later(rows: list) -> tuple[int, int]:
        change(transaction, attempts=2)
        return real(rows)

    monkeypatch.setattr(recovery, "_drive_apart", later)
    recovery.recover_stalled()
    assert world.row_of(transaction)["attempts"] == 2
