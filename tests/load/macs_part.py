"""Measures what the MACs of ledger entries cost (L8): a share of a posting's CPU, and of the audit's pace.

With and without alternate in one process, over the same entries, by CPU time: the machine's other users count
for both alike. Left out are the MAC, and the hash of each newest entry that posting reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any
from unittest.mock import patch

from ledger import chain
from ledger.audit import audit
from ledger.documents import LedgerEntry
from ledger.keys import ledger_keys
from ledger.posting import stored_entry
from ledger.reading import LENIENT
from ledger.selectors import entry_in
from ledger.verification import malformation
from payflow.mongodb import collection

SAMPLE = 2_000
REPEATS = 15
AUDITED_WALLETS = 20

Stored = dict[str, Any]


def mac_costs(wallet_ids: Sequence[str], *, posting_ms: float, heads_per_posting: float) -> dict[str, float]:
    """Return how many microseconds a posting's MAC work takes, its share, and the audit's pace with MACs."""
    rows = collection(LedgerEntry).with_options(codec_options=LENIENT)
    stored = list(rows.find({"wallet_id": {"$in": list(wallet_ids)}}).limit(SAMPLE))
    entries, keys = [chain.from_document(document) for document in stored], ledger_keys()
    written = _extra_us(lambda e: stored_entry(e, keys), chain.Entry.to_document, entries)
    read = _extra_us(entry_in, _read_without_proof, stored)
    us = written + heads_per_posting * read
    with_, without = _audit_cpu(wallet_ids[:AUDITED_WALLETS])
    return {
        "written_us": written,
        "read_us": read,
        "posting_us": us,
        "posting_share": us / (posting_ms * 1000 - us),
        "audit_per_cpu_second": with_,
        "audit_per_cpu_second_without": without,
        "audit_pace": with_ / without,
    }


def _read_without_proof(document: Stored) -> chain.Entry | None:
    return None if malformation(document) else chain.from_document(document)


def _extra_us(with_: Callable[[Any], Any], without: Callable[[Any], Any], items: Sequence[Any]) -> float:
    """Return the CPU time that an item takes more, the median of alternating repeats."""
    found = [_cpu_us(with_, items) - _cpu_us(without, items) for _ in range(REPEATS)]
    return max(0.0, median(found))


def _cpu_us(work: Callable[[Any], Any], items: Sequence[Any]) -> float:
    began = time.process_time()
    for item in items:
        work(item)
    return (time.process_time() - began) * 1e6 / len(items)


def _audit_cpu(wallet_ids: Sequence[str]) -> tuple[float, float]:
    """Return how many entries a second of CPU audits, with their MACs and without."""
    entries, used = 0, {True: 0.0, False: 0.0}
    for number, wallet_id in enumerate(wallet_ids):
        for has_macs in (number % 2 == 0, number % 2 == 1):
            began = time.process_time()
            if has_macs:
                verdict = audit(wallet_id=wallet_id)
            else:
                with patch("ledger.verification.entry_mac_fault", new=lambda entry, keys: ""):
                    verdict = audit(wallet_id=wallet_id)
            used[has_macs] += time.process_time() - began
        entries += verdict.entries
    return entries / used[True], entries / used[False]
