"""Verifying chains from their checkpoints on, and the transactions that their new entries belong to.

What must stay true: a checkpoint moves over an entry only after the entry, and the transaction it belongs to,
have been judged, and after what is wrong with them has been written down.

Altered entries are reported at once. What is not there, at the end of a chain, is a suspicion at first: after
an election the new primary may, for a moment, not yet know how far a majority has come, and show less than
the old one did. Only what a later tick misses as well is reported.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby, islice
from typing import Any

from django.conf import settings

from ledger import checkpoints, findings
from ledger.audit_record import Change, Record
from ledger.crosscheck import Crosscheck, Part, Transactions
from ledger.documents import LedgerEntry
from ledger.keys import is_current, ledger_keys
from ledger.reading import Reader, committed
from ledger.verdict import Tally, Violation
from ledger.verification import (
    INDEX_MISSING,
    ODD_ID,
    Document,
    Fault,
    entry_faults,
    link_faults,
    malformation,
)

logger = logging.getLogger(__name__)

BATCH_WALLETS = 100
# So many findings are written down at once.
FOUND_MAX = 500
BATCH_ENTRIES = 2_000
BATCH_TRANSACTIONS = 500
# What is missing is reported when it still is after so long.
MISSING_SECONDS_MIN = 5.0
ORDER = {"wallet_id": 1, "sequence": 1}

# Wallets, each with the sequence of an entry that was seen there.
Targets = dict[str, int]


# --- Judging one chain ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Walk:
    """What came of following one chain: its last sound entry, those that are new, and where it breaks.

    `is_short` when it breaks only because something is not there (yet).
    """

    reached: Document | None = None
    fresh: list[Document] = field(default_factory=list)
    broken: Violation | None = None
    is_short: bool = False


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A chain that ended too early: through which entry it was followed, and when that was noticed first."""

    until: int
    since: datetime


def walk(
    wallet_id: str, known: Document | None, entries: Iterable[Document], until: int, since: datetime | None
) -> Walk:
    """Follow a chain from its checkpoint, or its beginning, through entry `until`, which has been seen."""
    result = Walk()
    for entry in entries:
        if fault := _fault(result.reached, known, entry, since):
            sequence = entry["sequence"] if isinstance(entry["sequence"], int) else None
            if known is not None and result.reached is None:
                sequence = known["sequence"]
            result.broken = Violation(fault.invariant, fault.detail, wallet_id, sequence)
            result.is_short = fault == checkpoints.MISSING
            return result
        if known is None or result.reached is not None:
            result.fresh.append(entry)
        result.reached = entry
    if result.reached is None and known is not None:
        gone = checkpoints.entry_fault(known, None)
        result.broken = Violation("L1", gone.detail if gone else "", wallet_id, known["sequence"])
    elif result.reached is None or result.reached["sequence"] < until:
        following = result.reached["sequence"] + 1 if result.reached else 1
        result.broken = Violation("L1", f"#{following} is missing", wallet_id, following)
    result.is_short = result.broken is not None
    return result


def _fault(
    previous: Document | None, known: Document | None, entry: Document, since: datetime | None
) -> Fault | None:
    if previous is None and known is not None:
        return checkpoints.entry_fault(known, entry if entry["sequence"] == known["sequence"] else None)
    if reason := malformation(entry):
        return Fault("L1", reason)
    for fault in (*entry_faults(entry, ledger_keys()), *link_faults(previous, entry)):
        return fault
    return checkpoints.missing_fault(entry, since) if previous is None else None


# --- Verifying many ---------------------------------------------------------------------------------------


