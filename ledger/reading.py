"""Reading the ledger for the audit: streams of raw documents, whatever they hold, with the progress made.

What must stay true: at most two batches are in memory, one being judged while the next one travels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import mongoengine
from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import ReadPreference
from pymongo.collection import Collection as Stored
from pymongo.read_concern import ReadConcern

from ledger.documents import LedgerEntry
from ledger.verification import LEG_FIELDS, TRANSACTION_PREFIX, Document
from payflow.mongodb import collection

BATCH_ENTRIES = 1_000

Progress = Callable[[int, int], None]

# Dates beyond Python's and text that is not UTF-8 must arrive, to be judged.
LENIENT = CodecOptions[dict[str, Any]](
    tz_aware=True,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="replace",
)


def committed(document: type[mongoengine.Document]) -> Stored:
    """Return a collection for comparing what is stored now with what was seen before.

    It shows what a majority holds, read from the primary: nothing that was seen may be gone the next time
    because a node failed over or lags behind.
    """
    return collection(document).with_options(
        codec_options=LENIENT,
        read_concern=ReadConcern("majority"),
        read_preference=ReadPreference.PRIMARY,
    )


class Reader:
    """Streams entries and calls `on_progress(done, total)` once a batch."""

    def __init__(self, on_progress: Progress) -> None:
        self._entries = collection(LedgerEntry).with_options(codec_options=LENIENT)
        self._on_progress = on_progress
        self._done = self._total = 0

    def expect(self, scope: Mapping[str, str]) -> None:
        """Estimate the work: all entries are read twice, a wallet's once."""
        whole = 2 * self._entries.estimated_document_count()
        self._total = self._entries.count_documents(scope) if scope else whole

    def has_unique_index(self) -> bool:
        """Say whether the index that keeps chains from forking is there, or there is nothing to keep yet."""
        keys = [("wallet_id", 1), ("sequence", 1)]
        indexes = self._entries.index_information().values()
        return not self._total or any(index["key"] == keys and index.get("unique") for index in indexes)

    def stream(
        self, query: Mapping[str, Any], *, order: Mapping[str, int], only: Collection[str] | None = None
    ) -> Iterator[Document]:
        """Yield documents in an order that an index serves."""
        cursor = self._entries.find(query, only, batch_size=BATCH_ENTRIES).sort(order)
        for batch in read_ahead(cursor):
            yield from batch
            self._done += len(batch)
            self._on_progress(min(self._done, self._total), self._total)

    def legs(self, transaction_ids: Collection[str]) -> list[Document]:
        """Return the entries of some transactions."""
        ids = [f"{id_}:{operation}" for id_ in transaction_ids for operation in ("debit", "credit", "refund")]
        return list(self._entries.find({"_id": {"$in": ids}}, LEG_FIELDS))

    def legs_before(self, before: str | None, limit: int) -> list[Document]:
        """Return up to `limit` entries of transactions with an id below `before`, in descending order."""
        end = after_prefix(TRANSACTION_PREFIX)
        range_ = {"$gte": TRANSACTION_PREFIX, "$lt": end if before is None else min(before, end)}
        return list(self._entries.find({"_id": range_}, LEG_FIELDS).sort("_id", -1).limit(limit))

    def finish(self) -> None:
        """Tell that all is done."""
        self._on_progress(self._total, self._total)


def after_prefix(prefix: str) -> str:
    """Return the smallest text behind every text that starts with `prefix`."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def read_ahead(cursor: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the cursor's documents in batches; the server prepares the next while this one is being used."""
    documents = iter(cursor)
    with ThreadPoolExecutor(max_workers=1) as reader:
        ahead = reader.submit(_take, documents)
        while batch := ahead.result():
            ahead = reader.submit(_take, documents)
            yield batch


def _take(documents: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    return list(islice(documents, BATCH_ENTRIES))
