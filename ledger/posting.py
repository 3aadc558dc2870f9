"""Posting: the only code that inserts ledger entries.

One insert is at once the guard against overdraft, the idempotency record and the audit trail. What must
stay true:
- an operation id gets at most one entry (`_id` is unique), however often and concurrently it is posted;
- a chain has no gap and no fork (`wallet_id, sequence` is unique, and two entries of one wallet never travel
  in the same unordered insert, where the second could land without the first);
- a process that dies anywhere leaves whole entries or none: posting the same batch again finishes it.
"""

from __future__ import annotations

import logging
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence

from pymongo.errors import BulkWriteError

from ledger import selectors
from ledger.chain import Entry, Posting, extend
from ledger.documents import LedgerEntry
from ledger.errors import Contention
from payflow import clock
from payflow.crashpoints import crash_point
from payflow.errors import Transient
from payflow.mongodb import DUPLICATE_KEY_CODE, collection, unavailable_is_transient

logger = logging.getLogger(__name__)

BATCH_MAX = 1_000
ATTEMPTS_MAX = 40
PAUSE_SECONDS_MAX = 0.25
# From this many entries on, a wallet's chain travels in one ordered insert instead of one round per entry.
HOT_WALLET_ENTRIES_MIN = 4


def post(postings: Sequence[Posting]) -> dict[str, Entry]:
    """Post a batch; return the entry of every operation by its id, new or already there.

    Safe to repeat and to race. An operation that can become no entry (another currency than its wallet's,
    a settlement beyond int64) is missing from the answer. Raises Contention when other writers were faster
    ATTEMPTS_MAX times, Transient when MongoDB does not answer; what landed until then stays.
    """
    wanted = _by_operation(postings)
    done = selectors.find_entries(wanted)
    for attempt in range(ATTEMPTS_MAX):
        pending = [posting for operation_id, posting in wanted.items() if operation_id not in done]
        if not pending:
            return done
        landed, collided = _attempt(pending)
        done.update(landed)
        if not collided:
            return _without_impossible(wanted, done)
        time.sleep(random.uniform(0, min(PAUSE_SECONDS_MAX, 0.002 * 2**attempt)))  # noqa: S311 - jitter
        done.update(selectors.find_entries(wanted.keys() - done.keys()))
    if all(operation_id in done for operation_id in wanted):
        return done
    raise Contention(sorted({p.wallet_id for o, p in wanted.items() if o not in done}))


def _by_operation(postings: Sequence[Posting]) -> dict[str, Posting]:
    if len(postings) > BATCH_MAX:
        raise ValueError(f"a batch holds at most {BATCH_MAX} postings, not {len(postings)}")
    wanted: dict[str, Posting] = {}
    for posting in postings:
        if wanted.setdefault(posting.operation_id, posting) != posting:
            raise ValueError(f"{posting.operation_id} stands for two different postings in one batch")
    return wanted


def _without_impossible(wanted: dict[str, Posting], done: dict[str, Entry]) -> dict[str, Entry]:
    for operation_id in wanted.keys() - done.keys():
        logger.error("posting is impossible", extra={"operation_id": operation_id})
    return done


def _attempt(pending: Sequence[Posting]) -> tuple[dict[str, Entry], bool]:
    """Extend every chain concerned once. Return what landed and whether any chain had moved meanwhile."""
    by_wallet: dict[str, list[Posting]] = defaultdict(list)
    for posting in pending:
        by_wallet[posting.wallet_id].append(posting)
    heads = selectors.read_heads(by_wallet.keys())
    now = clock.now()
    chains = [extend(heads.get(wallet_id), group, now) for wallet_id, group in by_wallet.items()]
    crash_point("posting.before_insert")
    hot = [chain for chain in chains if len(chain) >= HOT_WALLET_ENTRIES_MIN]
    cool = [chain for chain in chains if 0 < len(chain) < HOT_WALLET_ENTRIES_MIN]
    landed, collided = _insert_in_rounds(cool)
    for chain in hot:
        crash_point("posting.between_inserts")
        prefix = _insert(chain, ordered=True)
        landed += prefix
        collided = collided or len(prefix) < len(chain)
    crash_point("posting.after_insert")
    return {entry.id: entry for entry in landed}, collided


def _insert_in_rounds(chains: Iterable[list[Entry]]) -> tuple[list[Entry], bool]:
    """Insert every chain's first entry, then every second …; a chain that collided takes no further part."""
    landed: list[Entry] = []
    collided = False
    remaining = list(chains)
    for round_ in range(HOT_WALLET_ENTRIES_MIN):
        remaining = [chain for chain in remaining if len(chain) > round_]
        if not remaining:
            break
        if round_:
            crash_point("posting.between_inserts")
        through = _insert([chain[round_] for chain in remaining], ordered=False)
        arrived = {entry.wallet_id for entry in through}
        collided = collided or len(through) < len(remaining)
        remaining = [chain for chain in remaining if chain[round_].wallet_id in arrived]
        landed += through
    return landed, collided


def _insert(entries: list[Entry], *, ordered: bool) -> list[Entry]:
    """Insert and return those that landed; a duplicate key of either index means "somebody was faster"."""
    documents = [entry.to_document() for entry in entries]
    try:
        with unavailable_is_transient():
            collection(LedgerEntry).insert_many(documents, ordered=ordered)
    except BulkWriteError as error:
        failures = error.details.get("writeErrors", [])
        if error.details.get("writeConcernErrors") or any(f["code"] != DUPLICATE_KEY_CODE for f in failures):
            raise Transient("The ledger could not be written. Try again shortly.") from error
        failed = {failure["index"] for failure in failures}
        until = min(failed) if ordered else len(entries)
        return [entry for index, entry in enumerate(entries[:until]) if index not in failed]
    return entries
