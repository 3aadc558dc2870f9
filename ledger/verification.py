"""What must be true of ledger entries, as pure functions over stored documents: no database or clock.

`entry_faults` judges a stored entry alone, `content_faults` one that came without its MAC, `link_faults` an
entry against the one before it, `transaction_faults` and `agreement_faults` everything that carries one
transaction's id. A document that is no entry at all is a fault like any other, never an exception.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from types import NoneType
from typing import Any

from bson.int64 import Int64

from ledger import chain
from ledger.chain import GENESIS_HASH, SIGNS, Kind
from ledger.keys import entry_mac_fault
from payflow.crypto.mac_keys import MacKeyring
from payflow.money import AMOUNT_MINOR_MAX

Document = Mapping[str, Any]

TRANSACTION_PREFIX = "txn_"
_SIGNS = {kind.value: sign for kind, sign in SIGNS.items()}
# The operations under whose ids a kind may stand, without and with a transaction.
_EXTERNAL_OPERATIONS = {
    "DEPOSIT": ("deposit",), "WITHDRAWAL": ("withdrawal",), "DECLINED": ("deposit", "withdrawal"),
    "DEBIT": (), "CREDIT": (), "REFUND": (),
}  # fmt: skip
_CLEARING_OPERATIONS = {
    "DEBIT": ("debit",), "CREDIT": ("credit",), "REFUND": ("refund",), "DECLINED": ("debit",),
    "DEPOSIT": (), "WITHDRAWAL": (),
}  # fmt: skip

_TEXTS = ("_id", "wallet_id", "kind", "currency", "contra", "reason", "previous_hash", "hash")
_INTEGERS = ("sequence", "amount_minor", "balance_minor", "requested_minor")
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(_TEXTS, (str,)),
    **dict.fromkeys(_INTEGERS, (int, Int64)),
    "transaction_id": (str, NoneType),
    "created_at": (datetime,),
}
# Whatever they hold, they are judged as a MAC.
_MAC_FIELDS = frozenset({"key_id", "mac"})
_FIELDS = _TYPES.keys() | _MAC_FIELDS
# What the functions over one transaction's entries read, beside the id.
LEG_FIELDS = ("kind", "wallet_id", "sequence", "requested_minor", "currency", "created_at")
_values = itemgetter(*_TYPES)
_leg_values = itemgetter(*LEG_FIELDS)
_CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Fault:
    """One broken invariant (docs/guarantees.md) and what exactly is wrong."""

    invariant: str
    detail: str


INDEX_MISSING = Fault("L1", "the unique index on (wallet_id, sequence) is missing: chains can fork")
ODD_ID = Fault("L7", "there are transactions whose id is no text")


@dataclass(frozen=True, slots=True)
class TransactionFact:
    """What the ledger's audit needs to know of a transaction; whoever owns transactions hands it over."""

    id: str
    status: str
    settlement: str | None
    amount_minor: int
    currency: str
    sender_wallet_id: str
    receiver_wallet_id: str
    refunded: bool
    # It has not ended, and recovery will not look at it: it has no due time, or one in the far future.
    is_abandoned: bool = False
    # Why its MAC does not prove what it orders, else an empty string.
    mac_fault: str = ""
    # Its id is no text: nobody can find it by its id.
    is_odd: bool = False

    @property
    def is_terminal(self) -> bool:
        """Say whether the transaction has ended."""
        return self.status in ("COMPLETED", "FAILED")


def malformation(document: Document) -> str:
    """Say why a document is no ledger entry, or return an empty string."""
    if document.keys() != _FIELDS:
        missing, extra = sorted(_TYPES.keys() - document.keys()), sorted(document.keys() - _FIELDS)
        if missing or extra:
            return f"fields missing: {missing}, fields unknown: {extra}"
    if wrong := _wrongly_typed(tuple(_TYPES), tuple(map(type, _values(document)))):
        return f"wrong type: {', '.join(wrong)}"
    if document["kind"] not in _SIGNS:
        return f"unknown kind {document['kind']!r}"
    return ""


