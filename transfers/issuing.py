"""Issuing receipts, and comparing them with the ledger they speak of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ledger import selectors as ledger
from ledger.chain import Entry
from ledger.errors import Unreadable
from ledger.keys import transaction_mac_fault
from ledger.selectors import BrokenEntry
from payflow import clock
from payflow.signing import Key, Keyring, UnusableKeys
from transfers import receipt_rules, receipts, selectors
from transfers.receipts import OPERATIONS, Part, Reader


class LedgerDisagrees(Exception):  # noqa: N818 - it reads as what happened
    """The ledger does not bear out an ended transaction: nothing is signed, the audit must look at it."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the ledger contradicts, and what could not be compared, as sentences."""

    contradictions: list[str]
    not_compared: list[str]


def issue_receipt(*, row: Mapping[str, Any], reader: Reader, keys: Keyring, issuer: str) -> dict[str, Any]:
    """Return {receipt, signature} of an ended transaction. Raises LedgerDisagrees or Transient."""
    if reason := transaction_mac_fault(row):
        raise LedgerDisagrees(f"no receipt of {row['_id']}: {reason}")
    own = receipts.disclosed_wallets(row, reader)
    # Heads last, so that none is behind an entry.
    entries = _proven(ledger.read_entries(_operation_ids(row["_id"])))
    heads = _proven(ledger.read_heads(own))
    receipt = receipts.compose(
        row=row,
        entries=entries,
        heads=heads,
        reader=reader,
        issuer=issuer,
        issued_at=clock.now(),
        salt_of=_salts(keys.signer),
    )
    if wrong := receipt_rules.faults(receipt):
        raise LedgerDisagrees(f"no receipt of {row['_id']}: {' '.join(wrong)}")
    return {"receipt": receipt, "signature": keys.sign(receipt, typ=receipts.TYP)}


def compare_with_ledger(*, receipt: Part, key: Key | None) -> Comparison:
    """Compare a receipt that is true in itself with what is stored here. Raises Transient.

    `key` is this installation's key of the name that signed; its private part opens what is sealed.
    """
    transaction = receipt["transaction"]
    row = selectors.find_transaction(transaction_id=transaction["id"])
    if row is None:
        return Comparison([f"There is no transaction {transaction['id']} here."], [])
    contradictions = []
    if reason := transaction_mac_fault(row):
        contradictions.append(f"The transaction stored here is not as PayFlow has written it: {reason}.")
    if row.get("completed_at") is None or receipts.transaction_part(row) != transaction:
        contradictions.append("The transaction stored here is another one than the receipt shows.")
    stored = ledger.read_entries(_operation_ids(transaction["id"]))
    shown = {part["id"] for part in receipt["entries"]}
    contradictions += [
        f"The ledger has {id_}, the receipt does not." for id_ in sorted(stored.keys() - shown)
    ]
    salt_of = _salts(key) if key and key.private else None
    for part in receipt["entries"]:
        contradictions += _contradictions(part, stored.get(part["id"]), salt_of)
    for head in receipt["heads"]:
        contradictions += _head_contradictions(head)
    is_sealed = not all(map(receipts.is_disclosed, receipt["entries"]))
    notes = ["Sealed entries were not compared: the signing key is not here."] if not salt_of else []
    return Comparison(contradictions, notes if is_sealed else [])


def _proven(found: Mapping[str, Entry | BrokenEntry]) -> dict[str, Entry]:
    """Return entries if PayFlow has written all of them. Raises LedgerDisagrees."""
    entries = {}
    for id_, entry in found.items():
        if isinstance(entry, BrokenEntry):
            raise LedgerDisagrees(f"no receipt over {id_}: {entry.reason}")
        entries[id_] = entry
    return entries


def _operation_ids(transaction_id: str) -> list[str]:
    return [f"{transaction_id}:{operation}" for operation in OPERATIONS]


def _salts(key: Key) -> Callable[[str], bytes]:
    secret = key.derive_secret(receipts.SALT_PURPOSE)
    if secret is None:
        raise UnusableKeys("a public key makes no salts")
    return receipts.salt_from(secret)


def _contradictions(
    part: Part, entry: Entry | BrokenEntry | None, salt_of: Callable[[str], bytes] | None
) -> Iterator[str]:
    if entry is None:
        yield f"The ledger has no {part['id']}."
        return
    if isinstance(entry, BrokenEntry):
        yield f"The ledger's {part['id']} is not as PayFlow has written it: {entry.reason}."
        return
    if receipts.is_disclosed(part):
        is_same = receipts.entry_of(part) == entry
    elif salt_of:
        is_same = receipts.commitment(salt_of(entry.id), entry.hash) == part["commitment"]
    else:
        is_same = (part["wallet_id"], part["amount_minor"]) == (entry.wallet_id, str(entry.amount_minor))
    if not is_same:
        yield f"The ledger's {entry.id} is another one than the receipt shows."


def _head_contradictions(head: Part) -> Iterator[str]:
    """The head must still be where it stood; `manage.py audit --wallet` verifies what was added behind it."""
    wallet_id, sequence = head["wallet_id"], head["sequence"]
    if sequence == 0:
        return
    try:
        found = ledger.list_entries(wallet_id=wallet_id, limit=1, before_sequence=sequence + 1)
    except Unreadable:
        yield f"Entry {sequence} of {wallet_id} is not as PayFlow has written it."
        return
    if not found or found[0].sequence != sequence:
        yield f"The ledger has lost entry {sequence} of {wallet_id}."
    elif head["hash"] != found[0].hash:
        yield f"Entry {sequence} of {wallet_id} is no longer the one that the receipt remembers."
