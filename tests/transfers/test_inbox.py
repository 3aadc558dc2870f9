"""The inbox as recovery sees it: what waits in a line that moves is nobody's business, all else is."""

from __future__ import annotations

import pytest
from django.conf import LazySettings, settings

from payflow import clock, redisdb
from payflow.errors import Transient
from payflow.mongodb import collection
from tests.transfers import world
from transfers import inbox, saga, selectors, tasks
from transfers.documents import Transaction
from transfers.states import Status

pytestmark = pytest.mark.usefixtures("audited")


def test_recovery_starts_one_chain_when_the_same_id_waits_from_tick_to_tick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[bool] = []
    monkeypatch.setattr(tasks, "start_saga", lambda: started.append(True))
    tasks.recover()
    inbox.push(["txn_1", "txn_2", "txn_3"])
    tasks.recover()
    # Two ticks that come at once, because they had to wait, say nothing of what happened in between.
    tasks.recover()
    assert started == []
    world.a_tick_passes()
    tasks.recover()
    assert started == [True]
    # Somebody takes from it, though never all of it.
    for id_ in ("txn_4", "txn_5"):
        world.a_tick_passes()
        inbox.pop(1)
        inbox.push([id_])
        tasks.recover()
    assert started == [True]


@pytest.mark.parametrize("stalled_after_seconds", [0, 0.0004, 5, 1_000_000])
def test_what_is_remembered_of_the_inbox_is_bounded(
    stalled_after_seconds: float, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SAGA_STALLED_AFTER_SECONDS, settings.RECOVERY_EVERY_SECONDS = stalled_after_seconds, 2
    monkeypatch.setattr(inbox, "LOOKS_MAX", 12)
    inbox.push(["txn_1"])
    for _ in range(20):
        line = inbox.watch()
        world.a_tick_passes()
    assert line.is_stuck
    assert 5 <= redisdb.client().llen(inbox.LOOKS_KEY) <= 12
    lasts_ms = (stalled_after_seconds + 10) * 1000
    assert 0 < redisdb.client().pttl(inbox.LOOKS_KEY) <= lasts_ms + 1


def waiting_since(seconds: float) -> str:
    """Return the id of a transaction that began so long ago."""
    return f"txn_{clock.epoch_ms(clock.now()) - round(seconds * 1000):012x}{'0' * 20}"


def begun(sender: str, receiver: str, seconds: float) -> str:
    """Return a transfer that was asked for so long ago, due as any of its age that nobody has driven."""
    transaction = world.start(sender, receiver, 10)
    world.make_old(transaction, seconds)
    due_at = clock.after(world.row_of(transaction)["initiated_at"], settings.SAGA_STALLED_AFTER_SECONDS)
    collection(Transaction).update_one({"_id": transaction}, {"$set": {"due_at": due_at}})
    return transaction


def statuses(*transactions: str) -> list[Status]:
    return [world.status_of(transaction) for transaction in transactions]


def test_what_waits_in_a_line_that_moves_is_not_stalled(alice: str, bob: str) -> None:
    lost, taken, waiting = (begun(alice, bob, seconds) for seconds in (70, 50, 20))
    inbox.push([waiting_since(30)])
    world.saw_in_inbox(0.1, waiting_since(31))
    world.saw_in_inbox(2.5, waiting_since(38))
    world.saw_in_inbox(5.1, waiting_since(60))
    tasks.recover()
    assert statuses(lost, taken, waiting) == [Status.COMPLETED, Status.INITIATED, Status.INITIATED]
    # The line has ended; what was taken last is being worked on for as long as anything may be.
    inbox.pop(1)
    redisdb.client().delete(inbox.LOOKS_KEY)
    world.saw_in_inbox(2.5, "")
    world.saw_in_inbox(5.1, waiting_since(30))
    tasks.recover()
    assert statuses(taken, waiting) == [Status.COMPLETED, Status.INITIATED]
    redisdb.client().delete(inbox.LOOKS_KEY)
    world.saw_in_inbox(5.1, "")
    tasks.recover()
    assert world.status_of(waiting) is Status.COMPLETED


def test_a_rush_makes_nobody_wait_who_has_been_taken(alice: str, bob: str) -> None:
    """All of it came within seconds, minutes ago, so the times at which they were made say little."""
    debited, waiting = begun(alice, bob, 254), begun(alice, bob, 250)
    saga.debit([debited])
    inbox.push([waiting_since(251)])
    world.saw_in_inbox(5.1, waiting_since(252))
    tasks.recover()
    assert statuses(debited, waiting) == [Status.COMPLETED, Status.INITIATED]


def test_those_of_a_batch_wait_behind_its_first(alice: str, bob: str) -> None:
    """They share the time at which they were made."""
    waiting = begun(alice, bob, 30)
    made_at_ms = clock.epoch_ms(world.row_of(waiting)["initiated_at"])
    head = f"txn_{made_at_ms:012x}{'0' * 20}"
    world.saw_in_inbox(5.1, head)
    inbox.push([waiting_since(29)])
    tasks.recover()
    assert world.status_of(waiting) is Status.INITIATED


# The first is of a day in 2096: names of tests must not tell the time, or the processes that share the suite
# would not find the same tests.
@pytest.mark.parametrize("head", [f"txn_03a00000d000{'0' * 20}", "txn_1", "", "\u0664" * 36])
@pytest.mark.parametrize("is_seen", [True, False])
def test_a_head_that_says_nothing_of_its_time_keeps_recovery_from_nothing(
    is_seen: bool, head: str, alice: str, bob: str
) -> None:
    due = begun(alice, bob, 5.5)
    world.saw_in_inbox(5.1, head) if is_seen else inbox.push([head])
    tasks.recover()
    assert world.status_of(due) is Status.COMPLETED


@pytest.mark.parametrize("look", ["", " ", "x", "-1 txn_1", "9" * 99, "\u0664" * 13, "1e3 txn_1"])
def test_what_is_no_look_at_the_inbox_is_passed_over(look: str, alice: str, bob: str) -> None:
    waiting = begun(alice, bob, 20)
    inbox.push([waiting_since(30)])
    redisdb.client().rpush(inbox.LOOKS_KEY, look)
    world.saw_in_inbox(5.1, waiting_since(31))
    tasks.recover()
    assert world.status_of(waiting) is Status.INITIATED


def test_a_line_that_does_not_move_keeps_recovery_from_nothing(
    alice: str, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither does what recovery sees then hang on a chain that may never run."""
    monkeypatch.setattr(tasks, "start_saga", lambda: None)
    waiting = begun(alice, bob, 20)
    head = waiting_since(30)
    inbox.push([head])
    world.saw_in_inbox(1, waiting_since(31))
    world.saw_in_inbox(5.1, head)
    tasks.recover()
    assert world.status_of(waiting) is Status.INITIATED
    world.a_tick_passes()
    tasks.recover()
    assert world.status_of(waiting) is Status.COMPLETED


def test_what_has_lost_its_place_in_the_longest_line_is_driven_before_it_expires(
    alice: str, bob: str, settings: LazySettings
) -> None:
    settings.SAGA_EXPIRES_AFTER_SECONDS = 900
    lost, waiting = begun(alice, bob, 600), begun(alice, bob, 400)
    inbox.push([waiting_since(100_000)])
    world.saw_in_inbox(5.1, waiting_since(100_001))
    tasks.recover()
    assert statuses(lost, waiting) == [Status.COMPLETED, Status.INITIATED]


def test_without_the_inbox_recovery_does_what_it_can(alice: str, bob: str, redis_down: None) -> None:
    due = begun(alice, bob, 6)
    with pytest.raises(Transient):  # it cannot tell of it
        tasks.recover()
    assert world.status_of(due) is Status.DEBITED


# --- Batches wait in a line of their own --------------------------------------------------------------------


def test_a_payment_does_not_wait_behind_what_others_have_asked_for_in_batches() -> None:
    inbox.push([f"txn_batched_{number}" for number in range(2_000)], batched=True)
    assert inbox.push(["txn_single"])
    taken, more = inbox.pop(100)
    assert "txn_single" in taken
    assert (len(taken), more, inbox.count()) == (100, True, 1_901)


def test_batches_have_a_part_of_every_step_however_many_single_ones_wait() -> None:
    inbox.push([f"txn_{number}" for number in range(1_000)])
    inbox.push([f"txn_batched_{number}" for number in range(1_000)], batched=True)
    taken, _ = inbox.pop(100)
    assert sum("batched" in id_ for id_ in taken) == 25
    assert len(set(taken)) == 100


def test_all_of_both_lines_is_taken_in_their_order() -> None:
    single = [f"txn_{number:03}" for number in range(70)]
    batched = [f"txn_batched_{number:03}" for number in range(70)]
    inbox.push(single)
    inbox.push(batched, batched=True)
    taken: list[str] = []
    more = True
    while more:
        some, more = inbox.pop(30)
        taken += some
    assert [id_ for id_ in taken if "batched" in id_] == batched
    assert [id_ for id_ in taken if "batched" not in id_] == single
    assert inbox.pop(30) == ([], False)


def test_a_line_of_batches_that_does_not_move_gets_a_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[bool] = []
    monkeypatch.setattr(tasks, "start_saga", lambda: started.append(True))
    inbox.push(["txn_1"], batched=True)
    tasks.recover()
    world.a_tick_passes()
    inbox.push([waiting_since(1)])
    tasks.recover()
    assert started == [True]


def test_the_line_that_has_waited_longer_says_what_is_stalled(alice: str, bob: str) -> None:
    waiting = begun(alice, bob, 30)
    inbox.push([waiting_since(1)])
    inbox.push([waiting_since(35)], batched=True)
    world.saw_in_inbox(5.1, f"{waiting_since(6)}|{waiting_since(40)}")
    tasks.recover()
    assert world.status_of(waiting) is Status.INITIATED


def test_much_that_waits_in_a_line_that_moves_is_nobodys_alarm(alice: str, bob: str) -> None:
    """Thirty thousand transfers of a few senders take longer than half a minute."""
    waiting = begun(alice, bob, 90)
    inbox.push([waiting], batched=True)
    world.saw_in_inbox(0.1, f"|{waiting_since(90)}")
    world.saw_in_inbox(2.1, f"|{waiting_since(95)}")
    assert selectors.report_saga().is_well
    # Nobody takes any.
    redisdb.client().delete(inbox.LOOKS_KEY)
    world.saw_in_inbox(0.1, f"|{waiting_since(90)}")
    world.saw_in_inbox(2.1, redisdb.client().lindex(inbox.LOOKS_KEY, 0).partition(" ")[2])
    assert not selectors.report_saga().is_well
    # Nobody looks.
    redisdb.client().delete(inbox.LOOKS_KEY)
    world.saw_in_inbox(60, f"|{waiting_since(90)}")
    world.saw_in_inbox(62, f"|{waiting_since(95)}")
    assert not selectors.report_saga().is_well


def test_what_recovery_has_tried_in_vain_is_an_alarm_whatever_moves(alice: str, bob: str) -> None:
    stuck = begun(alice, bob, 90)
    collection(Transaction).update_one({"_id": stuck}, {"$set": {"attempts": 3}})
    world.saw_in_inbox(0.1, waiting_since(90))
    world.saw_in_inbox(2.1, waiting_since(95))
    assert not selectors.report_saga().is_well