class Verifier:
    """Verifies wallets and moves their checkpoints; what is broken it has frozen, and written down."""

    def __init__(
        self,
        record: Record,
        *,
        transactions: Transactions | None,
        freeze: findings.Freeze,
        now: datetime,
        deadline: float,
        suspected: Mapping[str, Suspicion] | None = None,
    ) -> None:
        self._transactions = transactions
        self._freeze = freeze
        self._record = record
        self._beginning = record.beginning
        self._since: datetime | None = record.state["complete_since"]
        self._now = now
        self._deadline = deadline
        self._suspected = suspected or {}
        self.suspicions: dict[str, Suspicion] = {}
        # Transactions, each with when it was found wrong.
        self.suspected_transactions: dict[str, datetime] = {}
        self.verified = 0
        self.news = 0
        # What is broken and not written down yet, by the id of the finding.
        self._found: dict[str, Violation] = {}

    @property
    def has_time(self) -> bool:
        """Say whether the deadline, on the monotonic clock, lies ahead."""
        return time.monotonic() < self._deadline

    def verify(self, targets: Mapping[str, int], *, entries_max: int) -> Targets:
        """Verify wallets up to what was seen of them; return those that time or number left over."""
        left, until_verified = dict(targets), self.verified + entries_max
        while left and self.verified < until_verified and self.has_time:
            batch = dict(islice(left.items(), BATCH_WALLETS))
            done = self._verify_batch(batch)
            for wallet_id, until in batch.items():
                del left[wallet_id]
                if done.get(wallet_id, until) < until:
                    left[wallet_id] = until
        return left

    def _verify_batch(self, batch: Targets) -> Targets:
        """Verify a part of each wallet; return how far each was followed, without those that are broken."""
        broken = findings.broken_wallets(batch, self._beginning)
        batch = {wallet_id: until for wallet_id, until in batch.items() if wallet_id not in broken}
        known, walks = self._look(batch)
        suspects = {wallet_id: batch[wallet_id] for wallet_id, found in walks.items() if found.broken}
        if suspects:
            # A wallet is not frozen on one reading alone.
            known_again, walks_again = self._look(suspects)
            known, walks = {**known, **known_again}, {**walks, **walks_again}
        for wallet_id, found in walks.items():
            if found.broken and not (found.is_short and self._is_too_early(wallet_id, batch[wallet_id])):
                self.report(found.broken)
        self._check_transactions(
            [entry["transaction_id"] for found in walks.values() for entry in found.fresh]
        )
        self.write_down(
            [
                checkpoints.move(known.get(wallet_id), found.reached, self._now)
                for wallet_id, found in walks.items()
                if found.reached is not None and (found.fresh or not is_current(known[wallet_id]))
            ]
        )
        self.verified += sum(len(found.fresh) for found in walks.values())
        sound = {wallet_id: found for wallet_id, found in walks.items() if not found.broken}
        return {wallet_id: found.reached["sequence"] for wallet_id, found in sound.items() if found.reached}

    def _look(self, batch: Targets) -> tuple[dict[str, Document], dict[str, Walk]]:
        """Read checkpoints, then entries, and follow each chain for as far as a batch may."""
        known = checkpoints.find(batch, self._beginning)
        walks, ranges = {}, {}
        for wallet_id, until in batch.items():
            was = known.get(wallet_id)
            if was is not None and (fault := checkpoints.seal_fault(was)):
                place = was.get("sequence")
                sequence = place if isinstance(place, int) else None
                walks[wallet_id] = Walk(broken=Violation("L1", fault.detail, wallet_id, sequence))
                continue
            first = max(1, was["sequence"]) if was is not None else 1
            ranges[wallet_id] = (first, max(first, min(until, first + BATCH_ENTRIES // len(batch))))
        chains = _read_chains(ranges)
        for wallet_id, (_, last) in ranges.items():
            entries = chains.get(wallet_id, ())
            was = known.get(wallet_id)
            if was is not None and was["sequence"] == 0:
                walks[wallet_id] = walk(wallet_id, None, entries, last, None)
            else:
                walks[wallet_id] = walk(wallet_id, was, entries, last, self._since)
        return known, walks

    def _is_too_early(self, wallet_id: str, until: int) -> bool:
        """Note that something is missing; say whether it is too early to tell."""
        earlier = self._suspected.get(wallet_id)
        since = earlier.since if earlier else self._now
        if earlier and self._now - since >= timedelta(seconds=MISSING_SECONDS_MIN):
            return False
        self.suspicions[wallet_id] = Suspicion(max(until, earlier.until if earlier else 0), since)
        return True

    def check_again(self, found: Iterable[Document]) -> None:
        """Look again at what was found and is open.

        A wallet is frozen again if somebody has thawed it in the database; a transaction that is right now is
        cleared.
        """
        rows = [row for row in found if row["is_open"]]
        # Asked again: staff may have settled one meanwhile.
        wallets = {row["wallet_id"] for row in rows if row["wallet_id"] is not None}
        for wallet_id in findings.broken_wallets(wallets, self._beginning):
            if self._freeze(wallet_id):
                logger.error("a broken wallet was not frozen; it is again", extra={"wallet_id": wallet_id})
        by_transaction: dict[str, list[Document]] = defaultdict(list)
        for row in rows:
            if row["wallet_id"] is None and row["transaction_id"] is not None:
                by_transaction[row["transaction_id"]].append(row)
        still = {violation.transaction_id for violation in self._judge_transactions(list(by_transaction))}
        self._clear(row for id_, rows in by_transaction.items() if id_ not in still for row in rows)

    def _clear(self, found: Iterable[Document]) -> None:
        changes = findings.close(found, by="the audit", now=self._now)
        self.write_down(changes)
        findings.tell_closed(changes, by="the audit")

    def check_part(self, *, before: str | None) -> Part:
        """Check the next part of the round over transactions; what is wrong is suspected at first."""
        limit = min(BATCH_TRANSACTIONS, settings.AUDIT_TRANSACTIONS_MAX)

        def suspect(violation: Violation) -> None:
            self.suspected_transactions.setdefault(str(violation.transaction_id), self._now)

        return self._crosscheck(suspect).next_part(before=before, limit=limit)

    def check_suspected(self, suspected: Mapping[str, datetime]) -> None:
        """Report the transactions that an earlier tick found wrong and that are wrong still."""
        ripe = self._now - timedelta(seconds=MISSING_SECONDS_MIN)
        for violation in self._judge_transactions(list(suspected)):
            id_ = str(violation.transaction_id)
            if suspected[id_] <= ripe:
                self._report_transaction(violation)
            else:
                self.suspected_transactions[id_] = suspected[id_]

    def check_ground(self) -> None:
        """Report what no round would come upon; clear what was reported of it and is in order again."""
        reader = Reader(lambda done, total: None)
        reader.expect({})
        has_odd_ids = self._transactions is not None and self._transactions.has_odd_ids()
        for fault, is_there in ((INDEX_MISSING, not reader.has_unique_index()), (ODD_ID, has_odd_ids)):
            if is_there:
                self.report(Violation(fault.invariant, fault.detail))
            else:
                self._clear(findings.find_general(fault.invariant, self._beginning))

    def report(self, violation: Violation) -> None:
        """Freeze the wallet that a violation names, and have it written down soon."""
        if violation.wallet_id is not None:
            self._freeze(violation.wallet_id)
        self._found.setdefault(findings.id_of(violation), violation)
        if len(self._found) >= FOUND_MAX:
            self.write_down()

    def write_down(self, changes: Sequence[Change] = ()) -> None:
        """Write down what was found and these changes, as one. Raises Overtaken, Transient."""
        news = findings.open_all(self._found.values(), self._beginning, self._now) if self._found else []
        if news or changes:
            self._record.commit([*news, *changes])
        self._found.clear()
        self.news += len(news)
        findings.tell(news)

    def _check_transactions(self, transaction_ids: Iterable[str | None]) -> None:
        ids = dict.fromkeys(id_ for id_ in transaction_ids if id_ is not None)
        for violation in self._judge_transactions(list(ids)):
            self._report_transaction(violation)

    def _report_transaction(self, violation: Violation) -> None:
        # A transaction that contradicts its entries is no reason to freeze a wallet whose chain is sound.
        self.report(Violation(violation.invariant, violation.detail, transaction_id=violation.transaction_id))

    def _judge_transactions(self, transaction_ids: list[str]) -> Iterator[Violation]:
        for batch in batches(transaction_ids, BATCH_TRANSACTIONS):
            found: list[Violation] = []
            self._crosscheck(found.append).these(batch)
            yield from found

    def _crosscheck(self, on_violation: Callable[[Violation], None]) -> Crosscheck:
        reader, tally = Reader(lambda done, total: None), Tally(self._now, on_violation)
        return Crosscheck(reader, tally, self._transactions, expect_settled=False)


def _read_chains(ranges: Mapping[str, tuple[int, int]]) -> dict[str, list[Document]]:
    parts = [
        {"wallet_id": wallet_id, "sequence": {"$gte": first, "$lte": last}}
        for wallet_id, (first, last) in ranges.items()
    ]
    rows = committed(LedgerEntry).find({"$or": parts}).sort(ORDER) if parts else ()
    return {wallet_id: list(group) for wallet_id, group in groupby(rows, key=wallet_of)}


def wallet_of(entry: Document) -> Any:
    """Return the wallet of an entry, whatever it is."""
    return entry.get("wallet_id")


def sequence_of(document: Document) -> int:
    """Return the sequence in a document, -1 where it is no number."""
    sequence = document.get("sequence")
    return sequence if isinstance(sequence, int) else -1


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield the items in lists of up to `size`."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