@lru_cache(maxsize=256)  # a sound ledger has a handful of combinations
def _wrongly_typed(names: tuple[str, ...], types: tuple[type, ...]) -> list[str]:
    return [name for name, type_ in zip(names, types, strict=True) if type_ not in _TYPES[name]]


def entry_faults(entry: Document, keys: MacKeyring) -> Iterator[Fault]:
    """Yield what is wrong with a well-formed entry in itself (L1, L2, L3, L5, L8)."""
    yield from content_faults(entry)
    if reason := entry_mac_fault(entry, keys):
        yield Fault("L8", reason)


def content_faults(entry: Document) -> Iterator[Fault]:
    """Yield what is wrong with a well-formed entry that came without its MAC (L1, L2, L3, L5)."""
    kind, amount, requested = entry["kind"], entry["amount_minor"], entry["requested_minor"]
    if not 0 < requested <= AMOUNT_MINOR_MAX or amount != _SIGNS[kind] * requested:
        yield Fault("L1", f"a {kind} of {requested} cannot move {amount}")
    if entry["balance_minor"] < 0:
        yield Fault("L2", f"the balance is {entry['balance_minor']}")
    if entry["hash"] != chain.digest_document(entry):
        yield Fault("L1", "the hash does not cover this content")
    # The operation id must say what the entry is, and the contra where the money comes from.
    transaction_id = entry["transaction_id"]
    stem, _, operation = entry["_id"].rpartition(":")
    if transaction_id is None:
        contra, operations = "external", _EXTERNAL_OPERATIONS[kind]
        fits = stem != "" and not stem.startswith(TRANSACTION_PREFIX)
    else:
        contra, operations = "clearing", _CLEARING_OPERATIONS[kind]
        fits = stem == transaction_id and stem.startswith(TRANSACTION_PREFIX)
    if not fits or operation not in operations:
        yield Fault("L3", f"operation id {entry['_id']!r} does not fit a {kind} of {transaction_id}")
    if entry["contra"] != contra:
        yield Fault("L5", f"the contra is {entry['contra']!r}, not {contra!r}")


def link_faults(previous: Document | None, entry: Document) -> Iterator[Fault]:
    """Yield what is wrong between an entry and the one before it in its wallet (L1)."""
    if previous is None:
        sequence, balance, hash_ = 1, 0, GENESIS_HASH
        if not _CURRENCY.fullmatch(entry["currency"]):
            yield Fault("L1", f"the currency is {entry['currency']!r}")
    else:
        sequence, balance, hash_ = previous["sequence"] + 1, previous["balance_minor"], previous["hash"]
        if entry["currency"] != previous["currency"]:
            yield Fault("L1", f"{entry['currency']} in a wallet of {previous['currency']}")
        if entry["created_at"] < previous["created_at"]:
            yield Fault("L1", "older than the entry before it")
    if entry["sequence"] != sequence:
        # What should have come before is unknown, so nothing can be said of the balance.
        yield Fault("L1", f"found where sequence {sequence} should be")
        return
    if entry["balance_minor"] != balance + entry["amount_minor"]:
        yield Fault("L1", f"balance {entry['balance_minor']} is not {balance} + {entry['amount_minor']}")
    if entry["previous_hash"] != hash_:
        yield Fault("L1", "does not chain to the hash before it")


