"""The audit: verifies the invariants L1 to L8 (docs/guarantees.md) from what is stored; it changes
nothing.

Two streams, so that memory does not grow with history: every chain in order of (wallet, sequence), then every
transaction's entries in order of operation id, merged with the transactions themselves.

What must stay true: an audit of a live system raises no false alarm. A chain can be read while it grows. What
looks wrong about a transaction is read again, the transaction before and after its entries, and counts only
if it did not move meanwhile. Sums compare two streams that are read at different times, so it is enough that
they hold over everything older than a grace period.

What a chain cannot show, the loss of its newest entries or that all of it was computed anew, the checkpoints
of the continuous audit do. Where the record that these belong to cannot be trusted, the verdict is
UNVERIFIED.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from itertools import groupby
from typing import Any

from ledger import audit_record, checkpoints, crosscheck, record_scan
from ledger.crosscheck import Transactions
from ledger.keys import ledger_keys
from ledger.reading import Progress, Reader
from ledger.verdict import Tally, Verdict
from ledger.verification import (
    INDEX_MISSING,
    Document,
    Fault,
    entry_faults,
    link_faults,
    malformation,
)
from payflow import clock
from payflow.mongodb import unavailable_is_transient

# Longer than a writer waits for its insert, so that what is older has landed; clocks may differ by the rest.
GRACE_SECONDS = 30.0


def audit(
    *,
    transactions: Transactions | None = None,
    wallet_id: str | None = None,
    expect_settled: bool = False,
    against_checkpoints: bool = True,
    on_progress: Progress = lambda done, total: None,
    on_head: Callable[[Document], None] = lambda head: None,
) -> Verdict:
    """Verify the ledger, or one wallet's part of it, and return the verdict.

    Without `transactions`, what needs them (L7) is left out; with `wallet_id`, what needs every wallet (L5
    and L6). With `expect_settled` a transaction that has not ended is a violation: for a system at rest.
    Against the checkpoints the ledger is compared unless that is switched off.
    `on_head` is called with the last entry of each chain, as it was verified.
    Raises Transient when MongoDB does not answer.
    """
    started = time.perf_counter()
    tally = Tally(cut=clock.now() - timedelta(seconds=GRACE_SECONDS))
    scope = {} if wallet_id is None else {"wallet_id": wallet_id}
    with unavailable_is_transient():
        reader = Reader(on_progress)
        reader.expect(scope)
        if not reader.has_unique_index():
            tally.report(INDEX_MISSING)
        state = _trusted_state(tally) if against_checkpoints else None
        missing = checkpoints.MissingCheckpoints(tally, state)
        _walk_chains(reader, tally, scope, missing, on_head)
        missing.report()
        if state is not None:
            checkpoints.compare(tally, state["beginning"], wallet_id=wallet_id)
        check = crosscheck.Crosscheck(reader, tally, transactions, expect_settled=expect_settled)
        if wallet_id is None:
            if state is not None and not tally.verdict.unverified:
                tally.verdict.unverified = _find_mismatch()
            check.everything()
            tally.judge_sums(is_moving=not expect_settled)
        else:
            check.wallet(wallet_id)
            tally.verdict.sums = dict(tally.all)
        reader.finish()
    tally.verdict.seconds = time.perf_counter() - started
    return tally.verdict


def _trusted_state(tally: Tally) -> Document | None:
    """Return the state of the continuous audit; note why it cannot be trusted where that is so."""
    try:
        state = audit_record.trusted_state()
    except audit_record.Unverified as reason:
        tally.verdict.unverified = str(reason)
        return None
    if state is not None and state["unverified"]:
        tally.verdict.unverified = state["unverified"]["reason"]
    return state


def _find_mismatch() -> str:
    try:
        return record_scan.find_mismatch()
    except audit_record.Unverified as reason:
        return str(reason)


def _walk_chains(
    reader: Reader,
    tally: Tally,
    scope: dict[str, str],
    missing: checkpoints.MissingCheckpoints,
    on_head: Callable[[Document], None],
) -> None:
    """Verify L1, L2, L3 and L8, and add up one side of the sums."""
    entries = reader.stream(scope, order={"wallet_id": 1, "sequence": 1})
    for _, chain in groupby(entries, key=_wallet_of):
        tally.verdict.wallets += 1
        head = _walk_chain(chain, tally, missing)
        if head is not None:
            on_head(head)


def _wallet_of(entry: Document) -> Any:
    return entry.get("wallet_id")


def _walk_chain(
    chain: Iterable[Document], tally: Tally, missing: checkpoints.MissingCheckpoints
) -> Document | None:
    previous: Document | None = None
    newest_aged: Document | None = None
    is_linked = True
    keys = ledger_keys()
    for entry in chain:
        tally.verdict.entries += 1
        if reason := malformation(entry):
            tally.report(Fault("L1", reason), entry)
            # Nobody can say what the next entry should follow.
            is_linked = False
            continue
        for fault in entry_faults(entry, keys):
            tally.report(fault, entry)
        if is_linked and previous is None:
            missing.meet(entry)
        if is_linked:
            for fault in link_faults(previous, entry):
                tally.report(fault, entry)
        previous, is_linked = entry, True
        tally.all[entry["currency"]].add_flow(entry)
        if entry["created_at"] <= tally.cut:
            newest_aged = entry
            tally.aged[entry["currency"]].add_flow(entry)
    for newest, sums in ((previous, tally.all), (newest_aged, tally.aged)):
        if newest is not None:
            sums[newest["currency"]].balances += newest["balance_minor"]
    return previous
