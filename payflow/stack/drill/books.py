"""What the API says is in the ledger, once the system is at rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from payflow.money import EXPONENTS
from payflow.stack.drill.client import Client


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction as its sender sees it; `key` is the idempotency key it was asked for with."""

    id: str
    sender_id: str
    receiver_id: str
    currency: str
    amount_minor: int
    status: str
    key: str
    is_refunded: bool = False

    @property
    def outcome(self) -> str:
        """Its status in lower case, where FAILED is told as refunded or declined."""
        if self.status == "FAILED":
            return "refunded" if self.is_refunded else "declined"
        return self.status.lower()


@dataclass(frozen=True, slots=True)
class Entry:
    """A ledger entry as the wallet's owner sees it; the amount is signed."""

    id: str
    user_id: str
    kind: str
    currency: str
    amount_minor: int
    transaction_id: str = ""


@dataclass(slots=True)
class Books:
    """Everything that belongs to the drill's users."""

    transactions: dict[str, Transaction] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    balances: dict[tuple[str, str], int] = field(default_factory=dict)
    # Wallets that somebody has frozen or closed, by id, with their status: in a drill nobody should.
    inactive: dict[str, str] = field(default_factory=dict)


def read(clients: Iterable[Client]) -> Books:
    """Read every user's wallets, entries and transactions. StackError when the API does not answer."""
    books = Books()
    for client in clients:
        for row in client.pages("/transactions", direction="sent"):
            transaction = _transaction(row)
            books.transactions[transaction.id] = transaction
        for wallet in client.get("/wallets")["results"]:
            currency = wallet["currency"]
            if wallet["status"] != "ACTIVE":
                books.inactive[wallet["id"]] = wallet["status"]
            books.balances[client.id, currency] = minor(wallet["balance"], currency)
            for row in client.pages("/wallets/me/history", currency=currency):
                books.entries.append(_entry(row, client.id))
    return books


def minor(amount: str, currency: str) -> int:
    """Return a decimal string of the API in minor units, the sign kept."""
    whole, _, fraction = amount.lstrip("-").partition(".")
    value = int(whole + fraction.ljust(EXPONENTS[currency], "0"))
    return -value if amount.startswith("-") else value


def _transaction(row: dict[str, Any]) -> Transaction:
    return Transaction(
        id=row["id"],
        sender_id=row["sender_id"],
        receiver_id=row["receiver_id"],
        currency=row["currency"],
        amount_minor=minor(row["amount"], row["currency"]),
        status=row["status"],
        key=row["description"] or "",
        is_refunded=bool((row["failure"] or {}).get("refunded")),
    )


def _entry(row: dict[str, Any], user_id: str) -> Entry:
    amount_minor = minor(row["amount"], row["currency"])
    return Entry(row["id"], user_id, row["kind"], row["currency"], amount_minor, row["transaction_id"] or "")
