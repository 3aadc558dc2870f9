"""What the ledger refuses and what it could not do in time."""

from __future__ import annotations

from payflow.errors import Transient


class Contention(Transient):
    """Other writers kept extending the same chains; nothing of what is missing has been posted."""

    def __init__(self, wallet_ids: list[str]) -> None:
        super().__init__("The wallet is very busy. Try again shortly.")
        self.wallet_ids = wallet_ids
