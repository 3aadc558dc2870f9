"""The saga's tasks in real workers: messages, retries that run out, and what error callbacks enqueue."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from celery import chain
from celery.app import autoretry
from celery.contrib.testing.worker import start_worker
from django.conf import LazySettings
from django.core.management import call_command

from ledger import simulation
from ledger.simulation import FailureType
from payflow.celery import app
from payflow.errors import Transient
from tests.transfers import world
from tests.transfers.workers import eventually, prefork_worker
from transfers import inbox, saga, tasks
from transfers.states import TERMINAL, Status

QUICK = {"CREDIT_TIMEOUT_SECONDS": "0.5", "SAGA_STALLED_AFTER_SECONDS": "300"}


@pytest.fixture
def alice() -> str:
    return world.person("alice", balance_minor=100_000)


@pytest.fixture
def bob() -> str:
    return world.person("bob")


@pytest.fixture(autouse=True)
def _audited(alice: str, bob: str) -> Iterator[None]:
    yield
    call_command("audit", verbosity=0)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many retries as ever, without the pauses. For workers in this process."""
    monkeypatch.setattr(autoretry, "get_exponential_backoff_interval", lambda **_: 0)


@pytest.fixture
def worker(quick_retries: None) -> Iterator[None]:
    """A worker in a thread of this process, so that a step can be made to fail."""
    # Named, because a process goes on with the queues that an earlier worker in it was given.
    options = {"pool": "solo", "queues": ["payflow-saga"], "perform_ping_check": False}
    with start_worker(app, shutdown_timeout=30, **options):
        yield


def submit(*transaction_ids: str) -> None:
    """Put transactions into the inbox and start a saga, as the API does."""
    inbox.push(list(transaction_ids))
    tasks.start_saga()


def ended(*transaction_ids: str) -> bool:
    return all(world.status_of(t) in TERMINAL and "due_at" not in world.row_of(t) for t in transaction_ids)


def simulate(*transaction_ids: str, kind: FailureType) -> None:
    rate = 0 if transaction_ids else simulation.MILLION
    simulation.change(
        by="test",
        enabled=True,
        failure_per_million=rate,
        fail_transaction_ids=transaction_ids,
        failure_type=kind,
    )


# --- In a process of their own ----------------------------------------------------------------------------


def test_a_worker_process_completes_declines_and_refunds(alice: str, bob: str) -> None:
    done, declined, refused = (world.start(alice, bob, amount) for amount in (100, 900_000, 300))
    simulate(refused, kind=FailureType.ERROR)
    with world.listening() as heard, prefork_worker(QUICK):
        submit(done, declined, refused)
        eventually(lambda: ended(done, declined, refused))
        for transaction in (done, declined, refused):
            told = [event for event in heard.ids() if event.startswith(transaction)]
            assert told == world.expected_events(transaction)
    assert [world.status_of(t) for t in (done, declined, refused)] == [
        Status.COMPLETED,
        Status.FAILED,
        Status.FAILED,
    ]
    assert world.row_of(refused)["failure"]["code"] == "simulated_failure"
    assert (world.balance_of(alice), world.balance_of(bob)) == (99_900, 100)


def test_an_exhausted_hanging_credit_is_refunded_by_its_error_callback(alice: str, bob: str) -> None:
    """Recovery is far away: only the callback of the task that gave up can have enqueued the refund."""
    hung, fine = world.start(alice, bob, 100), world.start(alice, bob, 200)
    simulate(hung, kind=FailureType.TIMEOUT)
    with world.listening() as heard, prefork_worker(QUICK):
        submit(hung, fine)
        eventually(lambda: ended(fine))
        assert world.status_of(hung) is Status.DEBITED
        eventually(lambda: ended(hung))
        told = [event for event in heard.ids() if event.startswith(hung)]
        # Whoever gives up tells everything that was told before once more.
        assert list(dict.fromkeys(told)) == world.expected_events(hung)
    row = world.row_of(hung)
    assert [step["status"] for step in row["history"]] == ["INITIATED", "DEBITED", "REFUNDING", "FAILED"]
    assert (row["failure"]["code"], row["failure"]["refunded"]) == ("service_unavailable", True)
    assert row["attempts"] == 0
    hung_for = (row["history"][2]["at"] - row["history"][1]["at"]).total_seconds()
    assert hung_for >= 2 * 0.5
    assert (world.balance_of(alice), world.balance_of(bob)) == (99_800, 200)


def test_a_hang_of_every_credit_leaves_both_children_free(alice: str, bob: str) -> None:
    """Forty batches hang for a minute each; what comes meanwhile is not held up."""
    simulate(kind=FailureType.TIMEOUT)
    hung = [world.start(alice, bob, 1) for _ in range(40)]
    first_look = {t: world.row_of(t)["due_at"] for t in hung}
    with prefork_worker({**QUICK, "CREDIT_TIMEOUT_SECONDS": "60"}):
        for transaction in hung:
            chain(
                tasks.debit.s([transaction]),
                tasks.credit.s().on_error(tasks.credit_failed.s()),
                tasks.complete.s(),
            ).apply_async()
        eventually(lambda: all(world.row_of(t)["due_at"] > first_look[t] for t in hung))
        simulation.reset(by="test")
        fine = world.start(alice, bob, 5)
        submit(fine)
        eventually(lambda: ended(fine), within_seconds=20)
    assert {world.status_of(t) for t in hung} == {Status.DEBITED}
    assert {world.row_of(t)["settlement"] for t in hung} == {None}


# --- In a thread, where a step can be made to fail ----------------------------------------------------------


def _unavailable(*args: object, **options: object) -> None:
    raise Transient


