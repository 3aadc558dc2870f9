"""The saga's decisions, without a database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from payflow import money
from payflow.events import EventType
from transfers import states
from transfers.states import MOVES, TERMINAL, Failure, Status, WalletView

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ACTIVE = WalletView("USD", is_active=True)
FROZEN = WalletView("USD", is_active=False)


def test_has_exactly_the_moves_of_the_design() -> None:
    assert set(MOVES) == {
        (None, Status.INITIATED),
        (Status.INITIATED, Status.DEBITED),
        (Status.DEBITED, Status.CREDITED),
        (Status.CREDITED, Status.COMPLETED),
        (Status.INITIATED, Status.FAILED),
        (Status.DEBITED, Status.REFUNDING),
        (Status.REFUNDING, Status.FAILED),
    }


def test_nothing_leaves_a_terminal_state() -> None:
    assert not [move for move in MOVES if move[0] in TERMINAL]


def test_every_state_is_reachable_and_every_other_state_has_a_way_out() -> None:
    assert {to for _, to in MOVES} == set(Status)
    assert {leaving for leaving, _ in MOVES} - {None} == set(Status) - TERMINAL


def test_every_event_but_the_failed_refund_belongs_to_a_move() -> None:
    told = {event for moved in MOVES.values() for event in moved}
    assert set(EventType) - told == {EventType.REFUND_FAILED}


@pytest.mark.parametrize(
    ("age_seconds", "wallet", "expected"),
    [
        (0, ACTIVE, None),
        (900, ACTIVE, None),
        (901, ACTIVE, states.EXPIRED),
        (901, FROZEN, states.EXPIRED),
        (0, FROZEN, states.SENDER_CLOSED),
        (0, None, states.SENDER_CLOSED),
    ],
)
def test_declines_a_debit(age_seconds: int, wallet: WalletView | None, expected: Failure | None) -> None:
    decided = states.decline_debit(
        initiated_at=NOW - timedelta(seconds=age_seconds),
        now=NOW,
        expires_after=timedelta(seconds=900),
        wallet=wallet,
    )
    assert decided == expected


@pytest.mark.parametrize(
    ("wallet", "balance_minor", "expected"),
    [
        (ACTIVE, 0, None),
        (None, 0, states.RECEIVER_MISSING),
        (FROZEN, 0, states.RECEIVER_CLOSED),
        (WalletView("EUR", is_active=True), 0, states.RECEIVER_CURRENCY),
        (ACTIVE, money.BALANCE_MINOR_SOFT_MAX - 10, None),
        (ACTIVE, money.BALANCE_MINOR_SOFT_MAX - 9, states.RECEIVER_FULL),
    ],
)
def test_refuses_a_credit(wallet: WalletView | None, balance_minor: int, expected: Failure | None) -> None:
    decided = states.refuse_credit(
        amount_minor=10, currency="USD", wallet=wallet, balance_minor=balance_minor
    )
    assert decided == expected


def test_every_decline_can_be_told_from_the_ledgers_reason() -> None:
    assert set(states.DECLINES) == {"insufficient_balance", "expired", "wallet_closed"}


def test_events_follow_the_history_in_order() -> None:
    history = [Status.INITIATED, Status.DEBITED, Status.REFUNDING, Status.FAILED]
    assert [(position, event.value) for position, event in states.events_of(history)] == [
        (0, "TRANSACTION_INITIATED"),
        (1, "DEBIT_SUCCESS"),
        (2, "CREDIT_FAILED"),
        (2, "REFUND_REQUESTED"),
        (3, "REFUND_COMPLETED"),
        (3, "TRANSACTION_FAILED"),
    ]
    assert states.events_of(history, since=3) == states.events_of(history)[-2:]


def test_recovery_waits_longer_each_time_and_never_longer_than_five_minutes() -> None:
    waits = [states.next_look_seconds(attempts=n, stalled_after_seconds=5.0) for n in range(50)]
    assert waits[:4] == [5.0, 10.0, 20.0, 40.0]
    assert waits == sorted(waits)
    assert waits[-1] == 300.0
