"""What wallets refuse."""

from __future__ import annotations

from payflow.errors import AlreadyExists, NotFound, Refused


class WalletExists(AlreadyExists):
    """The user has a wallet in this currency."""

    title = "Wallet already exists"


class WalletNotFound(NotFound):
    """The user has no such wallet."""

    title = "Wallet not found"


class WalletClosed(Refused):
    """Money may not move in or out of this wallet."""

    code = "wallet_closed"
    status = 409
    title = "Wallet closed"


class InsufficientBalance(Refused):
    """The wallet holds less than was asked for."""

    code = "insufficient_balance"
    status = 409
    title = "Insufficient balance"


class BalanceLimit(Refused):
    """The wallet would hold more than a wallet may."""

    code = "invalid_amount"
    status = 409
    title = "Balance limit reached"
