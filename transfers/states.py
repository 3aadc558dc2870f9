"""The saga's decisions, as pure functions: which moves exist, what each move tells the world, when a debit
is declined, when a credit is refused, and when recovery looks again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from payflow import money
from payflow.events import EventType


class Status(StrEnum):
    """Where a transaction stands."""

    INITIATED = "INITIATED"
    DEBITED = "DEBITED"
    CREDITED = "CREDITED"
    COMPLETED = "COMPLETED"
    REFUNDING = "REFUNDING"
    FAILED = "FAILED"


class Settlement(StrEnum):
    """How the debited money leaves clearing. Decided once."""

    CREDIT = "CREDIT"
    REFUND = "REFUND"


_TRIES_MAX = 1_000_000
TERMINAL = frozenset({Status.COMPLETED, Status.FAILED})

# Every move there is, and the events it publishes, in order.
MOVES: dict[tuple[Status | None, Status], tuple[EventType, ...]] = {
    (None, Status.INITIATED): (EventType.TRANSACTION_INITIATED,),
    (Status.INITIATED, Status.DEBITED): (EventType.DEBIT_SUCCESS,),
    (Status.DEBITED, Status.CREDITED): (EventType.CREDIT_SUCCESS,),
    (Status.CREDITED, Status.COMPLETED): (EventType.TRANSACTION_COMPLETED,),
    (Status.INITIATED, Status.FAILED): (EventType.DEBIT_FAILED, EventType.TRANSACTION_FAILED),
    (Status.DEBITED, Status.REFUNDING): (EventType.CREDIT_FAILED, EventType.REFUND_REQUESTED),
    (Status.REFUNDING, Status.FAILED): (EventType.REFUND_COMPLETED, EventType.TRANSACTION_FAILED),
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a transaction failed: a stable code and a sentence for people."""

    code: str
    detail: str


INSUFFICIENT_BALANCE = Failure("insufficient_balance", "The sender's balance was too low.")
EXPIRED = Failure("expired", "The transaction waited too long to be started; nothing was taken.")
SENDER_CLOSED = Failure("wallet_closed", "The sender's wallet is frozen or closed.")
RECEIVER_CLOSED = Failure("wallet_closed", "The receiver's wallet is frozen or closed.")
RECEIVER_MISSING = Failure("receiver_not_found", "The receiver's wallet does not exist.")
RECEIVER_CURRENCY = Failure("currency_mismatch", "The receiver's wallet holds another currency.")
RECEIVER_FULL = Failure("balance_limit", "The receiver's wallet cannot hold the amount.")
SIMULATED = Failure("simulated_failure", "The credit was refused on purpose, by the failure simulation.")
REFUNDED_BY_OPERATOR = Failure("refunded_by_operator", "An operator had the transaction refunded.")
CREDIT_EXHAUSTED = Failure("service_unavailable", "The receiver could not be credited in time.")

DECLINES = {failure.code: failure for failure in (INSUFFICIENT_BALANCE, EXPIRED, SENDER_CLOSED)}


@dataclass(frozen=True, slots=True)
class WalletView:
    """What the saga needs to know of a wallet."""

    currency: str
    is_active: bool


def decline_debit(
    *, initiated_at: datetime, now: datetime, expires_after: timedelta, wallet: WalletView | None
) -> Failure | None:
    """Say why a debit must not be tried, or None. The balance is the ledger's to judge."""
    if now - initiated_at > expires_after:
        return EXPIRED
    if wallet is None or not wallet.is_active:
        return SENDER_CLOSED
    return None


def refuse_credit(
    *, amount_minor: int, currency: str, wallet: WalletView | None, balance_minor: int | None
) -> Failure | None:
    """Say why a credit is impossible, or None. After CREDIT is decided nothing may ask this again.

    `balance_minor` is what the receiver holds, with all that was decided for it before in the same batch;
    None where their ledger cannot be read, so that no credit could follow.
    """
    if wallet is None:
        return RECEIVER_MISSING
    if wallet.currency != currency:
        return RECEIVER_CURRENCY
    if not wallet.is_active or balance_minor is None:
        return RECEIVER_CLOSED
    if balance_minor + amount_minor > money.BALANCE_MINOR_SOFT_MAX:
        return RECEIVER_FULL
    return None


def events_of(statuses: list[Status], *, since: int = 0) -> list[tuple[int, EventType]]:
    """Return the events of a history's moves from position `since` on, with each move's position."""
    previous = [None, *statuses]
    return [
        (position, event)
        for position in range(since, len(statuses))
        for event in MOVES[previous[position], statuses[position]]
    ]


def tries_of(row: Mapping[str, Any]) -> int:
    """Return how often recovery has tried; what no recovery can have counted counts as nothing."""
    attempts = row.get("attempts")
    return attempts if isinstance(attempts, int) and 0 <= attempts < _TRIES_MAX else 0


def next_look_seconds(*, attempts: int, stalled_after_seconds: float) -> float:
    """Return how long recovery leaves a transaction alone after its `attempts`-th try: doubling, capped."""
    return min(300.0, stalled_after_seconds * 2 ** min(attempts, 10))


def hang_seconds(*, limit_seconds: float, retries_max: int, stalled_after_seconds: float) -> float:
    """Return how long a hanging credit is waited for, all tries together, with some time to act on it."""
    return limit_seconds * (1 + retries_max) + stalled_after_seconds
