"""What makes a receipt genuine and true in itself: its signature, shape, outcome, entries and heads. Pure.

Times are not compared with each other: the clocks of different machines may differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from itertools import pairwise
from typing import Any

from ledger.chain import GENESIS_HASH, SIGNS, Contra, Entry, Kind
from ledger.verification import content_faults, link_faults
from payflow import clock
from payflow.money import EXPONENTS, format_amount
from payflow.signing import BadSignature, Keyring, from_base64url
from transfers.receipts import (
    SALT_BYTES,
    SCHEMA,
    TYP,
    Part,
    Reader,
    disclosed_wallets,
    entry_of,
    is_disclosed,
)
from transfers.states import Settlement, Status

# How a transaction can end, and the entries it then has: (operation, kind, whose wallet).
_OUTCOMES: dict[tuple[str, str | None, bool | None], tuple[tuple[str, Kind, str], ...]] = {
    (Status.COMPLETED, Settlement.CREDIT, None): (
        ("debit", Kind.DEBIT, "sender"),
        ("credit", Kind.CREDIT, "receiver"),
    ),
    (Status.FAILED, Settlement.REFUND, True): (
        ("debit", Kind.DEBIT, "sender"),
        ("refund", Kind.REFUND, "sender"),
    ),
    (Status.FAILED, None, False): (("debit", Kind.DECLINED, "sender"),),
}

Test = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _matches(pattern: str) -> Test:
    compiled = re.compile(pattern, re.ASCII)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def _time(value: Any) -> bool:
    try:
        return isinstance(value, str) and clock.rfc3339(clock.read_rfc3339(value)) == value
    except (ValueError, OverflowError):
        return False


def _salt(value: Any) -> bool:
    try:
        return isinstance(value, str) and len(from_base64url(value)) == SALT_BYTES
    except ValueError:
        return False


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _one_of(values: type[StrEnum]) -> Test:
    return lambda value: isinstance(value, str) and value in {member.value for member in values}


_minor = _matches(r"0|-?[1-9][0-9]{0,18}")
_sha256 = _matches(r"[0-9a-f]{64}")

_RECEIPT: dict[str, Test] = {
    "schema": lambda value: value == SCHEMA,
    "issuer": _text,
    "issued_at": _time,
    "issued_to": _one_of(Reader),
    "transaction": lambda value: isinstance(value, dict),
    "entries": lambda value: isinstance(value, list),
    "heads": lambda value: isinstance(value, list),
}
_TRANSACTION: dict[str, Test] = {
    **dict.fromkeys(("id", "sender_id", "receiver_id", "sender_wallet_id", "receiver_wallet_id"), _text),
    "currency": lambda value: isinstance(value, str) and value in EXPONENTS,
    "status": _text,
    "amount": _text,
    "amount_minor": _minor,
    "settlement": lambda value: value is None or isinstance(value, str),
    "failure": lambda value: value is None or not any(_misfits(value, _FAILURE, "")),
    "initiated_at": _time,
    "completed_at": _time,
}
_FAILURE: dict[str, Test] = {"code": _text, "detail": _text, "refunded": lambda v: isinstance(v, bool)}
_SEALED: dict[str, Test] = {
    **dict.fromkeys(("id", "wallet_id", "currency"), _text),
    "kind": _one_of(Kind),
    "amount_minor": _minor,
    "commitment": _sha256,
}
_DISCLOSED: dict[str, Test] = {
    **dict.fromkeys(("id", "wallet_id", "currency", "transaction_id", "reason"), _text),
    "sequence": _count,
    "kind": _one_of(Kind),
    **dict.fromkeys(("amount_minor", "balance_minor", "requested_minor"), _minor),
    "contra": _one_of(Contra),
    "created_at": _time,
    **dict.fromkeys(("previous_hash", "hash"), _sha256),
    "salt": _salt,
}
_HEAD: dict[str, Test] = {"wallet_id": _text, "sequence": _count, "hash": _sha256}


def faults(receipt: Part) -> list[str]:
    """Return what is wrong with a receipt, as sentences; none when it is true in itself."""
    return [*_shape_faults(receipt)] or [
        *_transaction_faults(receipt["transaction"]),
        *_entries_faults(receipt),
        *_chain_faults(receipt),
    ]


def _misfits(part: Any, tests: Mapping[str, Test], name: str) -> Iterator[str]:
    if not isinstance(part, dict) or part.keys() != tests.keys():
        yield f"{name or 'The receipt'} does not have exactly the fields {', '.join(tests)}."
        return
    for field, test in tests.items():
        if not test(part[field]):
            yield f"{name and name + '.'}{field} is not what a receipt holds there."


def _shape_faults(receipt: Part) -> Iterator[str]:
    wrong = [*_misfits(receipt, _RECEIPT, "")]
    yield from wrong
    if wrong:
        return
    yield from _misfits(receipt["transaction"], _TRANSACTION, "transaction")
    for number, part in enumerate(receipt["entries"]):
        sealed = isinstance(part, dict) and not is_disclosed(part)
        yield from _misfits(part, _SEALED if sealed else _DISCLOSED, f"entries[{number}]")
    for number, part in enumerate(receipt["heads"]):
        yield from _misfits(part, _HEAD, f"heads[{number}]")


def _expected(transaction: Part) -> tuple[tuple[str, Kind, str], ...] | None:
    failure = transaction["failure"]
    refunded = failure["refunded"] if failure else None
    return _OUTCOMES.get((transaction["status"], transaction["settlement"], refunded))


def _transaction_faults(transaction: Part) -> Iterator[str]:
    amount = int(transaction["amount_minor"])
    if amount <= 0 or transaction["amount"] != format_amount(amount, transaction["currency"]):
        yield f"The amount {transaction['amount']} is not {amount} minor units."
    for what in ("id", "wallet_id"):
        if transaction[f"sender_{what}"] == transaction[f"receiver_{what}"]:
            yield f"Sender and receiver have the same {what}."
    if _expected(transaction) is None:
        yield "The status, the settlement and the failure do not belong together."


def _entries_faults(receipt: Part) -> Iterator[str]:
    """Every entry is the one that this outcome calls for: what was debited was credited or given back."""
    transaction, parts = receipt["transaction"], receipt["entries"]
    expected = _expected(transaction)
    if expected is None:
        return
    if len(parts) != len(expected):
        yield f"{transaction['status']} calls for {len(expected)} entries, not {len(parts)}."
        return
    own = disclosed_wallets(transaction, receipt["issued_to"])
    for part, (operation, kind, side) in zip(parts, expected, strict=True):
        wallet_id = transaction[f"{side}_wallet_id"]
        wanted = {
            "id": f"{transaction['id']}:{operation}",
            "wallet_id": wallet_id,
            "kind": kind.value,
            "amount_minor": str(SIGNS[kind] * int(transaction["amount_minor"])),
            "currency": transaction["currency"],
        }
        for field, value in wanted.items():
            if part[field] != value:
                yield f"The {operation}'s {field} is {part[field]}, where the transaction calls for {value}."
        if is_disclosed(part) != (wallet_id in own):
            yield f"The {operation} is not in the form that the {receipt['issued_to']} is given."
        if is_disclosed(part):
            yield from _disclosed_faults(part, operation, transaction)


def _disclosed_faults(part: Part, operation: str, transaction: Part) -> Iterator[str]:
    entry = entry_of(part)
    for fault in content_faults(entry.to_document()):
        yield f"The {operation} breaks {fault.invariant}: {fault.detail}."
    if entry.requested_minor != int(transaction["amount_minor"]):
        yield f"The {operation} was asked for {entry.requested_minor} minor units."
    declined = entry.kind is Kind.DECLINED
    if entry.reason != (transaction["failure"]["code"] if declined else ""):
        yield f"The {operation}'s reason {entry.reason!r} is not the transaction's."


def _chain_faults(receipt: Part) -> Iterator[str]:
    """The disclosed entries stand in their wallets' chains, not behind the heads."""
    own = disclosed_wallets(receipt["transaction"], receipt["issued_to"])
    if [head["wallet_id"] for head in receipt["heads"]] != own:
        yield "The heads are not those of the wallets that the reader may see."
        return
    for head in receipt["heads"]:
        wallet_id, sequence = head["wallet_id"], head["sequence"]
        disclosed = [part for part in receipt["entries"] if is_disclosed(part)]
        entries = [entry_of(part) for part in disclosed if part["wallet_id"] == wallet_id]
        if (sequence == 0) != (head["hash"] == GENESIS_HASH):
            yield f"The head of {wallet_id} is at {sequence} and cannot have this hash."
        yield from _order_faults(entries, wallet_id)
        if entries and sequence < entries[-1].sequence:
            yield f"The head of {wallet_id} is at {sequence}, behind its own entry {entries[-1].sequence}."
        if any(e.sequence == sequence and e.hash != head["hash"] for e in entries):
            yield f"The head of {wallet_id} is not the entry that stands there."


def _order_faults(entries: list[Entry], wallet_id: str) -> Iterator[str]:
    for entry in entries:
        if entry.sequence == 1 or entry.previous_hash == GENESIS_HASH:
            for fault in link_faults(None, entry.to_document()):
                yield f"The beginning of {wallet_id} breaks {fault.invariant}: {fault.detail}."
    for earlier, later in pairwise(entries):
        if later.sequence <= earlier.sequence:
            yield f"In {wallet_id} the refund comes before the debit."
        elif later.sequence == earlier.sequence + 1:
            for fault in link_faults(earlier.to_document(), later.to_document()):
                yield f"In {wallet_id} the refund does not follow the debit: {fault.detail}."


def verify(receipt: Part, signature: str, keys: Keyring) -> list[str]:
    """Return why a receipt must not be believed: its signature first; none when it is genuine and true."""
    try:
        keys.verify(receipt, signature, typ=TYP)
        reasons = []
    except BadSignature as error:
        reasons = [str(error)]
    return reasons + faults(receipt)
