"""What the clients of a drill asked for and what they were told: what the ledger is held against."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

CREATED = 201


class Kind(StrEnum):
    """What an operation does with money."""

    TRANSFER = "transfer"
    DEPOSIT = "deposit"
    WITHDRAWAL = "withdrawal"


@dataclass(frozen=True, slots=True)
class Answer:
    """A definite answer to one request: accepted with the id of what it made, or refused."""

    status: int
    id: str = ""
    # A transaction's status as the answer showed it, or a problem's code.
    told: str = ""

    @property
    def is_accepted(self) -> bool:
        """Whether this answer promises that it was done."""
        return self.status == CREATED


@dataclass(slots=True)
class Operation:
    """One thing a user wanted, under one idempotency key, however often it was asked for."""

    kind: Kind
    user_id: str
    currency: str
    amount_minor: int
    key: str
    receiver_id: str = ""
    answers: list[Answer] = field(default_factory=list)
    # Requests that ended in a timeout, a broken connection or a 5xx: they may or may not have done it.
    doubts: int = 0

    @property
    def accepted_ids(self) -> set[str]:
        """What was promised; more than one id means that it was done more than once."""
        return {answer.id for answer in self.answers if answer.is_accepted}
