"""The running stack that is measured, and what its database says was done.

Import after `django.setup()` with the stack's environment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from payflow.mongodb import collection
from tests.load import load
from tests.load.load import LoadError, Offered
from tests.load.population import with_tokens
from tests.load.sizes import Sizes
from transfers.documents import Transaction

SETTLE_SECONDS_MAX = 300.0
SETTLE_POLL_SECONDS = 0.05
# A request that a thread has begun is over by then; one that waits is not begun once its client has left.
BROKEN_OFF_SECONDS = 2.0


@dataclass
class Target:
    """A stack with its processes' sessions by name; `keys` sends an Idempotency-Key with each transfer."""

    base_url: str
    sessions: Mapping[str, int]
    sizes: Sizes
    say: Callable[[str], None]
    keys: bool
    user_ids: list[str] = field(default_factory=list)

    def closed_loop(self, seconds: float) -> Offered:
        """Send transfers for so long and wait until all of them have ended. Raises LoadError."""
        users = with_tokens(self.user_ids)
        connections = self.sizes.connections
        offered = load.closed_loop(
            self.base_url, users, connections=connections, seconds=seconds, keys=self.keys
        )
        settle_requests()
        return offered

    def closed_loop_in_batches(self, seconds: float) -> Offered:
        """The same with many transfers in each request."""
        offered = load.closed_loop(
            self.base_url,
            with_tokens(self.user_ids),
            connections=self.sizes.batch_connections,
            seconds=seconds,
            keys=self.keys,
            batch=self.sizes.batch_size,
        )
        settle_requests()
        return offered

    def open_loop(self, rate: float, seconds: float) -> Offered:
        """The same at a constant rate."""
        users = with_tokens(self.user_ids)
        offered = load.open_loop(self.base_url, users, rate=rate, seconds=seconds, keys=self.keys)
        settle_requests()
        return offered


def settle() -> None:
    """Wait until every transaction has ended and was announced. Raises LoadError after SETTLE_SECONDS_MAX."""
    deadline = time.monotonic() + SETTLE_SECONDS_MAX
    # Sparse index: what is on recovery's list is what has not ended.
    under_way = {"due_at": {"$gt": datetime(1970, 1, 1, tzinfo=UTC)}}
    while collection(Transaction).find_one(under_way, projection=["_id"]):
        if time.monotonic() > deadline:
            left = collection(Transaction).count_documents(under_way)
            raise LoadError(f"{left} transfers have not ended after {SETTLE_SECONDS_MAX:.0f} s")
        time.sleep(SETTLE_POLL_SECONDS)


def settle_requests() -> None:
    """Settle after requests: some that the generator broke off at its end are still being carried out."""
    settle()
    time.sleep(BROKEN_OFF_SECONDS)
    settle()


def completed() -> int:
    """How many transactions are COMPLETED."""
    return collection(Transaction).count_documents({"status": "COMPLETED"})


def ended_since(began_at: float) -> list[dict[str, Any]]:
    """The transactions that were started since then (seconds since 1970). Raises LoadError if one failed."""
    begin = datetime.fromtimestamp(began_at - 0.002, UTC)
    names = ["status", "failure", "initiated_at", "completed_at"]
    rows = list(collection(Transaction).find({"initiated_at": {"$gte": begin}}, projection=names))
    failed = [row for row in rows if row["status"] != "COMPLETED"]
    if failed or not rows:
        example = f", {failed[0]['_id']} with {failed[0]['failure']}" if failed else ""
        raise LoadError(f"of {len(rows)} transfers {len(failed)} did not complete{example}")
    return rows
