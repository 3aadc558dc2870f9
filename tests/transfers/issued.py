"""Receipts of transactions with each outcome, and what forges them: for the tests of receipts."""

from __future__ import annotations

import copy
import hashlib
import json
from datetime import datetime
from typing import Any

from payflow import clock, signing
from payflow.signing import Keyring
from tests.transfers import world
from transfers import issuing, receipt_rules, saga
from transfers.receipts import TYP, Reader
from wallets import services as wallet_services

Document = dict[str, Any]
SENDER, RECEIVER, STAFF = Reader.SENDER, Reader.RECEIVER, Reader.STAFF
ALICE_HOLDS, BOB_HOLDS, PAID = 7_654_321, 3_141_592, 2_500
A = "a:" + signing.to_base64url(bytes([1]) * 32)
B = "b:" + signing.to_base64url(bytes([2]) * 32)
RING = signing.read_keys([A])


# What an entry's hash covers between its id and its transaction.
HASHED = (
    "wallet_id", "sequence", "kind", "amount_minor", "balance_minor", "requested_minor", "currency", "contra",
)  # fmt: skip


def completed(alice: str, bob: str) -> str:
    transaction = world.start(alice, bob, PAID)
    world.play(transaction)
    return transaction


def declined(alice: str, bob: str) -> str:
    transaction = world.start(alice, bob, ALICE_HOLDS + 1)
    world.play(transaction)
    return transaction


def refunded(alice: str, bob: str) -> str:
    transaction = world.start(alice, bob, PAID)
    taken = saga.debit([transaction])
    wallet_services.freeze_wallets(user_id=bob)
    saga.refund(saga.credit(taken).refused)
    return transaction


OUTCOMES = {"completed": completed, "declined": declined, "refunded": refunded}


def issue(transaction: str, reader: Reader = SENDER, keys: Keyring = RING) -> Document:
    row = world.row_of(transaction)
    return issuing.issue_receipt(row=row, reader=reader, keys=keys, issuer="payflow-tests")


def verdict(document: Document, keys: Keyring = RING) -> list[str]:
    # Through JSON: what counts is the file that somebody holds.
    read = json.loads(json.dumps(document))
    return receipt_rules.verify(read["receipt"], read["signature"], keys)


def resigned(receipt: Document) -> Document:
    return {"receipt": receipt, "signature": RING.sign(receipt, typ=TYP)}


def changed(document: Document, path: tuple, value: Any) -> Document:
    copied = copy.deepcopy(document)
    holder = copied
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value
    return copied


def hash_by_hand(part: Document) -> str:
    """What docs/receipts.md tells a reader to do."""
    names = ["id", *HASHED]
    content = [int(part[n]) if n.endswith("_minor") else part[n] for n in names]
    instant = datetime.fromisoformat(part["created_at"])
    content += [part["transaction_id"], part["reason"], clock.epoch_ms(instant), part["previous_hash"]]
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def digest_of(document: Document) -> str:
    names = ["_id", *HASHED]
    content = [document[name] for name in (*names, "transaction_id", "reason")]
    content += [clock.epoch_ms(document["created_at"]), document["previous_hash"]]
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
