"""The audit's second half: transactions against their entries (L4, L7), and the money in flight between them.

What looks wrong is read again before it counts: the transaction, its entries, the transaction. Where both
readings of the transaction agree, that is what was stored when the entries were read, because a transaction
never moves back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, Protocol

from ledger.reading import Reader, after_prefix
from ledger.verdict import Tally
from ledger.verification import (
    LEG_FIELDS,
    ODD_ID,
    TRANSACTION_PREFIX,
    Document,
    Fault,
    TransactionFact,
    agreement_faults,
    legs_of,
    transaction_faults,
)

SUSPECTS_MAX = 250
CONFIRM_ATTEMPTS_MAX = 5
# So many entries for a transaction are read along with it.
LEGS_MAX = 4

Legs = Mapping[str, Document]


class Transactions(Protocol):
    """Where the audit learns of transactions; the ledger itself knows nothing of them."""

    def stream(self, *, wallet_id: str | None) -> Iterable[TransactionFact]:
        """Yield every transaction (that names one wallet) in order of its id."""

    def page(self, *, before: str | None, limit: int) -> list[TransactionFact]:
        """Return up to `limit` transactions with an id below `before`, in descending order of their ids."""

    def has_odd_ids(self) -> bool:
        """Say whether there are transactions whose id is no text, so that no page shows them."""

    def find(self, transaction_ids: Collection[str]) -> dict[str, TransactionFact]:
        """Return those of the transactions that exist."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the round over transactions: how many it visited; where the next begins, None at the end."""

    visited: int
    before: str | None


