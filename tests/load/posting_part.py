"""Measures the posting engine in this process, against servers of its own with nobody else on them.

The money comes from outside and goes back there, so that the ledger it leaves can be audited like any other.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from django.conf import settings

from ledger import chain, posting, selectors
from ledger.chain import Kind, Posting
from ledger.documents import LedgerEntry
from ledger.keys import ledger_keys
from payflow import clock
from payflow.ids import new_id
from payflow.mongodb import collection, ensure_indexes
from tests.load import procfs, windows
from tests.load.ceiling_part import engine_ceiling
from tests.load.load import LoadError
from tests.load.macs_part import mac_costs
from tests.load.population import create_funded_wallet
from tests.load.sizes import Sizes

BATCH = 500
FILL_PER_WALLET = 10
WARM_UP_BATCHES = 6
# At rest: less of a CPU than this for so long. Its checkpoints come once a minute.
REST_CPUS_MAX = 0.05
REST_POLL_SECONDS = 2.0
REST_SECONDS_MAX = 90.0
Say = Callable[[str], None]


def posting_alone(sessions: Mapping[str, int], sizes: Sizes, say: Say) -> dict[str, Any]:
    """Postings per second and their CPU time: over many wallets, into one, and in a long history."""
    ensure_indexes()
    wallet_ids = [create_funded_wallet(new_id("usr")) for _ in range(sizes.posting_wallets)]
    hot = wallet_ids[:1]
    for _ in range(WARM_UP_BATCHES):
        _post_batch(wallet_ids)
    # Half of the measured postings come before, half after the size that they stand for.
    _fill(wallet_ids, sizes.entries_few - sizes.windows * sizes.postings_per_window // 2, say)
    report = {"many_wallets": _measure(sessions, sizes, wallet_ids, say, "over many wallets")}
    report["one_wallet"] = _measure(sessions, sizes, hot, say, "into one wallet")
    say("a transfer's writes and nothing else")
    report["ceiling"] = engine_ceiling(
        sessions, wallet_ids, count=sizes.postings_per_window, times=sizes.windows
    )
    _fill(wallet_ids, sizes.entries_many - sizes.windows * sizes.postings_per_window // 2, say)
    _rest(sessions)
    report["long_history"] = _measure(sessions, sizes, wallet_ids, say, "in a long history")
    say("what the MACs of entries cost")
    report["macs"] = mac_costs(
        wallet_ids,
        posting_ms=sum(report["long_history"]["cpu_ms"].values()),
        heads_per_posting=_heads_per_posting(wallet_ids),
    )
    few, many = report["many_wallets"], report["long_history"]
    ratios = {
        "cost_ratio": few["per_second"] / many["per_second"],
        "cost_ratio_cpu": sum(many["cpu_ms"].values()) / sum(few["cpu_ms"].values()),
    }
    return {**report, **ratios, "entries": collection(LedgerEntry).estimated_document_count()}


def _measure(
    sessions: Mapping[str, int], sizes: Sizes, wallet_ids: list[str], say: Say, what: str
) -> dict[str, Any]:
    say(f"postings {what}")
    batches = max(1, sizes.postings_per_window // BATCH)
    entries = collection(LedgerEntry).estimated_document_count()
    found = []
    for _ in range(sizes.windows):
        with windows.measured(sessions) as window:
            for _ in range(batches):
                _post_batch(wallet_ids)
        found.append(window.cost_of(batches * BATCH))
    return {**windows.middle_cost(found), "entries_before": entries}


def _rest(sessions: Mapping[str, int]) -> None:
    """Wait until MongoDB has put away what it was filled with: that work is not the next posting's."""
    deadline = time.monotonic() + REST_SECONDS_MAX
    while time.monotonic() < deadline:
        used = sum(procfs.cpu_seconds(sessions).values())
        time.sleep(REST_POLL_SECONDS)
        if sum(procfs.cpu_seconds(sessions).values()) - used < REST_POLL_SECONDS * REST_CPUS_MAX:
            return


def _post_batch(wallet_ids: list[str]) -> None:
    wishes = [_wish(wallet_id) for wallet_id in random.choices(wallet_ids, k=BATCH)]  # noqa: S311 - no secret
    done = posting.post(wishes)
    if any(wish.operation_id not in done for wish in wishes):
        raise LoadError("the ledger left out postings that are possible")


def _heads_per_posting(wallet_ids: list[str]) -> float:
    """How many newest entries a batch reads for each of its postings, on average."""
    missed = (1 - 1 / len(wallet_ids)) ** BATCH
    return len(wallet_ids) * (1 - missed) / BATCH


def _wish(wallet_id: str) -> Posting:
    """A deposit or a withdrawal of as much."""
    kind = random.choice((Kind.DEPOSIT, Kind.WITHDRAWAL))  # noqa: S311 - no secret
    return Posting(f"{new_id('op')}:{kind.value.lower()}", wallet_id, kind, 1, settings.DEFAULT_CURRENCY)


def _fill(wallet_ids: list[str], count: int, say: Say) -> None:
    """Lengthen the chains evenly until the collection holds `count` entries.

    Past the engine: nobody else writes here, so valid chains can be inserted as fast as MongoDB takes them.
    """
    stored = collection(LedgerEntry)
    have = stored.estimated_document_count()
    heads = selectors.find_heads(wallet_ids)
    reported, keys = have, ledger_keys()
    while have < count:
        now, documents = clock.now(), []
        for wallet_id in wallet_ids:
            wishes = [_wish(wallet_id) for _ in range(FILL_PER_WALLET)]
            entries = chain.extend(heads[wallet_id], wishes, now)
            heads[wallet_id] = entries[-1]
            documents += [posting.stored_entry(entry, keys) for entry in entries]
        stored.insert_many(documents, ordered=False)
        have += len(documents)
        if have - reported >= 100_000:
            say(f"fill the ledger: {have} of {count} entries")
            reported = have
