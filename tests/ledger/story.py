"""A short history that holds one of everything, for tests that tamper with it."""

from __future__ import annotations

from typing import Any

from ledger.posting import post
from ledger.verdict import Verdict
from tests.ledger.books import Books, deposit, wallet_id, withdrawal


class Story:
    """Alice has 500.00, pays Bob 30.00, is declined 900.00, is refunded 20.00; Bob withdraws 5.00."""

    def __init__(self) -> None:
        self.books = Books()
        self.alice, self.bob = sorted([wallet_id(), wallet_id()])
        post([deposit(self.alice, 50_000, key="first")])
        self.paid = self.books.pay(self.alice, self.bob, 3_000)
        self.declined = self.books.initiate(self.alice, self.bob, 90_000)
        self.books.debit(self.declined)
        self.refunded = self.books.initiate(self.alice, self.bob, 2_000)
        self.books.debit(self.refunded)
        self.books.refund(self.refunded)
        post([withdrawal(self.bob, 500, key="last")])

    def audit(self, **options: Any) -> Verdict:
        return self.books.audit(**options)


def found(verdict: Verdict) -> set[tuple[str, str | None, int | None]]:
    """Return invariant, wallet and sequence of each violation."""
    return {(v.invariant, v.wallet_id, v.sequence) for v in verdict.violations}


def broken(verdict: Verdict) -> set[str]:
    return {violation.invariant for violation in verdict.violations}