def transaction_faults(legs: Mapping[str, Document]) -> Iterator[Fault]:
    """Yield what is wrong among one transaction's entries (L4), by operation: debit, credit, refund."""
    debit, credit, refund = legs.get("debit"), legs.get("credit"), legs.get("refund")
    settlements = [leg for leg in (credit, refund) if leg is not None]
    if credit and refund:
        yield Fault("L4", "settled twice: by a credit and by a refund")
    if not settlements:
        return
    if debit is None or debit["kind"] != Kind.DEBIT:
        yield Fault("L4", "settled without a debit")
        return
    for settlement in settlements:
        if settlement["requested_minor"] != debit["requested_minor"]:
            yield Fault(
                "L4", f"debited {debit['requested_minor']} but settled {settlement['requested_minor']}"
            )
        if settlement["currency"] != debit["currency"]:
            yield Fault("L4", f"debited {debit['currency']} but settled {settlement['currency']}")
    if credit and credit["wallet_id"] == debit["wallet_id"]:
        yield Fault("L4", "credited to the wallet it was debited from")
    if refund and refund["wallet_id"] != debit["wallet_id"]:
        yield Fault("L4", f"refunded to {refund['wallet_id']}, debited from {debit['wallet_id']}")


def agreement_faults(fact: TransactionFact | None, legs: Mapping[str, Document]) -> Iterator[Fault]:
    """Yield where a transaction is not PayFlow's (L8), or contradicts its entries (L4, L7).

    The ledger leads the status: an entry may be ahead of it, never behind. The settlement leads the ledger.
    """
    if fact is None:
        if legs:
            yield Fault("L7", "entries of a transaction that does not exist")
        return
    if fact.mac_fault:
        yield Fault("L8", f"a transaction that PayFlow has not written: {fact.mac_fault}")
    if fact.is_abandoned:
        yield Fault("L7", f"still {fact.status}, and recovery will not look at it")
    debited = "debit" in legs and legs["debit"]["kind"] == Kind.DEBIT
    if fact.status == "FAILED" and not fact.refunded and "debit" not in legs:
        yield Fault("L7", "FAILED without the entry that declined it")
    required, excluded = _demands(fact)
    held = {name for name in legs if name != "debit" or debited}
    for name in sorted(required - held):
        yield Fault("L7", f"{fact.status} without a {name}")
    for name in sorted(excluded & held):
        yield Fault("L7", f"{fact.status} with a {name}")
    decided = {"credit": "CREDIT", "refund": "REFUND"}
    for name in sorted(held & decided.keys()):
        if fact.settlement != decided[name]:
            yield Fault("L4", f"a {name}, where the decision was {fact.settlement or 'not yet made'}")
    sides = {
        "debit": fact.sender_wallet_id,
        "credit": fact.receiver_wallet_id,
        "refund": fact.sender_wallet_id,
    }
    for name, leg in legs.items():
        if leg["wallet_id"] != sides.get(name):
            yield Fault("L7", f"the {name} is in wallet {leg['wallet_id']}, not {sides.get(name)}")
        if (leg["requested_minor"], leg["currency"]) != (fact.amount_minor, fact.currency):
            moved = f"{leg['requested_minor']} {leg['currency']}"
            yield Fault("L7", f"the {name} is {moved}, the transaction {fact.amount_minor} {fact.currency}")


def _demands(fact: TransactionFact) -> tuple[set[str], set[str]]:
    """Return which operations a status requires and which it excludes."""
    match fact.status:
        case "COMPLETED" | "CREDITED":
            return {"debit", "credit"}, {"refund"}
        case "DEBITED":
            return {"debit"}, {"refund"}
        case "REFUNDING":
            return {"debit"}, {"credit"}
        case "FAILED" if fact.refunded:
            return {"debit", "refund"}, {"credit"}
        case "FAILED":
            return set(), {"debit", "credit", "refund"}
        case _:
            return set(), {"credit", "refund"}


def legs_of(entries: Iterable[Document]) -> dict[str, Document]:
    """Return one transaction's entries by operation, without those that `malformation` has reported."""
    return {entry["_id"].rpartition(":")[2]: entry for entry in entries if _is_leg(entry)}


def _is_leg(entry: Document) -> bool:
    present = len(entry) == len(LEG_FIELDS) + 1
    return present and not _wrongly_typed(LEG_FIELDS, tuple(map(type, _leg_values(entry))))
