"""What the continuous audit has found broken, until staff have cleared it.

A finding is about a position in a wallet's chain, or about a transaction; its id says which, so that the same
break is written down, and told, once. Findings are a part of the audit's record (`ledger/audit_record.py`).
What must stay true: the wallet is frozen before the finding is there, because what has been found is not
looked at again; and it stays frozen for as long as the finding is open (`ledger/monitor.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

from ledger.audit_record import FINDINGS, Change
from ledger.documents import Finding
from ledger.reading import committed
from ledger.verdict import Violation
from ledger.verification import Document
from payflow import metrics
from payflow.mongodb import collection, unavailable_is_transient

logger = logging.getLogger(__name__)

LOGGED_MAX = 20
_CONTENT = ("invariant", "detail", "wallet_id", "sequence", "transaction_id")

# Returns whether the wallet was not frozen before.
Freeze = Callable[[str], bool | None]


def id_of(violation: Violation) -> str:
    """Return the id of the finding about a violation: where it is."""
    parts = (violation.invariant, violation.wallet_id, violation.sequence, violation.transaction_id)
    return ":".join(str(part) for part in parts if part is not None)


def open_all(violations: Collection[Violation], beginning: int, now: datetime) -> list[Change]:
    """Return the changes that write violations down, but for those that are open already."""
    changes = new(violations, now)
    query = {"_id": {"$in": [change.new["_id"] for change in changes]}, "beginning": beginning}
    known = {row["_id"]: row for row in committed(Finding).find(query)}
    return [
        Change(FINDINGS, known.get(change.new["_id"]), change.new)
        for change in changes
        if not known.get(change.new["_id"], {}).get("is_open")
    ]


def new(violations: Iterable[Violation], now: datetime) -> list[Change]:
    """Return the changes that write violations down where none is known."""
    by_id = {id_of(violation): violation for violation in violations}
    return [
        Change(FINDINGS, None, {"_id": id_, **_content(violation), "is_open": True, "found_at": now})
        for id_, violation in by_id.items()
    ]


def tell(news: Iterable[Change]) -> None:
    """Log and count what was written down for the first time."""
    for change in news:
        facts = {name: change.new[name] for name in _CONTENT}
        metrics.LEDGER_VIOLATIONS.labels(facts["invariant"]).inc()
        frozen = facts["wallet_id"] is not None
        logger.error("ledger invariant broken", extra={**facts, "frozen": frozen})


def _content(violation: Violation) -> dict[str, Any]:
    content = {name: getattr(violation, name) for name in _CONTENT}
    # What is stored may be anything; in the record there are only numbers.
    return {**content, "sequence": violation.sequence if isinstance(violation.sequence, int) else None}


def broken_wallets(wallet_ids: Collection[str], beginning: int) -> set[str]:
    """Return those of the wallets about which something is open."""
    query = {"is_open": True, "wallet_id": {"$in": list(wallet_ids)}, "beginning": beginning}
    return {row["wallet_id"] for row in collection(Finding).find(query, {"wallet_id": 1})}


def list_open(beginning: int, *, limit: int) -> list[dict[str, Any]]:
    """Return what is open."""
    with unavailable_is_transient():
        found = collection(Finding).find({"is_open": True, "beginning": beginning})
        return list(found.sort({"is_open": 1, "wallet_id": 1}).limit(limit))


def count_open(beginning: int) -> dict[str, int]:
    """Return how much is open of each invariant."""
    match = {"$match": {"is_open": True, "beginning": beginning}}
    with unavailable_is_transient():
        rows = collection(Finding).aggregate([match, {"$group": {"_id": "$invariant", "count": {"$sum": 1}}}])
        return {row["_id"]: row["count"] for row in rows}


def find_of_wallet(wallet_id: str, beginning: int) -> list[Document]:
    """Return what is open about a wallet."""
    query = {"is_open": True, "wallet_id": wallet_id, "beginning": beginning}
    return list(committed(Finding).find(query))


def find_general(invariant: str, beginning: int) -> list[Document]:
    """Return what is open about an invariant, but about no wallet and no transaction."""
    query = {"_id": invariant, "is_open": True, "beginning": beginning}
    return list(committed(Finding).find(query))


def close(found: Iterable[Document], *, by: str, now: datetime) -> list[Change]:
    """Return the changes that close findings. `by` is who decided it."""
    closed = {"is_open": False, "cleared_at": now, "cleared_by": by}
    return [Change(FINDINGS, row, {**row, **closed}) for row in found]


def tell_closed(changes: Sequence[Change], *, by: str) -> None:
    """Log what was closed."""
    if changes:
        ids = [change.new["_id"] for change in changes[:LOGGED_MAX]]
        logger.warning("ledger findings cleared", extra={"by": by, "count": len(changes), "findings": ids})
