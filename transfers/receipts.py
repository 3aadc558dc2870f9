"""What a receipt says. Pure: no database, clock or setting; `transfers/receipt_rules.py` judges what is said.

A receipt of an ended transaction is for one reader: its sender, its receiver, or staff. It holds the
transaction, its ledger entries, and the head of the reader's own chain when it was issued.

What must stay true: nobody learns another's balance from a receipt. So an entry has one of two forms.
- Disclosed, to the wallet's owner: everything its hash covers, so that anyone can compute the hash again.
- Sealed, to the other party: which operation it is and what it moved, which both know, and a commitment.

Leaving out `balance_minor` alone would not do. The hash covers it, a balance has few likely values, and who
knows the rest of an entry can try them all; the other party knows that rest where one payment to it follows
another, or where its own payment was a wallet's first. A sequence tells how busy a wallet is, and a head
tells whoever asks twice whether it has moved since. So a sealed entry has none of these, and its commitment
is SHA-256(salt | hash) with a salt that only the owner is given: the idea of SD-JWT (RFC 9901). It still
binds: PayFlow cannot rewrite the entry without breaking what the other party holds, and two receipts of one
transaction, signed with the same key, can be laid side by side to see that they speak of the same entry.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from ledger.chain import GENESIS_HASH, Contra, Entry, Kind
from payflow import clock
from payflow.money import format_amount
from payflow.signing import to_base64url

SCHEMA = "payflow.receipt/1"
TYP = "payflow-receipt+jws"
SALT_PURPOSE = "payflow receipt salts"
SALT_BYTES = 32

Part = Mapping[str, Any]


class Reader(StrEnum):
    """Whom a receipt is for."""

    SENDER = "sender"
    RECEIVER = "receiver"
    STAFF = "staff"


OPERATIONS = ("debit", "credit", "refund")


# --- Writing a receipt ------------------------------------------------------------------------------------


def disclosed_wallets(transaction: Part, reader: str) -> list[str]:
    """Return the wallets whose entries and heads this reader may see in full."""
    sides = (Reader.SENDER, Reader.RECEIVER)
    return [transaction[f"{side.value}_wallet_id"] for side in sides if reader in (side, Reader.STAFF)]


def transaction_part(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return an ended transaction as its receipts show it."""
    failure = row.get("failure")
    names = ("sender_id", "receiver_id", "sender_wallet_id", "receiver_wallet_id", "currency", "status")
    return {
        "id": row["_id"],
        **{name: row[name] for name in names},
        "amount": format_amount(row["amount_minor"], row["currency"]),
        "amount_minor": str(row["amount_minor"]),
        "settlement": row.get("settlement"),
        "failure": {name: failure[name] for name in ("code", "detail", "refunded")} if failure else None,
        "initiated_at": clock.rfc3339(row["initiated_at"]),
        "completed_at": clock.rfc3339(row["completed_at"]),
    }


def compose(
    *,
    row: Mapping[str, Any],
    entries: Mapping[str, Entry],
    heads: Mapping[str, Entry],
    reader: Reader,
    issuer: str,
    issued_at: datetime,
    salt_of: Callable[[str], bytes],
) -> dict[str, Any]:
    """Return the receipt of an ended transaction: `entries` by operation id, `heads` by wallet."""
    transaction = transaction_part(row)
    own = disclosed_wallets(transaction, reader)
    found = [entries[id_] for op in OPERATIONS if (id_ := f"{transaction['id']}:{op}") in entries]
    return {
        "schema": SCHEMA,
        "issuer": issuer,
        "issued_at": clock.rfc3339(issued_at),
        "issued_to": reader.value,
        "transaction": transaction,
        "entries": [(_disclosed if e.wallet_id in own else _sealed)(e, salt_of(e.id)) for e in found],
        "heads": [_head(wallet_id, heads.get(wallet_id)) for wallet_id in own],
    }


def salt_from(secret: bytes) -> Callable[[str], bytes]:
    """Return the function from an entry's id to its salt, which nobody can guess without the secret."""
    return lambda entry_id: hmac.digest(secret, entry_id.encode(), "sha256")


def commitment(salt: bytes, entry_hash: str) -> str:
    """Return what binds to an entry without telling anything about it, in hex."""
    return hashlib.sha256(salt + bytes.fromhex(entry_hash)).hexdigest()


def _disclosed(entry: Entry, salt: bytes) -> dict[str, Any]:
    minor = ("amount_minor", "balance_minor", "requested_minor")
    return {
        "id": entry.id,
        "wallet_id": entry.wallet_id,
        "sequence": entry.sequence,
        "kind": entry.kind.value,
        # int64 does not fit the numbers of JSON that every parser reads alike.
        **{name: str(getattr(entry, name)) for name in minor},
        "currency": entry.currency,
        "contra": entry.contra.value,
        "transaction_id": entry.transaction_id,
        "reason": entry.reason,
        "created_at": clock.rfc3339(entry.created_at),
        "previous_hash": entry.previous_hash,
        "hash": entry.hash,
        "salt": to_base64url(salt),
    }


def _sealed(entry: Entry, salt: bytes) -> dict[str, Any]:
    return {
        "id": entry.id,
        "wallet_id": entry.wallet_id,
        "kind": entry.kind.value,
        "amount_minor": str(entry.amount_minor),
        "currency": entry.currency,
        "commitment": commitment(salt, entry.hash),
    }


def _head(wallet_id: str, head: Entry | None) -> dict[str, Any]:
    if head is None:
        return {"wallet_id": wallet_id, "sequence": 0, "hash": GENESIS_HASH}
    return {"wallet_id": wallet_id, "sequence": head.sequence, "hash": head.hash}


# --- Reading a receipt ------------------------------------------------------------------------------------


def is_disclosed(part: Part) -> bool:
    """Say whether an entry shows all that its hash covers."""
    return "commitment" not in part


def entry_of(part: Part) -> Entry:
    """Return the ledger entry that a well-formed disclosed part stands for."""
    minor = {name: int(part[name]) for name in ("amount_minor", "balance_minor", "requested_minor")}
    values = {name: value for name, value in part.items() if name != "salt"} | minor
    values["kind"], values["contra"] = Kind(part["kind"]), Contra(part["contra"])
    values["created_at"] = clock.read_rfc3339(part["created_at"])
    return Entry(**values)
