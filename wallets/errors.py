"""What wallets refuse."""

from __future__ import annotations

from payflow.errors import AlreadyExists, NotFound, Refused
from payflow.money import InvalidAmount


class WalletExists(AlreadyExists):
    """The user has a wallet in this currency."""


class WalletNotFound(NotFound):
    """The user has no such wallet."""


class WalletClosed(Refused):
    """Money may not move in or out of this wallet."""

    code = "wallet_closed"
    status = 409
    title = "Wallet closed"
    advice = "Use another wallet, or ask why this one is closed."


class Declined(Refused):
    """The ledger has written down that this money does not move; `replayed` when it had done so before."""

    status = 409

    def __init__(self, detail: str, *, replayed: bool) -> None:
        super().__init__(detail)
        self.replayed = replayed


class InsufficientBalance(Declined):
    """The wallet holds less than was asked for."""

    code = "insufficient_balance"
    title = "Insufficient balance"
    advice = "Wait for money to arrive, or ask for less; a new try needs a new key."


class DepositLimit(Refused):
    """The user has deposited as much as one may in a day."""

    code = "deposit_limit"
    status = 409
    title = "Deposit limit reached"
    advice = "Deposit less, or wait for the next day (UTC)."


class BalanceLimit(Declined):
    """The wallet would hold more than a wallet may."""

    code = InvalidAmount.code
    title = InvalidAmount.title
    advice = InvalidAmount.advice
