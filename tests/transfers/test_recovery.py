"""Recovery: what it takes first, whose turn it is, what one bad transaction may do, and many at once."""

from __future__ import annotations

import logging
import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.management import call_command

from ledger import posting
from payflow import clock, mongodb, redisdb
from payflow.errors import Transient
from payflow.mongodb import collection
from tests.transfers import world
from transfers import moves, recovery, saga, states
from transfers.documents import Transaction
from transfers.recovery import Report
from transfers.states import Status
from wallets import services as wallet_services


@pytest.fixture
def alice() -> str:
    return world.person("alice", balance_minor=100_000)


@pytest.fixture
def bob() -> str:
    return world.person("bob")


def started(sender: str, receiver: str, count: int) -> list[str]:
    """Return transactions that are due for recovery."""
    transactions = [world.start(sender, receiver, 10) for _ in range(count)]
    world.make_due(*transactions)
    return transactions


def change(transaction_id: str, **fields: Any) -> None:
    collection(Transaction).update_one({"_id": transaction_id}, {"$set": fields})


def statuses(transactions: list[str]) -> Counter:
    return Counter(world.status_of(transaction).value for transaction in transactions)


# --- Which, and how many ----------------------------------------------------------------------------------


def test_does_nothing_when_nothing_is_due(alice: str, bob: str) -> None:
    transaction = world.start(alice, bob, 10)
    assert recovery.recover_stalled() == Report()
    assert world.row_of(transaction)["attempts"] == 0


def test_takes_the_longest_overdue_first_and_no_more_than_a_batch(
    alice: str, bob: str, settings: LazySettings
) -> None:
    settings.RECOVERY_BATCH_MAX = 3
    transactions = started(alice, bob, 8)
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
    broken = started(alice, bob, 3)
    for transaction in broken:
        change(transaction, currency="EUR", due_at=clock.after(clock.now(), -1_000))
    fine = started(alice, bob, 3)
    recovery.recover_stalled()
    recovery.recover_stalled()
    assert statuses(fine) == {"COMPLETED": 3}
    assert statuses(broken) == {"INITIATED": 3}


def test_declines_what_is_too_old_to_begin_and_ends_what_had_begun(alice: str, bob: str) -> None:
    old, begun = started(alice, bob, 2)
    saga.debit([begun])
    for transaction in (old, begun):
        world.make_old(transaction, 3_600)
    world.make_due(old, begun)
    recovery.recover_stalled()
    assert world.row_of(old)["failure"]["code"] == "expired"
    assert world.status_of(begun) is Status.COMPLETED


def test_counts_its_tries_and_waits_longer_each_time(alice: str, bob: str) -> None:
    (transaction,) = started(alice, bob, 1)
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
    (transaction,) = started(alice, bob, 1)
    change(transaction, currency="EUR")
    flagged = []
    for _ in range(6):
        world.make_due(transaction)
        flagged.append(recovery.recover_stalled().flagged)
    assert flagged == [0, 0, 1, 0, 0, 0]
    warnings = [r for r in caplog.records if r.message == "transactions need attention"]
    assert [(r.levelno, r.transaction_ids) for r in warnings] == [(logging.WARNING, [transaction])]
    assert world.row_of(transaction)["needs_attention"] is True


def test_what_has_ended_needs_no_attention(alice: str, bob: str) -> None:
    (transaction,) = started(alice, bob, 1)
    change(transaction, needs_attention=True, attempts=20)
    recovery.recover_stalled()
    row = world.row_of(transaction)
    assert (row["status"], row["needs_attention"], row["attempts"]) == ("COMPLETED", False, 21)


# --- Whose turn it is -------------------------------------------------------------------------------------


def test_leaves_the_field_to_a_recovery_at_work(alice: str, bob: str) -> None:
    (transaction,) = started(alice, bob, 1)
    redisdb.client().set(recovery.LOCK_KEY, "another", px=4_000)
    assert recovery.recover_stalled() == Report()
    assert world.row_of(transaction)["attempts"] == 0
    assert redisdb.client().get(recovery.LOCK_KEY) == "another"


def test_gives_its_turn_back(alice: str, bob: str) -> None:
    for _ in range(2):
        assert recovery.recover_stalled() == Report()
    assert redisdb.client().exists(recovery.LOCK_KEY) == 0


def test_takes_its_turn_when_the_other_one_died(alice: str, bob: str) -> None:
    (transaction,) = started(alice, bob, 1)
    redisdb.client().set(recovery.LOCK_KEY, "dead", px=50)
    threading.Event().wait(0.1)
    recovery.recover_stalled()
    assert world.status_of(transaction) is Status.COMPLETED


def _without_expiry() -> None:
    redisdb.client().set(recovery.LOCK_KEY, "for ever")


