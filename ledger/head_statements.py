"""Signed statements of all heads: what the ledger held at a moment, kept out of reach of MongoDB's writers.

A statement is a file of JSON lines: a header, one line a wallet, and a trailer with a signature (Ed25519, a
detached JWS as receipts have, with the same keys). Invariants:
- The signature covers every byte before the trailer, through a running SHA-256. A file that was cut, changed
  or continued proves nothing.
- Memory does not grow with the number of wallets: lines are written and read one at a time.
- A head is written as an audit has just verified it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ledger.documents import LedgerEntry
from ledger.incremental import batches
from ledger.reading import committed
from ledger.selectors import heads_pipeline
from ledger.verdict import Violation
from ledger.verification import Document
from payflow import clock
from payflow.mongodb import unavailable_is_transient
from payflow.signing import BadSignature, Keyring

SCHEMA = "payflow.heads/1"
TYP = "payflow-heads+jws"
LINE_BYTES_MAX = 4_096
BATCH_HEADS = 200


class BadStatement(Exception):  # noqa: N818 - it reads as what happened
    """A file that proves nothing, and why."""


class Head(NamedTuple):
    """A wallet's newest entry as a statement remembers it."""

    wallet_id: str
    currency: str
    sequence: int
    balance_minor: str
    hash: str


# --- Writing ----------------------------------------------------------------------------------------------


class StatementWriter:
    """Writes a new file, readable by its owner only. Raises FileExistsError, OSError."""

    def __init__(self, path: Path, *, issuer: str, exported_at: datetime) -> None:
        self._path = path
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self._digest = hashlib.sha256()
        self._entries = 0
        self.wallets = 0
        self._write({"schema": SCHEMA, "issuer": issuer, "exported_at": clock.rfc3339(exported_at)})

    def add(self, entry: Document) -> None:
        """Write a wallet's verified head."""
        # int64 does not fit the numbers of JSON that every parser reads alike.
        minor = str(entry["balance_minor"])
        head = Head(entry["wallet_id"], entry["currency"], int(entry["sequence"]), minor, entry["hash"])
        self._write(head._asdict())
        self.wallets += 1
        self._entries += head.sequence

    def finish(self, keys: Keyring) -> None:
        """Sign what was written, and close the file."""
        total = {"wallets": self.wallets, "entries": self._entries, "sha256": self._digest.hexdigest()}
        self._write({**total, "signature": keys.sign(total, typ=TYP)})
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> StatementWriter:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove a file that was not finished: it states nothing."""
        if not self._file.closed:
            self._file.close()
            self._path.unlink(missing_ok=True)

    def _write(self, line: dict[str, Any]) -> None:
        raw = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        self._digest.update(raw)
        self._file.write(raw)


# --- Reading ----------------------------------------------------------------------------------------------


class Statement:
    """A statement in a file. `exported_at` and `wallets` are known once `heads` has ended."""

    def __init__(self, path: Path, *, keys: Keyring, issuer: str) -> None:
        self._path = path
        self._keys = keys
        self._issuer = issuer
        self.exported_at = ""
        self.wallets = 0

    def verify(self) -> None:
        """Read all of it. Raises BadStatement, OSError."""
        for _ in self.heads():
            pass

    def heads(self) -> Iterator[Head]:
        """Yield the heads. Only after the last one is it known that they are genuine.

        Raises BadStatement, OSError.
        """
        with self._path.open("rb") as file:
            digest = hashlib.sha256()
            header, raw = _read_line(file, 1)
            if (header.get("schema"), header.get("issuer")) != (SCHEMA, self._issuer):
                raise BadStatement(f"it is no statement of heads by {self._issuer!r}")
            self.exported_at, self.wallets, entries = str(header.get("exported_at")), 0, 0
            while True:
                digest.update(raw)
                line, raw = _read_line(file, self.wallets + 2)
                if "signature" in line:
                    break
                head = _head_in(line, self.wallets + 2)
                self.wallets += 1
                entries += head.sequence
                yield head
            total = {"wallets": self.wallets, "entries": entries, "sha256": digest.hexdigest()}
            self._verify_trailer(line, total)
            if file.read(1):
                raise BadStatement("something follows its signature")

    def _verify_trailer(self, line: dict[str, Any], total: dict[str, Any]) -> None:
        signature = line["signature"]
        if line != {**total, "signature": signature} or not isinstance(signature, str):
            raise BadStatement("its lines are not those that were signed")
        try:
            self._keys.verify(total, signature, typ=TYP)
        except BadSignature as error:
            raise BadStatement(str(error)) from None


def _read_line(file: BinaryIO, number: int) -> tuple[dict[str, Any], bytes]:
    raw = file.readline(LINE_BYTES_MAX)
    if not raw.endswith(b"\n"):
        is_long = len(raw) == LINE_BYTES_MAX
        raise BadStatement(f"line {number} is too long" if is_long else "it was cut off: its end is missing")
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        line = None
    if not isinstance(line, dict):
        raise BadStatement(f"line {number} is no JSON object")
    return line, raw


def _head_in(line: dict[str, Any], number: int) -> Head:
    values = tuple(line.get(name) for name in Head._fields)
    if line.keys() != set(Head._fields) or tuple(map(type, values)) != (str, str, int, str, str):
        raise BadStatement(f"line {number} is no head of a wallet")
    return Head(**line)


# --- Comparing --------------------------------------------------------------------------------------------


def find_contradictions(statement: Statement) -> Iterator[Violation]:
    """Yield each wallet whose chain does not extend what the statement remembers of it.

    Where a chain is sound in itself and holds the remembered entry at its sequence, everything before it is
    unchanged too, because each hash covers the one before. Raises BadStatement, OSError, Transient.
    """
    for batch in batches(statement.heads(), BATCH_HEADS):
        with unavailable_is_transient():
            places = [{"wallet_id": head.wallet_id, "sequence": head.sequence} for head in batch]
            rows = committed(LedgerEntry).find({"$or": places}, (*Head._fields,))
            found = {row["wallet_id"]: row for row in rows}
            lost = [head.wallet_id for head in batch if head.wallet_id not in found]
            newest = committed(LedgerEntry).aggregate(heads_pipeline(lost)) if lost else ()
            ends = {row["_id"]: row["head"].get("sequence") for row in newest}
        for head in batch:
            row = found.get(head.wallet_id)
            if row is not None and _is_same(head, row):
                continue
            if row is not None:
                detail = f"#{head.sequence} is another entry than {statement.exported_at} stated"
            elif head.wallet_id in ends:
                stated = f"#{head.sequence}, which {statement.exported_at} stated, is gone"
                detail = f"{stated}: the chain ends with #{ends[head.wallet_id]}"
            else:
                detail = f"the wallet has vanished: {statement.exported_at} stated #{head.sequence}"
            yield Violation("L1", detail, head.wallet_id, head.sequence)


def _is_same(head: Head, row: Document) -> bool:
    """Say whether a stored entry, whatever it holds, is the one that a statement remembers."""
    return {**head._asdict(), "_id": row["_id"]} == {**row, "balance_minor": str(row.get("balance_minor"))}
