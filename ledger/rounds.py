"""Where the continuous audit looks: which wallets have something new, and what comes next in its rounds.

Who finds the wallets that have something new? Not an index over time: every insert would pay for it, and
times do not come in order across writers. Three readings do it together, each bounded:
- `newest`: the collection from its end backwards, in the order in which it was written ($natural), until a
  whole batch of entries lies behind checkpoints. It costs what is new. That order is MongoDB's habit, not
  its promise, and on a sharded cluster only each shard's own, so nothing rests on it.
- `next_wallets`: a page of checkpoints against their wallets' newest entries (a DISTINCT_SCAN: one key per
  wallet). Round after round it visits every wallet: it finds the tail that was cut off an idle one, and what
  `newest` has overlooked.
- `next_history`: a slice of all chains in their order. It verifies what lies behind the checkpoints anew,
  and comes upon every wallet that has no checkpoint yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from ledger import checkpoints, findings
from ledger.documents import LedgerEntry
from ledger.incremental import ORDER, Targets, batches, sequence_of, wallet_of
from ledger.keys import is_current, ledger_keys
from ledger.reading import committed
from ledger.selectors import heads_pipeline
from ledger.verdict import Violation
from ledger.verification import Document, Fault, entry_faults, link_faults, malformation

NEWEST_BATCH_ENTRIES = 200
HISTORY_ENTRIES_MIN = 2


def newest(beginning: int, *, entries_max: int, report: Callable[[Violation], None]) -> tuple[Targets, bool]:
    """Return the wallets that the newest entries belong to, and whether all that is new was seen."""
    rows = committed(LedgerEntry).find({}, {"wallet_id": 1, "sequence": 1}, batch_size=NEWEST_BATCH_ENTRIES)
    targets: Targets = {}
    known: dict[str, float] = {}
    for batch in batches(rows.sort({"$natural": -1}).limit(entries_max), NEWEST_BATCH_ENTRIES):
        seen = _furthest(batch, report)
        unknown = seen.keys() - known.keys()
        found = checkpoints.find(unknown, beginning)
        known |= {wallet_id: sequence_of(checkpoint) for wallet_id, checkpoint in found.items()}
        # What is broken is known, too, until staff have cleared it.
        known |= dict.fromkeys(findings.broken_wallets(unknown, beginning), float("inf"))
        fresh = {wallet_id: until for wallet_id, until in seen.items() if until > known.get(wallet_id, 0)}
        if not fresh:
            return targets, True
        for wallet_id, until in fresh.items():
            targets[wallet_id] = max(until, targets.get(wallet_id, 0))
        if len(batch) < NEWEST_BATCH_ENTRIES:
            return targets, True
    return targets, not targets


def _furthest(rows: Iterable[Document], report: Callable[[Violation], None]) -> Targets:
    seen: Targets = {}
    for row in rows:
        wallet_id, sequence = row.get("wallet_id"), row.get("sequence")
        if isinstance(wallet_id, str) and isinstance(sequence, int):
            seen[wallet_id] = max(sequence, seen.get(wallet_id, 0))
        else:
            report(Violation("L1", f"{row['_id']!r} is at no position of a chain", str(wallet_id)))
    return seen


def next_wallets(beginning: int, *, after: str, limit: int) -> tuple[Targets, str]:
    """Return those of the next wallets that are not as their checkpoints say, and where to go on.

    That is an empty string at the end.
    """
    known = checkpoints.page(beginning, after=after, limit=limit)
    rows = committed(LedgerEntry).aggregate(heads_pipeline([checkpoint["_id"] for checkpoint in known]))
    heads = {row["_id"]: row["head"] for row in rows}
    targets = {}
    for checkpoint in known:
        head = heads.get(checkpoint["_id"])
        is_as_sealed = not checkpoints.seal_fault(checkpoint) and is_current(checkpoint)
        if not is_as_sealed or checkpoints.entry_fault(checkpoint, head):
            targets[checkpoint["_id"]] = max(sequence_of(checkpoint), sequence_of(head or {}), 1)
    return targets, known[-1]["_id"] if len(known) == limit else ""


@dataclass(slots=True)
class Slice:
    """What a slice of history showed: what is broken in it, what in it lies before the checkpoints."""

    entries: int = 0
    violations: list[Violation] = field(default_factory=list)
    targets: Targets = field(default_factory=dict)
    # Where the next one begins; None at the end.
    position: dict[str, Any] | None = None


def next_history(beginning: int, *, position: Mapping[str, Any] | None, entries_max: int) -> Slice:
    """Verify the next entries behind the checkpoints, in order of wallet and sequence."""
    rows = _read_history(position, max(entries_max, HISTORY_ENTRIES_MIN))
    result = Slice(entries=len(rows))
    chains = {wallet_id: list(group) for wallet_id, group in groupby(rows, key=wallet_of)}
    # Read after the entries, they may be further; what lies behind them now was verified all the same.
    known = checkpoints.find(chains, beginning)
    broken = findings.broken_wallets(chains, beginning)
    for wallet_id, chain in chains.items():
        if wallet_id in broken:
            continue
        was = sequence_of(known.get(wallet_id, {}))
        begin = position["sequence"] if position and position["wallet_id"] == wallet_id else None
        if violation := _break_in(wallet_id, [e for e in chain if sequence_of(e) <= was], begin):
            result.violations.append(violation)
        elif (until := max(map(sequence_of, chain))) > was:
            result.targets[wallet_id] = until
    if len(rows) >= max(entries_max, HISTORY_ENTRIES_MIN):
        last = next(reversed(chains))
        # The rest of a broken chain says nothing more; and a place that is no number is none to go on from.
        place = sequence_of(rows[-1])
        is_followed = last not in broken and place > 0
        result.position = {"wallet_id": last, "sequence": place if is_followed else None}
    return result


def _read_history(position: Mapping[str, Any] | None, limit: int) -> list[Document]:
    """Return the entries from a position on, which an earlier slice ended with."""
    entries = committed(LedgerEntry)
    rows: list[Document] = []
    after = ""
    if position is not None:
        after = position["wallet_id"]
        if position["sequence"] is not None:
            rest = {"wallet_id": after, "sequence": {"$gte": position["sequence"]}}
            rows += entries.find(rest).sort(ORDER).limit(limit)
    if len(rows) < limit:
        rows += entries.find({"wallet_id": {"$gt": after}}).sort(ORDER).limit(limit - len(rows))
    return rows


def _break_in(wallet_id: str, chain: Iterable[Document], begin: int | None) -> Violation | None:
    """Return where a part of a chain breaks, which begins with its first entry or with the entry `begin`."""
    previous: Document | None = None
    for entry in chain:
        if previous is None and begin is not None:
            faults = [] if entry["sequence"] == begin else [Fault("L1", f"#{begin} is missing")]
            link: Iterable[Fault] = ()
        else:
            faults, link = [], link_faults(previous, entry)
        if reason := malformation(entry):
            faults.append(Fault("L1", reason))
        for fault in faults or (*entry_faults(entry, ledger_keys()), *link):
            return Violation(fault.invariant, fault.detail, wallet_id, entry["sequence"])
        previous = entry
    return None
