"""The arithmetic of the ledger: which entries follow which. Pure: no database, clock or setting.

What must stay true of a wallet's chain: sequences 1..n, balance = previous balance + amount, no balance
below zero, times that never go back, and each hash covers the entry and the hash before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from json.encoder import encode_basestring_ascii as _text
from operator import itemgetter
from typing import Any, NamedTuple

from payflow import clock, money

GENESIS_HASH = "0" * 64


class Kind(StrEnum):
    """What an entry does to its wallet."""

    DEPOSIT = "DEPOSIT"
    WITHDRAWAL = "WITHDRAWAL"
    DEBIT = "DEBIT"
    CREDIT = "CREDIT"
    REFUND = "REFUND"
    DECLINED = "DECLINED"


class Contra(StrEnum):
    """The other side of the double entry."""

    EXTERNAL = "external"
    CLEARING = "clearing"


class Reason(StrEnum):
    """Why an operation was declined, where the ledger itself decided."""

    INSUFFICIENT_BALANCE = "insufficient_balance"
    BALANCE_LIMIT = "balance_limit"


SIGNS = {
    Kind.DEPOSIT: 1,
    Kind.CREDIT: 1,
    Kind.REFUND: 1,
    Kind.WITHDRAWAL: -1,
    Kind.DEBIT: -1,
    Kind.DECLINED: 0,
}
EXTERNAL_KINDS = frozenset({Kind.DEPOSIT, Kind.WITHDRAWAL})


@dataclass(frozen=True, slots=True)
class Posting:
    """A wish to change a wallet: `amount_minor` is positive, its `kind` gives the sign.

    A posting of kind DECLINED records a refusal that was decided elsewhere (an expired transaction, a
    frozen wallet) under the same operation id that the debit would have had, so the two exclude each other.
    """

    operation_id: str
    wallet_id: str
    kind: Kind
    amount_minor: int
    currency: str
    transaction_id: str | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.amount_minor <= money.AMOUNT_MINOR_MAX:
            raise ValueError(f"{self.operation_id}: amount_minor {self.amount_minor} is out of range")


class Entry(NamedTuple):
    """One fact about one wallet. Amounts in minor units; `amount_minor` is signed, 0 when DECLINED.

    The fields stand in the order in which they are hashed. A tuple, because posting makes hundreds a batch.
    """

    id: str
    wallet_id: str
    sequence: int
    kind: Kind
    amount_minor: int
    balance_minor: int
    requested_minor: int
    currency: str
    contra: Contra
    transaction_id: str | None
    reason: str
    created_at: datetime
    previous_hash: str
    hash: str = ""

    def to_document(self) -> dict[str, Any]:
        """Return the entry as MongoDB stores it, without the MAC that posting adds."""
        document: dict[str, Any] = dict(zip(_NAMES, self, strict=True))
        document["kind"], document["contra"] = self.kind.value, self.contra.value
        return document


_NAMES = ("_id", *Entry._fields[1:])
_stored_values = itemgetter(*_NAMES)
_KIND, _CONTRA = Entry._fields.index("kind"), Entry._fields.index("contra")


def from_document(document: dict[str, Any]) -> Entry:
    """Return the entry that a stored document holds, without its MAC. Raises KeyError or ValueError."""
    entry_values = list(_stored_values(document))
    entry_values[_KIND], entry_values[_CONTRA] = Kind(entry_values[_KIND]), Contra(entry_values[_CONTRA])
    return Entry(*entry_values)


_hashed_values = itemgetter(*_NAMES[:-1])


def digest(entry: Entry) -> str:
    """Return the SHA-256, in hex, of the entry's canonical content: a JSON array in a fixed order."""
    return _digest(entry[:-1])


def digest_document(document: Mapping[str, Any]) -> str:
    """Return the digest of a stored entry whose fields have the right types; the same as `digest`."""
    return _digest(_hashed_values(document))


def _digest(content: tuple[Any, ...]) -> str:
    (
        id_, wallet_id, sequence, kind, amount, balance, requested, currency, contra, transaction_id, reason,
        created_at, previous_hash,
    ) = content  # fmt: skip
    # As json.dumps writes it without blanks, at a third of the cost.
    canonical = (
        f"[{_text(id_)},{_text(wallet_id)},{sequence:d},{_text(kind)},{amount:d},{balance:d},{requested:d},"
        f"{_text(currency)},{_text(contra)},{'null' if transaction_id is None else _text(transaction_id)},"
        f"{_text(reason)},{clock.epoch_ms(created_at)},{_text(previous_hash)}]"
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def extend(head: Entry | None, postings: Sequence[Posting], now: datetime) -> list[Entry]:
    """Return the entries that `postings`, in order, add behind `head`.

    A debit or withdrawal beyond the balance, or a deposit beyond what a wallet may hold, becomes DECLINED.
    A posting that can become no entry at all (another currency, a settlement beyond int64) is left out:
    the caller finds it missing and everybody else's money moves on.
    """
    entries: list[Entry] = []
    for posting in postings:
        if head and head.currency != posting.currency:
            continue
        entry = _next_entry(head, posting, now)
        if entry.balance_minor > money.INT64_MAX:
            continue
        entries.append(entry)
        head = entry
    return entries


def _next_entry(head: Entry | None, posting: Posting, now: datetime) -> Entry:
    balance = head.balance_minor if head else 0
    kind, reason = _decide(balance, posting)
    amount = SIGNS[kind] * posting.amount_minor
    # In the order of the fields and of what is hashed, which is the same.
    content = (
        posting.operation_id,
        posting.wallet_id,
        head.sequence + 1 if head else 1,
        kind,
        amount,
        balance + amount,
        posting.amount_minor,
        posting.currency,
        Contra.CLEARING if posting.transaction_id else Contra.EXTERNAL,
        posting.transaction_id,
        reason,
        max(now, head.created_at) if head else now,
        head.hash if head else GENESIS_HASH,
    )
    return Entry(*content, hash=_digest(content))


def _decide(balance_minor: int, posting: Posting) -> tuple[Kind, str]:
    after = balance_minor + SIGNS[posting.kind] * posting.amount_minor
    if after < 0:
        return Kind.DECLINED, Reason.INSUFFICIENT_BALANCE.value
    if posting.kind is Kind.DEPOSIT and after > money.BALANCE_MINOR_SOFT_MAX:
        return Kind.DECLINED, Reason.BALANCE_LIMIT.value
    return posting.kind, posting.reason


def answers(entry: Entry, posting: Posting) -> bool:
    """Say whether `entry` is the outcome of `posting`, and not of another one under the same operation id."""
    return (
        entry.wallet_id == posting.wallet_id
        and entry.requested_minor == posting.amount_minor
        and entry.kind in (posting.kind, Kind.DECLINED)
    )
