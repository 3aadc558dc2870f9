"""Many recoveries at once, some of which die: everything ends, and once."""

from __future__ import annotations

import multiprocessing
import threading
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.management import call_command

from ledger import posting
from payflow import mongodb
from tests.transfers import world
from transfers import moves, recovery, saga, states
from transfers.recovery import Report
from transfers.states import Status
from wallets import services as wallet_services


@pytest.fixture
def alice() -> str:
    return world.person("alice", balance_minor=100_000)


@pytest.fixture
def bob() -> str:
    return world.person("bob")


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


def test_four_recoveries_at_once_end_everything_once(stalled: dict[str, str], settings: LazySettings) -> None:
    """In batches that overlap."""
    settings.RECOVERY_BATCH_MAX = 30
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


def test_four_processes_at_once_end_everything_once(stalled: dict[str, str], settings: LazySettings) -> None:
    settings.RECOVERY_BATCH_MAX = 30
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
