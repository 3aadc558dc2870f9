"""The transaction endpoints for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerExtension

from payflow.api.describing import (
    CURRENCY,
    MONEY,
    PART_PROBLEM,
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
    BatchNotFound,
    CurrencyMismatch,
    NotSettled,
    ReceiverNotFound,
    ReferenceUsed,
    SelfTransfer,
    TransactionNotFound,
)
from transfers.receipt_schema import EXAMPLE, RECEIPT
from transfers.serializers import ListQuery, StartBatch, StartTransaction
from transfers.states import Status
from wallets.errors import WalletClosed
from webhooks.event_schema import TRANSACTION as COMPLETED

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
        batch_id=nullable(text("The batch that it was asked for with.")),
        failure={**nullable(FAILURE), "description": "Why it failed; null unless it did."},
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

_COUNT = {"type": "integer", "minimum": 0}
BATCH = Model(
    "Batch",
    record(
        "What became of each transfer when it was asked for.",
        id=text("The batch's id."),
        created={**_COUNT, "description": "How many transactions there are of it."},
        refused={**_COUNT, "description": "How many transfers became none."},
        results={
            "type": "array",
            "minItems": 1,
            "description": "One for each transfer, in order.",
            "items": {
                "oneOf": [
                    record("It was started.", transaction=TRANSACTION),
                    record("It was refused.", problem=PART_PROBLEM),
                ]
            },
        },
    ),
)
BATCH_SUMMARY = Model(
    "BatchSummary",
    record(
        "How a batch gets on.",
        id=text("The batch's id."),
        created_at=TIME,
        size={**_COUNT, "description": "How many transfers were asked for."},
        created={**_COUNT, "description": "How many transactions there are of it."},
        refused={**_COUNT, "description": "How many transfers became none."},
        outcomes=record(
            "How many transactions are in each status.",
            **{status.value: {**_COUNT, "description": f"How many are {status.value}."} for status in Status},
        ),
        amounts={
            "type": "object",
            "description": "How much, by currency.",
            "propertyNames": CURRENCY,
            "additionalProperties": record(
                "How much of one currency.",
                moved={**MONEY, "description": "Has reached its receivers."},
                failed={**MONEY, "description": "Stayed with the sender, or was given back."},
                in_flight={**MONEY, "description": "Has not ended yet."},
            ),
        },
        finished={"type": "boolean", "description": "Whether every transaction has ended."},
    ),
)

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
_NOBODY = "Nobody who can receive money is known by this."
_NOT_FOUND = TransactionNotFound("There is no such transaction.")
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
        refusals=[
            SelfTransfer("Sender and receiver must be two different users.", field="receiver_id"),
            ReceiverNotFound(_NOBODY, field="receiver_email"),
            CurrencyMismatch("The receiver has no USD wallet.", field="currency"),
            WalletClosed("Your wallet is frozen or closed; no money can move in or out."),
            ReferenceUsed("invoice-2026-0817"),
        ],
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
            )
        },
    ),
    "retrieve": Operation(
        id="getTransaction",
        tag=TAG,
        summary="Get a transaction",
        description="For its sender, its receiver, and staff with `transfers.view_transactionrow`.",
        path=_PATH,
        answers={
            200: Answer(
                description="The transaction with its history.",
                body=TRANSACTION,
                examples={"completed": COMPLETED, "declined": DECLINED},
                links={"receipt": Link("getReceipt", _THIS, "A receipt, once it has ended.")},
            )
        },
        refusals=[_NOT_FOUND],
        waits=True,
    ),
    "receipt": Operation(
        id="getReceipt",
        tag=TAG,
        summary="Get a signed receipt",
        description="For its sender, its receiver, and staff with `transfers.view_transactionrow`, once it "
        "has ended. Anyone can verify it "
        "offline with the keys of `getReceiptKeys`.",
        path=_PATH,
        answers={
            200: Answer(
                description="The receipt and its signature.",
                body=RECEIPT,
                examples={"for the sender": EXAMPLE},
            )
        },
        refusals=[_NOT_FOUND, NotSettled({})],
        waits=True,
    ),
}


_BATCH_ID = "bat_01a206d2bd10c1d4b7a6f3e29c8d5b40"
BATCHES = {
    "create": Operation(
        id="createBatch",
        tag="Batches",
        summary="Send money to many",
        description="1 to 1000 transfers, each accepted or refused for itself: the answer says which, in "
        "order. One idempotency key holds for all of them. Give each a `reference`, and none is ever paid "
        "twice.",
        takes=StartBatch,
        sends={
            "payroll": {
                "transfers": [
                    {"receiver_email": "bob@example.com", "amount": "25.50", "reference": "payroll-11/bob"},
                    {"receiver_email": "nobody@example.com", "amount": "10.00"},
                ]
            }
        },
        answers={
            201: Answer(
                description="The batch; each transaction goes on by itself.",
                body=BATCH,
                examples={
                    "payroll": {
                        "id": _BATCH_ID,
                        "created": 1,
                        "refused": 1,
                        "results": [
                            {
                                "transaction": {
                                    **INITIATED,
                                    "description": None,
                                    "reference": "payroll-11/bob",
                                    "batch_id": _BATCH_ID,
                                }
                            },
                            {
                                "problem": {
                                    "type": "urn:payflow:error:receiver_not_found",
                                    "title": "Receiver not found",
                                    "status": 404,
                                    "detail": _NOBODY,
                                    "code": "receiver_not_found",
                                    "errors": [
                                        {
                                            "field": "receiver_email",
                                            "code": "receiver_not_found",
                                            "detail": _NOBODY,
                                        }
                                    ],
                                }
                            },
                        ],
                    }
                },
                headers=["Location"],
                links={"batch": Link("getBatch", _THIS, "How it gets on.")},
            )
        },
    ),
    "retrieve": Operation(
        id="getBatch",
        tag="Batches",
        summary="Get a batch",
        description="How far it has come; for its sender, and staff with `transfers.view_transactionrow`. "
        "`listTransactions` with `batch` lists "
        "its transactions.",
        path={"id": "The batch's id."},
        answers={
            200: Answer(
                description="The batch, counted and added up.",
                body=BATCH_SUMMARY,
                examples={
                    "finished": {
                        "id": _BATCH_ID,
                        "created_at": "2026-11-23T05:13:25.300Z",
                        "size": 2,
                        "created": 1,
                        "refused": 1,
                        "outcomes": {**{status.value: 0 for status in Status}, "COMPLETED": 1},
                        "amounts": {"USD": {"moved": "25.50", "failed": "0.00", "in_flight": "0.00"}},
                        "finished": True,
                    }
                },
            )
        },
        refusals=[BatchNotFound("There is no such batch.")],
    ),
}


class StartTransactionSchema(OpenApiSerializerExtension):
    """Adds what `validate` asks for: the receiver is named one way."""

    target_class = StartTransaction

    def map_serializer(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        """Return the schema."""
        schema = auto_schema._map_serializer(self.target, direction, bypass_extensions=True)
        return {**schema, "oneOf": [{"required": ["receiver_id"]}, {"required": ["receiver_email"]}]}
