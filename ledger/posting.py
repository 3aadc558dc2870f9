"""Posting: the only code that inserts ledger entries.

One insert is at once the guard against overdraft, the idempotency record and the audit trail. What must
stay true:
- an operation id gets at most one entry (`_id` is unique), however often and concurrently it is posted;
- a chain has no gap and no fork (`wallet_id, sequence` is unique, and two entries of one wallet never travel
  in the same unordered insert, where the second could land without the first);
- each entry is stored with a MAC, and nothing extends an entry whose MAC or hash does not fit: money that
  somebody has written into the database cannot be spent, not even before the audit finds it;
- a process that dies anywhere leaves whole entries or none: posting the same batch again finishes it.
"""

from __future__ import annotations

import logging
import random
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pymongo.errors import BulkWriteError

from ledger import audit_record, selectors
from ledger.chain import Entry, Posting, extend
from ledger.documents import LedgerEntry
from ledger.errors import Contention
from ledger.keys import entry_mac, ledger_keys
from ledger.selectors import BrokenEntry
from payflow import clock
from payflow.crashpoints import crash_point
from payflow.crypto.mac_keys import MacKeyring
from payflow.errors import Transient
from payflow.mongodb import DUPLICATE_KEY_CODE, collection, unavailable_is_transient

logger = logging.getLogger(__name__)

BATCH_MAX = 1_000
ATTEMPTS_MAX = 40
PAUSE_SECONDS_MAX = 0.25
ROUNDS_MAX = 16


def post(
    postings: Sequence[Posting],
    *,
    heads: Mapping[str, Entry | BrokenEntry] | None = None,
    inserted: set[str] | None = None,
) -> dict[str, Entry]:
    """Post a batch; return the entry of every operation by its id, new or already there.

    Safe to repeat and to race. An operation that can become no entry (another currency than its wallet's,
    a settlement beyond int64, a wallet whose newest entry is none) is missing from the answer. Raises
    Contention when other writers were faster ATTEMPTS_MAX times, Transient when MongoDB does not answer;
    what landed until then stays.

    `heads` saves a read where the caller has just read the newest entries of all wallets concerned. They
    may be stale: then the unique indexes refuse, and the next attempt reads for itself. `inserted` is given
    the ids of those that were not there before.
    """
    wanted = _by_operation(postings)
    with unavailable_is_transient():
        audit_record.ensure_begun()
    done: dict[str, Entry] = {}
    for attempt in range(ATTEMPTS_MAX):
        pending = [posting for operation_id, posting in wanted.items() if operation_id not in done]
        if not pending:
            return done
        landed, collided = _attempt(pending, heads if attempt == 0 else None)
        done.update(landed)
        if inserted is not None:
            inserted.update(landed)
        if len(done) == len(wanted):
            return done
        # Asked only now, because nearly every operation is new: the index on `_id` refuses the others.
        for operation_id, entry in selectors.read_entries(wanted.keys() - done.keys()).items():
            if isinstance(entry, BrokenEntry):
                _give_up(wanted.pop(operation_id))
            else:
                done[operation_id] = entry
        if not collided:
            return _without_impossible(wanted, done)
        if attempt:
            time.sleep(random.uniform(0, min(PAUSE_SECONDS_MAX, 0.002 * 2**attempt)))  # noqa: S311 - jitter
    if len(done) == len(wanted):
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
        _give_up(wanted[operation_id])
    return done


def _give_up(posting: Posting) -> None:
    facts = {"operation_id": posting.operation_id, "wallet_id": posting.wallet_id}
    logger.error("posting is impossible", extra=facts)


def _attempt(
    pending: Sequence[Posting], heads: Mapping[str, Entry | BrokenEntry] | None
) -> tuple[dict[str, Entry], bool]:
    """Extend every chain concerned once, but those that nothing can follow.

    Return what landed and whether any chain had moved meanwhile.
    """
    by_wallet: dict[str, list[Posting]] = defaultdict(list)
    for posting in pending:
        by_wallet[posting.wallet_id].append(posting)
    if heads is None:
        heads = selectors.read_heads(by_wallet.keys())
    now = clock.now()
    chains = [
        extend(head, group, now)
        for wallet_id, group in by_wallet.items()
        if not isinstance(head := heads.get(wallet_id), BrokenEntry)
    ]
    crash_point("posting.before_insert")
    hot_length = find_hot_length([len(chain) for chain in chains])
    landed, collided = _insert_in_rounds([chain for chain in chains if 0 < len(chain) < hot_length])
    for chain in chains:
        if len(chain) < hot_length:
            continue
        crash_point("posting.between_inserts")
        prefix = _insert(chain, ordered=True)
        landed += prefix
        collided = collided or len(prefix) < len(chain)
    crash_point("posting.after_insert")
    return {entry.id: entry for entry in landed}, collided


def find_hot_length(lengths: Sequence[int]) -> int:
    """Return from which length on a chain travels in an ordered insert of its own. Pure.

    Shorter chains travel together, one round trip for every chain's first entry, one for every second, and
    so on; a longer one takes one round trip for itself. The answer makes the sum of both smallest.
    """
    candidates = sorted({*lengths, 0})
    round_trips = {
        rounds + 1: rounds + sum(length > rounds for length in lengths)
        for rounds in candidates[: bisect_right(candidates, ROUNDS_MAX)]
    }
    return min(round_trips, key=lambda length: (round_trips[length], length))


def _insert_in_rounds(chains: Iterable[list[Entry]]) -> tuple[list[Entry], bool]:
    """Insert every chain's first entry, then every second …; a chain that collided takes no further part."""
    landed: list[Entry] = []
    collided = False
    remaining = list(chains)
    for round_ in range(ROUNDS_MAX):
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


def stored_entry(entry: Entry, keys: MacKeyring) -> dict[str, Any]:
    """Return an entry as MongoDB stores it: with the MAC that proves who has written it."""
    document = entry.to_document()
    document["key_id"], document["mac"] = entry_mac(entry.hash, keys)
    return document


def _insert(entries: list[Entry], *, ordered: bool) -> list[Entry]:
    """Insert and return those that landed; a duplicate key of either index means "somebody was faster"."""
    keys = ledger_keys()
    documents = [stored_entry(entry, keys) for entry in entries]
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
