"""What the ledger refuses and what it could not do in time."""

from __future__ import annotations

from payflow.errors import Refused, Transient


class Contention(Transient):
    """Other writers kept extending the same chains; nothing of what is missing has been posted."""

    def __init__(self, wallet_ids: list[str]) -> None:
        super().__init__("The wallet is very busy. Try again shortly.")
        self.wallet_ids = wallet_ids


class Unreadable(Transient):
    """What is stored is no ledger entry: nothing can be said of the wallet until staff have looked at it."""

    def __init__(self) -> None:
        super().__init__("The wallet's ledger cannot be read. It must be looked at first.")


class StillBroken(Refused):
    """A wallet's chain does not hold, so it cannot be declared sound."""

    code = "ledger_broken"
    is_of_commands = True
    status = 409
    title = "Ledger broken"
    advice = "Have an operator look at the wallet."