def _held_for_a_year() -> None:
    redisdb.client().set(recovery.LOCK_KEY, "long", ex=365 * 86_400)


def _of_another_type() -> None:
    redisdb.client().rpush(recovery.LOCK_KEY, "list")


@pytest.mark.parametrize("spoil", [_without_expiry, _held_for_a_year, _of_another_type])
def test_runs_when_the_lock_cannot_be_what_it_should(alice: str, bob: str, spoil: Callable[[], None]) -> None:
    (transaction,) = started(alice, bob, 1)
    spoil()
    recovery.recover_stalled()
    assert world.status_of(transaction) is Status.COMPLETED


def test_runs_when_its_turn_is_lost_meanwhile(alice: str, bob: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (transaction,) = started(alice, bob, 1)
    real = saga.debit

    def debit(ids: list[str], **options: Any) -> list[str]:
        redisdb.client().set(recovery.LOCK_KEY, "another", px=4_000)
        return real(ids, **options)

    monkeypatch.setattr(saga, "debit", debit)
    recovery.recover_stalled()
    assert world.status_of(transaction) is Status.COMPLETED
    assert redisdb.client().get(recovery.LOCK_KEY) == "another"


def test_without_redis_it_moves_what_it_can(alice: str, bob: str, redis_down: None) -> None:
    """Nothing can be told, so nothing is handed on; but the debit is made, and once."""
    (transaction,) = started(alice, bob, 1)
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
    transactions = started(alice, bob, 21)
    bad = transactions.pop(13)
    change(bad, **poison)
    report = recovery.recover_stalled()
    assert statuses(transactions) == {"COMPLETED": 20}
    assert world.balance_of(bob) == 200
    assert (report.undriven, report.flagged) == (1, 1)
    row = world.row_of(bad)
    assert row["needs_attention"] is True
    assert row["attempts"] == 1
    assert [r.transaction_id for r in caplog.records if r.levelno == logging.ERROR] == [bad]


def test_one_known_to_be_bad_is_kept_apart(alice: str, bob: str, monkeypatch: pytest.MonkeyPatch) -> None:
    transactions = started(alice, bob, 21)
    bad = transactions.pop(13)
    change(bad, amount_minor=0, needs_attention=True)
    driven: list[int] = []
    real = recovery.drive
    monkeypatch.setattr(recovery, "drive", lambda rows: driven.append(len(rows)) or real(rows))
    assert recovery.recover_stalled() == Report(driven=20, flagged=0, undriven=1)
    assert driven == [20, 1]


def test_one_whose_wallet_is_always_busy_stops_no_other_and_is_flagged_in_time(
    alice: str, bob: str, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SAGA_ATTENTION_AFTER_ATTEMPTS = 2
    transactions = started(alice, bob, 9)
    busy = transactions.pop(4)
    real = saga.debit

    def debit(ids: list[str], **options: Any) -> list[str]:
        if busy in ids:
            raise Transient
        return real(ids, **options)

    monkeypatch.setattr(saga, "debit", debit)
    assert recovery.recover_stalled() == Report(driven=8, flagged=0, undriven=1)
    assert statuses(transactions) == {"COMPLETED": 8}
    world.make_due(busy)
    assert recovery.recover_stalled() == Report(driven=0, flagged=1, undriven=1)


def test_a_server_that_is_down_is_no_transactions_fault(
    alice: str, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transactions = started(alice, bob, 9)
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
    assert statuses(transactions) == {"COMPLETED": 9}


def test_a_tick_that_meets_nothing_but_trouble_ends_in_time(
    alice: str, bob: str, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.RECOVERY_TICK_SECONDS_MAX = 0.2
    transactions = started(alice, bob, 12)
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
    transactions = started(alice, bob, 3)
    change(transactions[0], attempts=4)
    assert recovery.recover_stalled() == Report(undriven=3)
    assert [world.row_of(t)["attempts"] for t in transactions] == [4, 0, 0]
    settings.RECOVERY_TICK_SECONDS_MAX = 20
    assert recovery.recover_stalled() == Report(driven=3)


def test_what_stood_behind_a_server_that_went_down_is_no_try(
    alice: str, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, behind = started(alice, bob, 2)
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
    (transaction,) = started(alice, bob, 1)
    real = recovery._drive_apart

    def later(rows: list) -> tuple[int, int]:
        change(transaction, attempts=2)
        return real(rows)

    monkeypatch.setattr(recovery, "_drive_apart", later)
    recovery.recover_stalled()
    assert world.row_of(transaction)["attempts"] == 2


# --- Many at once -----------------------------------------------------------------------------------------


class Death(BaseException):
    """A process ends here, as far as one step is concerned."""


# Where the executors of 200 transactions died, and how the transactions must end.
DEATHS = {
    "never began": "COMPLETED",
    "posting.after_insert": "COMPLETED",
    "saga.moved_to_debited": "COMPLETED",
    "saga.debited": "COMPLETED",
    "saga.credit_decided": "COMPLETED",
    "saga.credit_posted": "COMPLETED",
    "saga.moved_to_credited": "COMPLETED",
    "saga.credited": "COMPLETED",
    "saga.moved_to_completed": "COMPLETED",
    "saga.completed": "COMPLETED",
    "expired": "FAILED",
    "too poor": "FAILED",
    "saga.moved_to_refunding": "FAILED",
    "saga.refund_decided": "FAILED",
    "saga.refund_posted": "FAILED",
    "saga.moved_to_failed": "FAILED",
}
EACH = 13  # 16 * 13 = 208


@pytest.fixture
def stalled(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Transactions that stopped in every way there is, with the state that each must end in."""
    rich, poor = [world.person(f"r{n}", balance_minor=5_000) for n in range(6)], world.person("poor")
    frozen, receivers = world.person("frozen"), [world.person(f"b{n}") for n in range(6)]
    expected = {}
    for point, end in DEATHS.items():
        refunded = point in ("saga.moved_to_refunding", "saga.refund_decided", "saga.refund_posted") or (
            point == "saga.moved_to_failed"
        )
        group = [
            world.start(
                poor if point == "too poor" else rich[n % 6], frozen if refunded else receivers[n % 6], 7
            )
            for n in range(EACH)
        ]
        expected |= dict.fromkeys(group, end)
        if point == "expired":
            for transaction in group:
                world.make_old(transaction, 3_600)
        if refunded:
            saga.debit(group)
            wallet_services.freeze_wallets(user_id=frozen)
        if "." in point:
            _die_at(monkeypatch, point, group)
        wallet_services.unfreeze_wallets(user_id=frozen)
    world.make_due(*expected)
    wallet_services.freeze_wallets(user_id=frozen)
    return expected


def _die_at(monkeypatch: pytest.MonkeyPatch, point: str, group: list[str]) -> None:
    def die(name: str) -> None:
        if name == point:
            raise Death(point)

    with monkeypatch.context() as patched:
        for module in (saga, moves, posting):
            patched.setattr(module, "crash_point", die)
        with pytest.raises(Death):
            world.play(*group)


def _assert_all_ended_once(expected: dict[str, str], told: list[str]) -> None:
    # A wallet may have been too busy for a moment; whoever meets that leaves it to the next tick.
    world.make_due(*expected)
    recovery.recover_stalled()
    assert {t: world.status_of(t).value for t in expected} == expected
    for transaction in expected:
        row = world.row_of(transaction)
        path = [Status(move["status"]) for move in row["history"]]
        assert all(step in states.MOVES for step in zip([None, *path], path, strict=False)), path
        assert len(set(path)) == len(path)
        assert "due_at" not in row
        assert set(told).issuperset(world.expected_events(transaction)[-1:])
    call_command("audit", expect_settled=True, verbosity=0)


def test_four_recoveries_at_once_end_everything_once(
    stalled: dict[str, str], settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the lock, in batches that overlap."""
    settings.RECOVERY_BATCH_MAX = 30
    monkeypatch.setattr(recovery, "LOCK_KEY", "")
    monkeypatch.setattr(recovery, "_is_held", lambda: False)
    together = threading.Barrier(4)
    errors: list[BaseException] = []

    def recover() -> None:
        together.wait()
        try:
            while recovery.recover_stalled() != Report():
                pass
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            errors.append(error)

    with world.listening() as heard:
        threads = [threading.Thread(target=recover) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert errors == []
        settings.RECOVERY_BATCH_MAX = 500
        _assert_all_ended_once(stalled, heard.ids())


def _recover_in_a_process_of_its_own(may_go: Any) -> None:
    mongodb.reconnect()
    may_go.wait()
    for _ in range(40):
        recovery.recover_stalled()


def test_four_processes_taking_turns_end_everything_once(
    stalled: dict[str, str], settings: LazySettings
) -> None:
    """With a lock that is shorter than a batch takes, so that turns overlap too."""
    settings.RECOVERY_BATCH_MAX, settings.RECOVERY_LOCK_SECONDS = 30, 0.2
    forking = multiprocessing.get_context("fork")
    may_go = forking.Event()
    processes = [forking.Process(target=_recover_in_a_process_of_its_own, args=(may_go,)) for _ in range(4)]
    with world.listening() as heard:
        for process in processes:
            process.start()
        may_go.set()
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [0, 0, 0, 0]
        settings.RECOVERY_BATCH_MAX = 500
        _assert_all_ended_once(stalled, heard.ids())
