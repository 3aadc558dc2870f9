"""The transaction endpoints for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerExtension

from payflow.api.describing import (
    CURRENCY,
    MONEY,
    TIME,
    Answer,
    Link,
    Model,
    Operation,
    nullable,
    page_of,
    record,
    text,
)
from transfers.errors import (
    CurrencyMismatch,
    NotSettled,
    ReceiverNotFound,
    SelfTransfer,
    TransactionNotFound,
)
from transfers.receipt_schema import RECEIPT
from transfers.serializers import ListQuery, StartTransaction
from transfers.states import Status
from wallets.errors import WalletClosed

TAG = "Transactions"
STATUS = text(
    "INITIATED, DEBITED, CREDITED, COMPLETED where all is well; else FAILED, and REFUNDING before it where "
    "money had been taken. COMPLETED and FAILED are the ends.",
    enum=[status.value for status in Status],
)
FAILURE = Model(
    "Failure",
    record(
        "Why a transaction failed.",
        code=text("A stable word, such as `insufficient_balance`."),
        detail=text("A sentence for people."),
        refunded={"type": "boolean", "description": "Whether money had been taken and was given back."},
    ),
)
TRANSACTION = Model(
    "Transaction",
    record(
        "A transfer from one user to another.",
        id=text("The transaction's id; ids are ordered by time."),
        sender_id=text("The user who pays."),
        receiver_id=text("The user who is paid."),
        amount={**MONEY, "description": "How much."},
        currency=CURRENCY,
        status=STATUS,
        description=nullable(text("The sender's words.")),
        reference=nullable(text("The sender's own name for it, unique among the sender's transfers.")),
        failure=nullable(FAILURE),
        history={
            "type": "array",
            "minItems": 1,
            "description": "Every status it has had, in order.",
            "items": record(
                "A move.", status=STATUS, at=TIME, reason=nullable(text("Why, where it went wrong."))
            ),
        },
        initiated_at=TIME,
        completed_at=nullable({**TIME, "description": "When it ended; null until then."}),
    ),
)
TRANSACTIONS = page_of(TRANSACTION, "Transactions, newest first.")

COMPLETED: dict[str, Any] = {
    "id": "txn_01a206d2bccfb30670911de76edd5018",
    "sender_id": "6b03cb73d89c58b3ee4eee4b",
    "receiver_id": "6b03cb73d89c58b3ee4eee4c",
    "amount": "25.50",
    "currency": "USD",
    "status": "COMPLETED",
    "description": "dinner",
    "reference": None,
    "failure": None,
    "history": [
        {"status": "INITIATED", "at": "2026-11-23T05:13:23.919Z", "reason": None},
        {"status": "DEBITED", "at": "2026-11-23T05:13:23.931Z", "reason": None},
        {"status": "CREDITED", "at": "2026-11-23T05:13:23.949Z", "reason": None},
        {"status": "COMPLETED", "at": "2026-11-23T05:13:23.967Z", "reason": None},
    ],
    "initiated_at": "2026-11-23T05:13:23.919Z",
    "completed_at": "2026-11-23T05:13:23.967Z",
}
INITIATED = {**COMPLETED, "status": "INITIATED", "history": COMPLETED["history"][:1], "completed_at": None}
DECLINED = {
    **COMPLETED,
    "amount": "500.00",
    "description": "a piano",
    "status": "FAILED",
    "failure": {
        "code": "insufficient_balance",
        "detail": "The sender's balance was too low.",
        "refunded": False,
    },
    "history": [
        COMPLETED["history"][0],
        {"status": "FAILED", "at": "2026-11-23T05:13:23.967Z", "reason": "insufficient_balance"},
    ],
}
_PATH = {"id": "The transaction's id."}
_THIS = {"id": "$response.body#/id"}

OPERATIONS = {
    "create": Operation(
        id="createTransaction",
        tag=TAG,
        summary="Send money",
        description="Writes the transfer down and starts it. It goes on by itself: ask for it with "
        "`getTransaction`, or let `Prefer: wait=5` hold the answer until it has ended. A balance that does "
        "not cover it makes it FAILED, with `failure.code` `insufficient_balance`; nothing is taken then.",
        takes=StartTransaction,
        sends={
            "by email": {
                "receiver_email": "bob@example.com",
                "amount": "25.50",
                "currency": "USD",
                "description": "dinner",
            },
            "by id": {"receiver_id": COMPLETED["receiver_id"], "amount": "25.50"},
        },
        answers={
            201: Answer(
                description="The transaction: INITIATED, or as far as it came while you waited.",
                body=TRANSACTION,
                examples={"started": INITIATED, "waited": COMPLETED},
                headers=["Location"],
                links={
                    "transaction": Link("getTransaction", _THIS, "How it gets on."),
                    "receipt": Link("getReceipt", _THIS, "A receipt, once it has ended."),
                },
            )
        },
        refusals=[SelfTransfer, ReceiverNotFound, CurrencyMismatch, WalletClosed],
        waits=True,
    ),
    "list": Operation(
        id="listTransactions",
        tag=TAG,
        summary="List one's transactions",
        description="Those one has sent or received, newest first.",
        query=ListQuery,
        answers={
            200: Answer(
                description="A page of transactions.",
                body=TRANSACTIONS,
                examples={"page": {"results": [COMPLETED], "next": None}},
                links={
                    "next": Link(
                        "listTransactions", {"cursor": "$response.body#/next"}, "The page after this one."
                    )
                },
            )
        },
    ),
    "retrieve": Operation(
        id="getTransaction",
        tag=TAG,
        summary="Get a transaction",
        description="For its sender, its receiver and staff.",
        path=_PATH,
        answers={
            200: Answer(
                description="The transaction with its history.",
                body=TRANSACTION,
                examples={"completed": COMPLETED, "declined": DECLINED},
                links={"receipt": Link("getReceipt", _THIS, "A receipt, once it has ended.")},
            )
        },
        refusals=[TransactionNotFound],
        waits=True,
    ),
    "receipt": Operation(
        id="getReceipt",
        tag=TAG,
        summary="Get a signed receipt",
        description="For its sender, its receiver and staff, once it has ended. Anyone can verify it "
        "offline with the keys of `getReceiptKeys`.",
        path=_PATH,
        answers={200: Answer(description="The receipt and its signature.", body=RECEIPT)},
        refusals=[TransactionNotFound, NotSettled],
        waits=True,
    ),
}


class StartTransactionSchema(OpenApiSerializerExtension):
    """Adds what `validate` asks for: the receiver is named one way."""

    target_class = StartTransaction

    def map_serializer(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        """Return the schema."""
        schema = auto_schema._map_serializer(self.target, direction, bypass_extensions=True)
        return {**schema, "oneOf": [{"required": ["receiver_id"]}, {"required": ["receiver_email"]}]}
