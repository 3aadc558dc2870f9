"""`manage.py verify-receipt`: its words, its exit status, and what the ledger says to a receipt."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.management import CommandError, call_command

from ledger.documents import LedgerEntry
from payflow import signing
from payflow.mongodb import collection
from tests.ledger.books import with_mac
from tests.transfers import world
from tests.transfers.issued import (
    ALICE_HOLDS,
    BOB_HOLDS,
    OUTCOMES,
    RECEIVER,
    RING,
    SENDER,
    B,
    Document,
    changed,
    completed,
    digest_of,
    issue,
)  # fmt: skip
from transfers.documents import Transaction
from transfers.receipts import Reader
from wallets import services as wallet_services


@pytest.fixture
def alice() -> str:
    return world.person("alice", balance_minor=ALICE_HOLDS)


@pytest.fixture
def bob() -> str:
    return world.person("bob", balance_minor=BOB_HOLDS)


@pytest.fixture(params=OUTCOMES)
def ended(request: pytest.FixtureRequest, alice: str, bob: str) -> str:
    """A transaction of each outcome."""
    return OUTCOMES[request.param](alice, bob)


# --- The command ------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _own_keys(settings: LazySettings) -> None:
    settings.RECEIPT_SIGNING_KEYS = RING


def saved(folder: Path, document: Any, name: str = "receipt.json") -> str:
    raw = document if isinstance(document, bytes) else json.dumps(document, indent=2).encode()
    (folder / name).write_bytes(raw)
    return str(folder / name)


def said(*args: str, **options: Any) -> str:
    out = StringIO()
    call_command("verify-receipt", *args, stdout=out, no_color=True, **options)
    return out.getvalue()


def refusal(*args: str, **options: Any) -> tuple[int, str]:
    with pytest.raises(CommandError) as ended:
        said(*args, **options)
    return ended.value.returncode, str(ended.value)


def test_the_command_tells_a_valid_receipt_in_words(tmp_path: Path, alice: str, bob: str) -> None:
    transaction = completed(alice, bob)
    words = said(saved(tmp_path, issue(transaction)))
    assert words.startswith("This receipt is valid.\n")
    for part in ("25.00 USD", alice, bob, transaction, "COMPLETED", "hash recomputed", "sealed", "key a"):
        assert part in words
    keys = saved(tmp_path, RING.as_jwks(), "keys.json")
    assert said(str(tmp_path / "receipt.json"), "--keys", keys) == words


def test_the_command_says_what_is_wrong(tmp_path: Path, ended: str) -> None:
    document = changed(issue(ended), ("receipt", "transaction", "amount"), "0.01")
    code, words = refusal(saved(tmp_path, document))
    assert code == 1
    assert words.startswith("This receipt is NOT VALID.\n")
    assert "The signature of key 'a' does not fit" in words
    assert "The amount 0.01 is not" in words
    other = saved(tmp_path, signing.read_keys([B]).as_jwks(), "keys.json")
    code, words = refusal(saved(tmp_path, issue(ended)), "--keys", other)
    assert (code, "'a', which is not among the keys given" in words) == (1, True)


def test_the_command_prints_nothing_that_steers_a_terminal(tmp_path: Path, ended: str) -> None:
    document = changed(issue(ended), ("receipt", "entries", 0, "wallet_id"), "\x1b[2J\u202e")
    assert all(
        " " <= character <= "~" or character == "\n" for character in refusal(saved(tmp_path, document))[1]
    )


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"{}", b"\xff", b'{"receipt": {}, "receipt": {}, "signature": ""}', b"[" * 70_000,
     b'{"receipt": [], "signature": ""}', b'{"receipt": {}, "signature": 1}',
     b'{"receipt": {}, "signature": "", "more": 1}', b'{"receipt": ' + b"[" * 9_000, b" " * 70_000],
)  # fmt: skip
def test_the_command_tells_unreadable_from_invalid(tmp_path: Path, raw: bytes) -> None:
    assert refusal(saved(tmp_path, raw))[0] == 2


def test_the_command_needs_files_that_are_there(tmp_path: Path, ended: str) -> None:
    assert refusal(str(tmp_path / "none.json"))[0] == 2
    assert refusal(str(tmp_path))[0] == 2
    receipt = saved(tmp_path, issue(ended))
    assert refusal(receipt, "--keys", str(tmp_path / "none.json"))[0] == 2
    assert refusal(receipt, "--keys", saved(tmp_path, {"keys": []}, "keys.json"))[0] == 2


def test_the_command_works_with_neither_servers_nor_secrets(tmp_path: Path, alice: str, bob: str) -> None:
    receipt, keys = (
        saved(tmp_path, issue(completed(alice, bob))),
        saved(tmp_path, RING.as_jwks(), "keys.json"),
    )
    nothing = {
        "PATH": os.environ["PATH"],
        "PAYFLOW_ENV": "development",
        "MONGODB_URI": "mongodb://127.0.0.1:1/?directConnection=true",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "MONGODB_TIMEOUT_MS": "300",
    }

    def run(*args: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "manage.py", "verify-receipt", *args]
        root = Path(__file__).parents[2]
        return subprocess.run(
            command, env=nothing, capture_output=True, text=True, timeout=60, check=False, cwd=root
        )

    valid = run(receipt, "--keys", keys)
    assert (valid.returncode, valid.stderr) == (0, "")
    assert valid.stdout.startswith("This receipt is valid.")
    unknown = run(receipt)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "not among the keys given" in unknown.stderr
    assert "Traceback" not in unknown.stderr
    assert run(receipt, "--keys", keys, "--online").returncode == 2


def test_the_manuals_example_is_valid(tmp_path: Path) -> None:
    manual = (Path(__file__).parents[2] / "docs" / "receipts.md").read_text()
    document, keys = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", manual, re.DOTALL))
    words = said(saved(tmp_path, document), "--keys", saved(tmp_path, keys, "keys.json"))
    assert words.startswith("This receipt is valid.")


# --- Online -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", list(Reader))
def test_the_ledger_bears_its_receipts_out(tmp_path: Path, ended: str, reader: Reader, alice: str) -> None:
    receipt = saved(tmp_path, issue(ended, reader))
    # Its head is now an ancestor.
    wallet_services.deposit(user_id=alice, currency="USD", amount_minor=1, key=None)
    assert "The ledger of this installation agrees." in said(receipt, "--online")


def _rewrite(query: Document, change: Document) -> None:
    assert collection(LedgerEntry).update_one(query, change).modified_count == 1


def test_finds_what_was_changed_in_the_ledger_since(tmp_path: Path, alice: str, bob: str) -> None:
    transaction = completed(alice, bob)
    files = {reader: saved(tmp_path, issue(transaction, reader), reader.value) for reader in Reader}
    debit = {"_id": f"{transaction}:debit"}
    stored = collection(LedgerEntry).find_one(debit)
    # Rewritten with a hash that fits: only those who hold the old hash, or a commitment to it, can tell.
    forged = {**stored, "balance_minor": stored["balance_minor"] + 1}
    collection(LedgerEntry).replace_one(debit, with_mac({**forged, "hash": digest_of(forged)}))
    for file in files.values():
        code, words = refusal(file, "--online")
        assert (code, f"{transaction}:debit is another one" in words) == (1, True)
    assert f"Entry 2 of {stored['wallet_id']} is no longer" in refusal(files[SENDER], "--online")[1]
    collection(LedgerEntry).delete_one(debit)
    assert f"The ledger has no {transaction}:debit" in refusal(files[RECEIVER], "--online")[1]
    assert "has lost entry 2" in refusal(files[SENDER], "--online")[1]


def test_finds_a_changed_entry_whose_hash_was_left(tmp_path: Path, alice: str, bob: str) -> None:
    transaction = completed(alice, bob)
    file = saved(tmp_path, issue(transaction, RECEIVER))
    _rewrite({"_id": f"{transaction}:debit"}, {"$inc": {"balance_minor": 1}})
    assert "its hash does not cover it" in refusal(file, "--online")[1]


def test_finds_a_transaction_that_is_another_one_now(tmp_path: Path, alice: str, bob: str) -> None:
    transaction = completed(alice, bob)
    file = saved(tmp_path, issue(transaction))
    rows = collection(Transaction)
    rows.update_one({"_id": transaction}, {"$set": {"receiver_id": "another"}})
    assert "The transaction stored here is another one" in refusal(file, "--online")[1]
    rows.update_one({"_id": transaction}, {"$set": {"status": "DEBITED", "completed_at": None}})
    assert "The transaction stored here is another one" in refusal(file, "--online")[1]
    rows.delete_one({"_id": transaction})
    assert f"There is no transaction {transaction} here." in refusal(file, "--online")[1]


def test_finds_a_settlement_added_since(tmp_path: Path, alice: str, bob: str) -> None:
    transaction = completed(alice, bob)
    file = saved(tmp_path, issue(transaction))
    debit = collection(LedgerEntry).find_one({"_id": f"{transaction}:debit"})
    refund = {**debit, "_id": f"{transaction}:refund", "sequence": 3, "kind": "REFUND"}
    collection(LedgerEntry).insert_one(refund)
    assert f"The ledger has {transaction}:refund, the receipt does not." in refusal(file, "--online")[1]


def test_says_when_sealed_entries_could_not_be_compared(
    tmp_path: Path, settings: LazySettings, alice: str, bob: str
) -> None:
    file = saved(tmp_path, issue(completed(alice, bob)))
    keys = saved(tmp_path, RING.as_jwks(), "keys.json")
    settings.RECEIPT_SIGNING_KEYS = signing.read_keys([B])
    words = said(file, "--online", "--keys", keys)
    assert "Sealed entries were not compared: the signing key is not here." in words
