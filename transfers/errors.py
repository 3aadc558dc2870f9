"""What starting or reading a transaction refuses."""

from __future__ import annotations

from payflow.errors import NotFound, Refused


class SelfTransfer(Refused):
    """Sender and receiver are the same user."""

    code = "self_transfer"
    title = "Transfer to yourself"


class ReceiverNotFound(NotFound):
    """Nobody who can receive money has this id or email."""

    code = "receiver_not_found"
    title = "Receiver not found"


class CurrencyMismatch(Refused):
    """Sender and receiver have no wallets in the currency of the transfer."""

    code = "currency_mismatch"
    status = 409
    title = "Currency mismatch"


class TransactionNotFound(NotFound):
    """No such transaction, or not one that the caller is a party to."""

    title = "Transaction not found"