class Crosscheck:
    """Compares the ledger with the transactions, or, without these, each transaction's entries alone."""

    def __init__(
        self, reader: Reader, tally: Tally, transactions: Transactions | None, *, expect_settled: bool
    ) -> None:
        self._reader = reader
        self._tally = tally
        self._transactions = transactions
        self._expect_settled = expect_settled

    def everything(self) -> None:
        """Check every transaction and every entry that carries a transaction's id."""
        suspects: list[str] = []
        for transaction_id, fact, legs in self._merged():
            self._count(fact)
            self._add_in_flight(legs)
            if fact is not None and fact.is_odd:
                self._tally.report(ODD_ID, transaction_id=fact.id)
            elif any(self._faults(fact, legs)):
                suspects.append(transaction_id)
            if len(suspects) >= SUSPECTS_MAX:
                self._confirm(suspects)
                suspects = []
        self._confirm(suspects)

    def wallet(self, wallet_id: str) -> None:
        """Check the transactions that name a wallet, and its entries whose transaction does not name it."""
        if self._transactions is not None:
            for facts in _batches(self._transactions.stream(wallet_id=wallet_id)):
                for fact in facts:
                    self._count(fact)
                self._confirm([fact.id for fact in facts])
        query = {"wallet_id": wallet_id, "transaction_id": {"$type": "string"}}
        for entries in _batches(self._reader.stream(query, order={"wallet_id": 1, "sequence": 1})):
            ids = list(dict.fromkeys(entry["transaction_id"] for entry in entries))
            found = self._facts(ids).values()
            named = {f.id for f in found if wallet_id in (f.sender_wallet_id, f.receiver_wallet_id)}
            self._confirm([id_ for id_ in ids if id_ not in named])

    def these(self, transaction_ids: Collection[str]) -> None:
        """Check some transactions."""
        facts, entries = self._facts(transaction_ids), _grouped(self._reader.legs(transaction_ids))
        legs = {id_: legs_of(entries.get(id_, ())) for id_ in transaction_ids}
        self._confirm([id_ for id_ in transaction_ids if any(self._faults(facts.get(id_), legs[id_]))])

    def next_part(self, *, before: str | None, limit: int) -> Part:
        """Check the next transactions, and the entries whose ids lie between theirs, from new to old.

        From new to old a round ends however fast transactions are made. Both sides are read by the same range
        of ids, so that a transaction without entries shows, and entries without a transaction do.
        """
        facts: list[TransactionFact] = []
        if self._transactions is not None:
            facts = self._transactions.page(before=before, limit=limit)
        entries_max = limit * LEGS_MAX
        entries = self._reader.legs_before(before, entries_max)
        ends = [facts[-1].id] if len(facts) >= limit else []
        ends += [_transaction_of(entries[-1])] if len(entries) >= entries_max else []
        end = max(ends, default="")
        legs = _grouped(entry for entry in entries if entry["_id"] >= end)
        known = {fact.id: fact for fact in facts if fact.id >= end}
        suspects = [
            id_
            for id_ in {**known, **legs}
            # The last one's entries may lie on both sides of the end.
            if id_ == end or any(self._faults(known.get(id_), legs_of(legs.get(id_, ()))))
        ]
        self._confirm(suspects)
        return Part(len(known), end or None)

    def _merged(self) -> Iterator[tuple[str, TransactionFact | None, Legs]]:
        """Merge entries and transactions; both come in order of the transaction's id."""
        query = {"_id": {"$gte": TRANSACTION_PREFIX, "$lt": after_prefix(TRANSACTION_PREFIX)}}
        entries = self._reader.stream(query, order={"_id": 1}, only=LEG_FIELDS)
        facts = (
            iter(self._transactions.stream(wallet_id=None)) if self._transactions is not None else iter(())
        )
        fact = next(facts, None)
        for transaction_id, group in groupby(entries, key=_transaction_of):
            while fact is not None and fact.id < transaction_id:
                yield fact.id, fact, {}
                fact = next(facts, None)
            if fact is not None and fact.id == transaction_id:
                yield transaction_id, fact, legs_of(group)
                fact = next(facts, None)
            else:
                yield transaction_id, None, legs_of(group)
        while fact is not None:
            yield fact.id, fact, {}
            fact = next(facts, None)

    def _count(self, fact: TransactionFact | None) -> None:
        if fact is None:
            self._tally.verdict.transactions += self._transactions is None
            return
        self._tally.verdict.transactions += 1
        if not fact.is_terminal:
            self._tally.verdict.in_flight += 1
            if self._expect_settled:
                self._tally.report(Fault("L7", f"still {fact.status}"), transaction_id=fact.id)

    def _add_in_flight(self, legs: Legs) -> None:
        debit = legs.get("debit")
        if debit is None or debit["kind"] != "DEBIT":
            return
        currency, amount_minor, cut = debit["currency"], debit["requested_minor"], self._tally.cut
        settled_at = [legs[name]["created_at"] for name in ("credit", "refund") if name in legs]
        if not settled_at:
            self._tally.all[currency].in_flight += amount_minor
        if debit["created_at"] <= cut and not any(at <= cut for at in settled_at):
            self._tally.aged[currency].in_flight += amount_minor

    def _faults(self, fact: TransactionFact | None, legs: Legs) -> Iterator[Fault]:
        yield from transaction_faults(legs)
        if self._transactions is not None:
            yield from agreement_faults(fact, legs)

    def _confirm(self, transaction_ids: list[str]) -> None:
        """Read suspects again and report what is wrong with those that did not move meanwhile.

        One that moves at every attempt is in flight, and the next audit's to judge.
        """
        for _ in range(CONFIRM_ATTEMPTS_MAX):
            if not transaction_ids:
                return
            before = self._facts(transaction_ids)
            entries = self._reader.legs(transaction_ids)
            after = self._facts(transaction_ids)
            legs = {id_: legs_of(group) for id_, group in _grouped(entries).items()}
            for id_ in transaction_ids:
                if before.get(id_) == after.get(id_):
                    self._report(id_, after.get(id_), legs.get(id_, {}))
            transaction_ids = [id_ for id_ in transaction_ids if before.get(id_) != after.get(id_)]

    def _report(self, transaction_id: str, fact: TransactionFact | None, legs: Legs) -> None:
        newest = legs.get("refund") or legs.get("credit") or legs.get("debit")
        for fault in self._faults(fact, legs):
            # A transaction without a good MAC says nothing about a chain.
            self._tally.report(fault, None if fault.invariant == "L8" else newest, transaction_id)

    def _facts(self, transaction_ids: Collection[str]) -> dict[str, TransactionFact]:
        return self._transactions.find(transaction_ids) if self._transactions is not None else {}


def _transaction_of(entry: Document) -> str:
    stem, _, _ = entry["_id"].rpartition(":")
    return str(stem or entry["_id"])


def _grouped(entries: Iterable[Document]) -> dict[str, list[Document]]:
    groups: dict[str, list[Document]] = {}
    for entry in entries:
        groups.setdefault(_transaction_of(entry), []).append(entry)
    return groups


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, SUSPECTS_MAX)):
        yield batch
