"""Receipts for the OpenAPI document: what `transfers/receipts.py` composes, as JSON schemas."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ledger import chain
from ledger.chain import Contra, Kind, Posting
from payflow.api.describing import CURRENCY, EXAMPLE_KEYS, HASH, MONEY, TIME, Model, nullable, record, text
from transfers import receipts
from transfers.receipts import SCHEMA, Reader
from transfers.states import TERMINAL, Settlement

MINOR = text(
    "Minor units, as a decimal string: int64 does not fit every parser's numbers.", pattern=r"^-?\d+$"
)
_KIND = text("What it did.", enum=[kind.value for kind in Kind])

_TRANSACTION = record(
    "The transaction that the receipt is of.",
    id=text("Its id."),
    sender_id=text("The user who paid."),
    receiver_id=text("The user who was paid."),
    sender_wallet_id=text("Where it was taken from."),
    receiver_wallet_id=text("Where it went."),
    currency=CURRENCY,
    status=text("How it ended.", enum=sorted(TERMINAL)),
    amount=MONEY,
    amount_minor=MINOR,
    settlement=nullable(text("How it was settled; null when it was declined.", enum=list(Settlement))),
    failure=nullable(
        record(
            "Why it failed.",
            code=text("A stable word."),
            detail=text("A sentence for people."),
            refunded={"type": "boolean", "description": "Whether money was given back."},
        )
    ),
    initiated_at=TIME,
    completed_at=TIME,
)
_DISCLOSED = record(
    "An entry of one's own wallet, with all that its hash covers.",
    id=text("The operation's id."),
    wallet_id=text("Whose ledger it is in."),
    sequence={"type": "integer", "minimum": 1, "description": "Its number there."},
    kind=_KIND,
    amount_minor=MINOR,
    balance_minor=MINOR,
    requested_minor=MINOR,
    currency=CURRENCY,
    contra=text("The other side.", enum=[contra.value for contra in Contra]),
    transaction_id=text("The transaction's id."),
    reason=text("Why it was declined; else empty."),
    created_at=TIME,
    previous_hash=HASH,
    hash=HASH,
    salt=text("What the other party's commitment was made with, in base64url."),
)
_SEALED = record(
    "An entry of the other party's wallet, which shows nothing of its balance.",
    id=text("The operation's id."),
    wallet_id=text("Whose ledger it is in."),
    kind=_KIND,
    amount_minor=MINOR,
    currency=CURRENCY,
    commitment={**HASH, "description": "SHA-256 of salt and hash: binds to the entry."},
)
_HEAD = record(
    "Where the reader's own ledger stood when the receipt was issued.",
    wallet_id=text("The wallet."),
    sequence={"type": "integer", "minimum": 0, "description": "Its newest entry; 0 when it had none."},
    hash=HASH,
)
RECEIPT = Model(
    "SignedReceipt",
    record(
        "A receipt and what proves it.",
        receipt=record(
            "What happened.",
            schema=text("The version of this form.", const=SCHEMA),
            issuer=text("Who issued it."),
            issued_at=TIME,
            issued_to=text("Whom it is for.", enum=[reader.value for reader in Reader]),
            transaction=_TRANSACTION,
            entries={
                "type": "array",
                "maxItems": 3,
                "items": {"oneOf": [_DISCLOSED, _SEALED]},
                "description": "The transaction's ledger entries, in order.",
            },
            heads={
                "type": "array",
                "maxItems": 2,
                "items": _HEAD,
                "description": "The newest entries of the reader's own wallets.",
            },
        ),
        signature=text(
            "A detached JWS (RFC 7515, appendix F; EdDSA) over the receipt as canonical JSON (RFC 8785).",
            pattern=r"^[A-Za-z0-9_-]+\.\.[A-Za-z0-9_-]+$",
        ),
    ),
)

# Seconds and milliseconds within one minute.
_MOMENTS = [(22, 481), (23, 919), (23, 929), (23, 947), (23, 967), (58, 0)]


def _example() -> dict[str, Any]:
    """Return the receipt, signed, of the payment that the other examples show too: for its sender."""
    transaction_id, currency, amount_minor = "txn_01a206d2bccfb30670911de76edd5018", "USD", 2_550
    alice, bob = "wal_01a206d2bca3f376e26a2557c8a21534", "wal_01a206d2bcb1e0c5a4b3f7d890e21a66"
    times = [datetime(2026, 11, 23, 5, 13, second, ms * 1_000, UTC) for second, ms in _MOMENTS]
    deposited, initiated, debited, credited, completed, issued = times
    deposit_id = "key_6b03cb73d89c58b3ee4eee4b_first-money:deposit"
    (deposit,) = chain.extend(None, [Posting(deposit_id, alice, Kind.DEPOSIT, 10_000, currency)], deposited)
    out = Posting(f"{transaction_id}:debit", alice, Kind.DEBIT, amount_minor, currency, transaction_id)
    into = Posting(f"{transaction_id}:credit", bob, Kind.CREDIT, amount_minor, currency, transaction_id)
    (debit,) = chain.extend(deposit, [out], debited)
    (credit,) = chain.extend(None, [into], credited)
    receipt = receipts.compose(
        row={
            "_id": transaction_id,
            "sender_id": "6b03cb73d89c58b3ee4eee4b",
            "receiver_id": "6b03cb73d89c58b3ee4eee4c",
            "sender_wallet_id": alice,
            "receiver_wallet_id": bob,
            "currency": currency,
            "status": "COMPLETED",
            "amount_minor": amount_minor,
            "settlement": Settlement.CREDIT.value,
            "initiated_at": initiated,
            "completed_at": completed,
        },
        entries={debit.id: debit, credit.id: credit},
        heads={alice: debit},
        reader=Reader.SENDER,
        issuer="payflow",
        issued_at=issued,
        salt_of=receipts.salt_from(EXAMPLE_KEYS.signer.derive_secret(receipts.SALT_PURPOSE) or b""),
    )
    return {"receipt": receipt, "signature": EXAMPLE_KEYS.sign(receipt, typ=receipts.TYP)}


EXAMPLE = _example()
