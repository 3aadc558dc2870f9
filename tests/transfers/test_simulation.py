"""Credits that fail on purpose, as an error and as a hang: the steps and recovery, in this process."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import LazySettings

from ledger import posting, simulation
from ledger.simulation import FailureType
from payflow import clock
from payflow.errors import Transient
from tests.transfers import world
from transfers import recovery, saga
from transfers.states import Status
from wallets import services as wallet_services

pytestmark = pytest.mark.usefixtures("audited")


def simulate(*transaction_ids: str, kind: FailureType = FailureType.ERROR) -> None:
    """Let the credits of these transactions fail, or of all when none is named."""
    simulation.change(
        by="test",
        enabled=True,
        failure_per_million=0 if transaction_ids else simulation.MILLION,
        fail_transaction_ids=transaction_ids,
        failure_type=kind,
    )


def test_a_simulated_error_is_refunded_and_told_in_order(alice: str, bob: str) -> None:
    refused, fine = world.start(alice, bob, 2_500), world.start(alice, bob, 100)
    simulate(refused)
    with world.listening() as heard:
        world.play(refused, fine)
        told = [event for event in heard.ids() if event.startswith(refused)]
    assert told == [
        f"{refused}:{event}"
        for event in (
            "TRANSACTION_INITIATED",
            "DEBIT_SUCCESS",
            "CREDIT_FAILED",
            "REFUND_REQUESTED",
            "REFUND_COMPLETED",
            "TRANSACTION_FAILED",
        )
    ]
    assert world.path_of(refused) == ["INITIATED", "DEBITED", "REFUNDING", "FAILED"]
    row = world.row_of(refused)
    assert (row["failure"]["code"], row["failure"]["refunded"]) == ("simulated_failure", True)
    assert (row["settlement"], "due_at" in row) == ("REFUND", False)
    assert world.status_of(fine) is Status.COMPLETED
    assert (world.balance_of(alice), world.balance_of(bob)) == (9_900, 100)


def test_a_rate_refuses_whom_the_lot_says(alice: str, bob: str) -> None:
    transactions = [world.start(alice, bob, 10) for _ in range(60)]
    simulation.change(by="test", enabled=True, failure_per_million=400_000)
    refused = {t for t in transactions if simulation.draw(t) < 400_000}
    world.play(*transactions)
    assert {t for t in transactions if world.status_of(t) is Status.FAILED} == refused
    assert 0 < len(refused) < 60


def test_a_decided_credit_lands_whatever_is_simulated(alice: str, bob: str) -> None:
    for kind in FailureType:
        transaction = world.start(alice, bob, 100)
        saga.debit([transaction])
        saga._decide_credit([world.row_of(transaction)])
        simulate(kind=kind)
        step = saga.credit([transaction])
        assert step == saga.Credited([transaction], [], [])
        saga.complete(step.credited)
        assert world.status_of(transaction) is Status.COMPLETED
        simulation.reset(by="test")
    assert world.balance_of(bob) == 200


def test_a_simulation_that_ends_before_the_credit_refuses_nothing(alice: str, bob: str) -> None:
    transaction = world.start(alice, bob, 100)
    simulate()
    saga.debit([transaction])
    simulation.reset(by="test")
    world.play(transaction)
    assert world.status_of(transaction) is Status.COMPLETED


def test_production_never_looks(alice: str, bob: str, settings: LazySettings) -> None:
    simulate()
    settings.IS_PRODUCTION = True
    transaction = world.start(alice, bob, 100)
    world.play(transaction)
    assert world.status_of(transaction) is Status.COMPLETED


# --- Hanging ----------------------------------------------------------------------------------------------


def test_a_hanging_credit_holds_up_nobody_and_decides_nothing(alice: str, bob: str) -> None:
    hung, fine = world.start(alice, bob, 100), world.start(alice, bob, 200)
    simulate(hung, kind=FailureType.TIMEOUT)
    step = saga.credit(saga.debit([hung, fine]))
    assert step == saga.Credited(credited=[fine], refused=[], hanging=[hung])
    row = world.row_of(hung)
    assert (row["status"], row["settlement"]) == ("DEBITED", None)
    assert world.balance_of(bob) == 200


def test_recovery_leaves_a_hanging_credit_to_whoever_waits_for_it(
    alice: str, bob: str, settings: LazySettings
) -> None:
    hung = world.start(alice, bob, 100)
    simulate(kind=FailureType.TIMEOUT)
    before = clock.now()
    saga.credit(saga.debit([hung]))
    patience = 2 * settings.CREDIT_TIMEOUT_SECONDS + settings.SAGA_STALLED_AFTER_SECONDS
    assert clock.after(before, patience) <= world.row_of(hung)["due_at"] <= clock.after(clock.now(), patience)


def test_recovery_refunds_a_hanging_credit_that_nobody_waits_for_any_more(alice: str, bob: str) -> None:
    """The worker that held the message is gone, and the message with it."""
    hung = world.start(alice, bob, 100)
    simulate(kind=FailureType.TIMEOUT)
    saga.credit(saga.debit([hung]))
    world.make_due(hung)
    with world.listening() as heard:
        recovery.recover_stalled()
        # Recovery repeats what may not have been told; the order of each event's first time counts.
        assert list(dict.fromkeys(heard.ids())) == world.expected_events(hung)
    assert world.path_of(hung) == ["INITIATED", "DEBITED", "REFUNDING", "FAILED"]
    assert world.row_of(hung)["failure"]["code"] == "service_unavailable"
    assert (world.balance_of(alice), world.balance_of(bob)) == (10_000, 0)


def test_recovery_credits_what_hung_when_the_simulation_has_ended(alice: str, bob: str) -> None:
    hung = world.start(alice, bob, 100)
    simulate(kind=FailureType.TIMEOUT)
    saga.credit(saga.debit([hung]))
    simulation.reset(by="test")
    world.make_due(hung)
    recovery.recover_stalled()
    assert world.status_of(hung) is Status.COMPLETED


def test_a_hang_neither_hides_nor_delays_a_decision_of_somebody_else(alice: str, bob: str) -> None:
    """One executor finds it hanging, with old rows in hand; another has decided the credit meanwhile."""
    hung = world.start(alice, bob, 100)
    saga.debit([hung])
    stale = [world.row_of(hung)]
    saga._decide_credit(stale)
    due_at = world.row_of(hung)["due_at"]
    saga._let_hang(stale)
    assert world.row_of(hung)["due_at"] == due_at


def test_a_failed_refund_is_told_only_of_those_still_waiting(alice: str, bob: str) -> None:
    waiting, done = world.start(alice, bob, 100), world.start(alice, bob, 100)
    simulate()
    step = saga.credit(saga.debit([waiting, done]))
    saga.refund([done])
    with world.listening() as heard:
        saga.announce_failed_refunds([*step.refused, "txn_nobody"])
        assert heard.ids() == [f"{waiting}:REFUND_FAILED"]
    wallet_services.freeze_wallets(user_id=alice)
    saga.refund([waiting])
    assert world.status_of(waiting) is Status.FAILED


def test_recovery_tells_of_refunds_that_it_cannot_make_and_only_of_those(
    alice: str, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first to fail may have died, or lost its message, before it told."""
    fine, stuck, other = (world.start(alice, bob, 10) for _ in range(3))
    saga.debit([fine, stuck])
    wallet_services.freeze_wallets(user_id=bob)
    assert saga.credit([fine, stuck]).refused
    world.make_due(fine, stuck, other)
    busy = {f"{stuck}:refund", f"{other}:debit"}
    post = posting.post

    def post_unless_busy(wishes: list[Any], **options: Any) -> Any:
        if busy & {wish.operation_id for wish in wishes}:
            raise Transient
        return post(wishes, **options)

    with world.listening() as heard:
        with monkeypatch.context() as patched:
            patched.setattr(posting, "post", post_unless_busy)
            assert recovery.recover_stalled().undriven == 2
        assert [id_ for id_ in heard.ids() if "REFUND_FAILED" in id_] == [f"{stuck}:REFUND_FAILED"]
        world.make_due(stuck)
        recovery.recover_stalled()
        told = heard.ids()
    assert (world.status_of(fine), world.status_of(stuck)) == (Status.FAILED, Status.FAILED)
    assert told.index(f"{stuck}:REFUND_FAILED") < told.index(f"{stuck}:REFUND_COMPLETED")
