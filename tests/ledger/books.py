"""Words for ledger tests: ids, postings, whole transactions, and an audit over them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from ledger import chain
from ledger.audit import audit
from ledger.chain import Entry, Kind, Posting
from ledger.documents import LedgerEntry
from ledger.keys import entry_mac, ledger_keys
from ledger.posting import post
from ledger.verdict import Verdict
from ledger.verification import TransactionFact
from payflow.ids import new_id
from payflow.mongodb import collection


def wallet_id() -> str:
    """Return a fresh wallet's id."""
    return new_id("wal")


def deposit(wallet: str, amount: int, *, key: str | None = None, currency: str = "USD") -> Posting:
    """Return the wish to bring money in."""
    return Posting(f"{key or new_id('op')}:deposit", wallet, Kind.DEPOSIT, amount, currency)


def withdrawal(wallet: str, amount: int, *, key: str | None = None, currency: str = "USD") -> Posting:
    """Return the wish to take money out."""
    return Posting(f"{key or new_id('op')}:withdrawal", wallet, Kind.WITHDRAWAL, amount, currency)


def leg(kind: Kind, transaction: str, wallet: str, amount: int, currency: str = "USD") -> Posting:
    """Return the wish for one side of a transaction; a DECLINED takes the debit's place."""
    operation = "debit" if kind is Kind.DECLINED else kind.value.lower()
    return Posting(f"{transaction}:{operation}", wallet, kind, amount, currency, transaction)


def stored() -> list[dict[str, Any]]:
    """Return every stored entry, chain by chain."""
    return list(collection(LedgerEntry).find().sort({"wallet_id": 1, "sequence": 1}))


def rewrite(entry_id: str, *, rehash: bool = False, **changes: Any) -> None:
    """Tamper with a stored entry; with `rehash` its own hash is made to fit, and its MAC as well.

    So what other invariants find is tested without the help of L8, as if somebody had the ledger's key.
    """
    entries = collection(LedgerEntry)
    document = {**entries.find_one({"_id": entry_id}), **changes}
    entries.replace_one({"_id": entry_id}, with_mac(rehashed(document)) if rehash else document)


def make_old(wallet_id: str) -> None:
    """Let a chain have begun two hours ago."""
    previous_hash = chain.GENESIS_HASH
    for entry in list(collection(LedgerEntry).find({"wallet_id": wallet_id}).sort("sequence", 1)):
        past = entry["created_at"] - timedelta(hours=2)
        rewrite(entry["_id"], rehash=True, created_at=past, previous_hash=previous_hash)
        previous_hash = collection(LedgerEntry).find_one({"_id": entry["_id"]})["hash"]


def rehashed(document: dict[str, Any]) -> dict[str, Any]:
    """Return an entry with the hash that fits: anybody can compute it."""
    return {**document, "hash": chain.digest_document(document)}


def with_mac(document: dict[str, Any]) -> dict[str, Any]:
    """Return an entry with the MAC that fits its hash: only PayFlow can compute it."""
    mac = entry_mac(document["hash"], ledger_keys())
    return {**document, "key_id": mac.key_id, "mac": mac.mac}


@dataclass
class Books:
    """Transactions as their owner would keep them, with the ledger entries that belong to them."""

    facts: dict[str, TransactionFact] = field(default_factory=dict)

    def stream(self, *, wallet_id: str | None) -> Iterator[TransactionFact]:
        """Yield the transactions in order of their ids."""
        for _, fact in sorted(self.facts.items()):
            if wallet_id in (None, fact.sender_wallet_id, fact.receiver_wallet_id):
                yield fact

    def page(self, *, before: str | None, limit: int) -> list[TransactionFact]:
        """Return transactions before one, the newest first."""
        older = [fact for id_, fact in sorted(self.facts.items()) if not before or id_ < before]
        return older[::-1][:limit]

    def has_odd_ids(self) -> bool:
        """Say no: all ids are text."""
        return False

    def find(self, transaction_ids: Collection[str]) -> dict[str, TransactionFact]:
        """Return those that exist."""
        return {id_: self.facts[id_] for id_ in transaction_ids if id_ in self.facts}

    def initiate(self, sender: str, receiver: str, amount: int, currency: str = "USD") -> str:
        """Write a transaction down; return its id."""
        id_ = new_id("txn")
        self.facts[id_] = TransactionFact(id_, "INITIATED", None, amount, currency, sender, receiver, False)
        return id_

    def move(self, id_: str, status: str, **also: Any) -> None:
        """Change a transaction's status."""
        self.facts[id_] = replace(self.facts[id_], status=status, **also)

    def debit(self, id_: str) -> Entry:
        """Debit or decline, and move the transaction on."""
        fact = self.facts[id_]
        wish = leg(Kind.DEBIT, id_, fact.sender_wallet_id, fact.amount_minor, fact.currency)
        entry = post([wish])[wish.operation_id]
        self.move(id_, "DEBITED" if entry.kind is Kind.DEBIT else "FAILED")
        return entry

    def credit(self, id_: str) -> Entry:
        """Decide CREDIT, credit, complete."""
        fact = self.facts[id_]
        self.move(id_, "DEBITED", settlement="CREDIT")
        wish = leg(Kind.CREDIT, id_, fact.receiver_wallet_id, fact.amount_minor, fact.currency)
        entry = post([wish])[wish.operation_id]
        self.move(id_, "COMPLETED")
        return entry

    def refund(self, id_: str) -> Entry:
        """Decide REFUND, refund, fail."""
        fact = self.facts[id_]
        self.move(id_, "REFUNDING", settlement="REFUND")
        wish = leg(Kind.REFUND, id_, fact.sender_wallet_id, fact.amount_minor, fact.currency)
        entry = post([wish])[wish.operation_id]
        self.move(id_, "FAILED", refunded=True)
        return entry

    def pay(self, sender: str, receiver: str, amount: int, currency: str = "USD") -> str:
        """Carry a transaction through to COMPLETED; return its id."""
        id_ = self.initiate(sender, receiver, amount, currency)
        assert self.debit(id_).kind is Kind.DEBIT
        self.credit(id_)
        return id_

    def audit(self, **options: Any) -> Verdict:
        """Audit the ledger against these transactions."""
        return audit(transactions=self, **options)


def assert_sound(books: Books | None = None, **options: Any) -> Verdict:
    """Check L1 to L8 (without `books`, all but L7)."""
    verdict = audit(transactions=books, **options)
    assert verdict.is_clean, "\n".join(map(str, verdict.violations))
    return verdict