def test_an_exhausted_credit_task_enqueues_the_refund(
    alice: str, bob: str, worker: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    transaction = world.start(alice, bob, 100)
    tries = []
    monkeypatch.setattr(saga, "credit", lambda ids: tries.append(ids) or _unavailable())
    with world.listening() as heard:
        submit(transaction)
        eventually(lambda: ended(transaction))
        assert list(dict.fromkeys(heard.ids())) == world.expected_events(transaction)
    assert tries == [[transaction]] * (tasks.credit.max_retries + 1)
    assert world.path_of(transaction) == ["INITIATED", "DEBITED", "REFUNDING", "FAILED"]
    assert world.row_of(transaction)["failure"]["code"] == "service_unavailable"
    assert world.balance_of(alice) == 100_000


def test_an_exhausted_credit_task_leaves_what_has_decided_credit(
    alice: str, bob: str, worker: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two had decided CREDIT when the ledger went away: it is credited later, never refunded."""
    decided, undecided = world.start(alice, bob, 100), world.start(alice, bob, 200)
    real, tries = saga.credit, []

    def credit(ids: list[str]) -> None:
        if not tries:
            saga._decide_credit([world.row_of(decided)])
        tries.append(ids)
        _unavailable()

    monkeypatch.setattr(saga, "credit", credit)
    submit(decided, undecided)
    eventually(lambda: ended(undecided))
    row = world.row_of(decided)
    assert (row["status"], row["settlement"]) == ("DEBITED", "CREDIT")
    monkeypatch.setattr(saga, "credit", real)
    world.make_due(decided)
    tasks.recover.delay()
    eventually(lambda: ended(decided))
    assert (world.status_of(decided), world.status_of(undecided)) == (Status.COMPLETED, Status.FAILED)
    assert (world.balance_of(alice), world.balance_of(bob)) == (99_900, 100)


def test_an_error_that_nobody_foresaw_refunds_nobody(
    alice: str, bob: str, worker: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be the fault of one transaction in the batch; recovery takes them one by one."""
    transaction = world.start(alice, bob, 100)
    tries = []

    def broken(ids: list[str]) -> None:
        tries.append(ids)
        raise KeyError("surprise")

    with monkeypatch.context() as patched:
        patched.setattr(saga, "credit", broken)
        submit(transaction)
        eventually(lambda: tries)
        # The worker is alone: whatever the callback enqueued has been done when this one is.
        other = world.start(alice, bob, 900_000)
        submit(other)
        eventually(lambda: ended(other))
    assert tries == [[transaction]]
    assert world.status_of(transaction) is Status.DEBITED
    world.make_due(transaction)
    tasks.recover.delay()
    eventually(lambda: ended(transaction))
    assert world.status_of(transaction) is Status.COMPLETED


def test_an_exhausted_refund_is_told_and_made_later(
    alice: str, bob: str, worker: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    transaction = world.start(alice, bob, 100)
    simulate(kind=FailureType.ERROR)
    with world.listening() as heard:
        with monkeypatch.context() as patched:
            patched.setattr(saga, "refund", _unavailable)
            submit(transaction)
            eventually(lambda: f"{transaction}:REFUND_FAILED" in heard.ids())
        assert world.status_of(transaction) is Status.REFUNDING
        world.make_due(transaction)
        tasks.recover.delay()
        eventually(lambda: ended(transaction))
        told = heard.ids()
    assert told.count(f"{transaction}:REFUND_FAILED") == 1
    assert told.index(f"{transaction}:REFUND_FAILED") < told.index(f"{transaction}:REFUND_COMPLETED")
    assert world.balance_of(alice) == 100_000


def test_the_telling_of_a_failed_refund_is_tried_again(
    alice: str, bob: str, worker: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    transaction = world.start(alice, bob, 100)
    simulate(kind=FailureType.ERROR)
    tell, tries = saga.announce_failed_refunds, []

    def tell_the_third_time(ids: list[str]) -> None:
        tries.append(ids)
        _unavailable() if len(tries) < 3 else tell(ids)

    monkeypatch.setattr(saga, "refund", _unavailable)
    monkeypatch.setattr(saga, "announce_failed_refunds", tell_the_third_time)
    with world.listening() as heard:
        submit(transaction)
        eventually(lambda: f"{transaction}:REFUND_FAILED" in heard.ids())
    assert tries == [[transaction]] * 3


def test_recovery_also_starts_what_waits_in_the_inbox_without_a_chain(
    alice: str, bob: str, worker: None, settings: LazySettings
) -> None:
    transaction = world.start(alice, bob, 100)
    inbox.push([transaction])
    world.saw_in_inbox(2, transaction)
    tasks.recover.delay()
    eventually(lambda: ended(transaction))
    assert (world.status_of(transaction), world.row_of(transaction)["attempts"]) == (Status.COMPLETED, 0)


@pytest.mark.parametrize(
    ("waiting", "pauses"), [(0, [1]), (1, [1]), (2, [1, 7]), (19, [1, 7]), (20, [1]), (30, [1])]
)
def test_a_chain_waits_for_company_and_a_little_longer_where_a_crowd_comes(
    waiting: int, pauses: list[float], settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SAGA_BATCH_MAX, settings.SAGA_LINGER_SECONDS, settings.SAGA_CROWD_LINGER_SECONDS = 20, 1, 7
    slept: list[float] = []
    monkeypatch.setattr(tasks, "time", SimpleNamespace(sleep=slept.append))
    monkeypatch.setattr(tasks, "start_saga", lambda: None)
    if waiting:
        inbox.push([f"txn_{number}" for number in range(waiting)])
    tasks.debit.apply()
    assert slept == pauses
    assert inbox.count() == max(0, waiting - 20)
