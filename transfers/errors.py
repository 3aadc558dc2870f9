"""What starting, reading or steering a transaction refuses, and what it could not do in time."""

from __future__ import annotations

from collections.abc import Mapping

from payflow.errors import AlreadyExists, NotFound, Refused, Transient


class SelfTransfer(Refused):
    """Sender and receiver are the same user."""

    code = "self_transfer"
    title = "Transfer to yourself"
    advice = "Name another receiver."


class ReceiverNotFound(NotFound):
    """Nobody who can receive money has this id or email."""

    code = "receiver_not_found"
    title = "Receiver not found"
    advice = "Check the receiver's id or email."


class CurrencyMismatch(Refused):
    """Sender and receiver have no wallets in the currency of the transfer."""

    code = "currency_mismatch"
    status = 409
    title = "Currency mismatch"
    advice = "Have both open a wallet in this currency, or use another."


class ReferenceUsed(AlreadyExists):
    """The sender has named another transfer by this reference."""

    def __init__(self, reference: str) -> None:
        super().__init__(
            f"You have a transfer with the reference {reference} already:"
            f" GET /transactions?reference={reference} shows it.",
            field="reference",
        )


class BatchUnfinished(Transient):
    """The batch is written down and will be carried out; what becomes of each transfer is not known yet."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(
            f"The batch is written down and will be carried out. Do not send it again without its"
            f" Idempotency-Key: that would be a second batch. Ask with GET /transactions/batch/{batch_id}."
        )


class BatchNotFound(NotFound):
    """No such batch, or not one of the caller's."""


class TransactionNotFound(NotFound):
    """No such transaction, or not one that the caller is a party to."""


class NotSettled(Refused):
    """The transaction has not ended yet."""

    code = "not_settled"
    status = 409
    title = "Not settled"
    advice = "Ask again when the transaction has ended; `Prefer: wait` holds the answer."

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__("The transaction has not ended yet; its receipt comes with its end.")
        self.headers = {"Retry-After": "1", **headers}


class HasEnded(Refused):
    """There is nothing left to drive."""

    code = "transaction_ended"
    is_of_commands = True
    status = 409
    title = "Transaction has ended"
    advice = "Look at how it has ended."


class NotRefundable(Refused):
    """The money was not taken, or is the receiver's already."""

    code = "not_refundable"
    is_of_commands = True
    status = 409
    title = "Transaction cannot be refunded"
    advice = "Have the receiver send it back."


class CreditTimeout(Transient):
    """Credits did not answer within CREDIT_TIMEOUT_SECONDS; nothing is decided about them."""

    def __init__(self, detail: str = "The receiver could not be credited in time.") -> None:
        super().__init__(detail)
