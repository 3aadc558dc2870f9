"""Receipts for the OpenAPI document: what `transfers/receipts.py` composes, as JSON schemas."""

from __future__ import annotations

from ledger.chain import Contra, Kind
from payflow.api.describing import CURRENCY, HASH, MONEY, TIME, Model, nullable, record, text
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
