"""`manage.py audit --export-heads FILE` and `--against FILE`: what a copy outside of the database finds.

The continuous audit's own record goes back in time with a database that is restored; the statement does not.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.management import CommandError, call_command
from pymongo.collection import Collection

from ledger.documents import AuditState, Checkpoint, Finding, LedgerEntry
from ledger.head_statements import BadStatement, Statement, StatementWriter
from payflow import clock, signing
from payflow.mongodb import collection
from tests.ledger.books import rehashed, rewrite, with_mac
from tests.transfers.world import person, play, start, wallet_id_of
from transfers import tasks
from transfers.documents import Transaction
from wallets import services as wallet_services

KEYS = signing.read_keys([f"a:{signing.to_base64url(bytes([1]) * 32)}"])


@pytest.fixture
def anna() -> str:
    return person("anna", balance_minor=1_000)


@pytest.fixture
def bob() -> str:
    return person("bob", balance_minor=500)


@pytest.fixture
def exported(tmp_path: Path, anna: str, bob: str) -> Path:
    """A statement over Anna's two entries and Bob's two."""
    play(start(anna, bob, 300))
    tasks.audit()
    file = tmp_path / "heads.jsonl"
    text, status = run("--export-heads", str(file))
    assert status == 0, text
    return file


def run(*arguments: str) -> tuple[str, int]:
    out = StringIO()
    try:
        call_command("audit", *arguments, stdout=out)
    except SystemExit as end:
        return out.getvalue(), int(end.code or 0)
    return out.getvalue(), 0


def refusal(*arguments: str) -> str:
    with pytest.raises(CommandError) as refused:
        call_command("audit", *arguments, stdout=StringIO())
    assert refused.value.returncode == 2
    return str(refused.value)


def stored() -> list[Collection]:
    return [collection(document) for document in (LedgerEntry, Transaction, Checkpoint, AuditState, Finding)]


def dump() -> list[list[dict[str, Any]]]:
    return [list(rows.find()) for rows in stored()]


def restore(dumped: list[list[dict[str, Any]]]) -> None:
    for rows, documents in zip(stored(), dumped, strict=True):
        rows.delete_many({})
        if documents:
            rows.insert_many(documents)


def test_states_every_head(exported: Path, anna: str, bob: str) -> None:
    header, *heads, trailer = map(json.loads, exported.read_text().splitlines())
    assert (header["schema"], header["issuer"]) == ("payflow.heads/1", "payflow")
    assert [(h["wallet_id"], h["sequence"], h["currency"], h["balance_minor"]) for h in heads] == sorted(
        [(wallet_id_of(anna), 2, "USD", "700"), (wallet_id_of(bob), 2, "USD", "800")]
    )
    hashes = {row["hash"] for row in collection(LedgerEntry).find({"sequence": 2})}
    assert {head["hash"] for head in heads} == hashes
    assert (trailer["wallets"], trailer["entries"]) == (2, 4)
    assert exported.stat().st_mode & 0o077 == 0


def test_a_ledger_that_went_on_extends_it(tmp_path: Path, exported: Path, anna: str, bob: str) -> None:
    play(start(bob, anna, 100))
    person("carl", balance_minor=5)
    later = tmp_path / "later.jsonl"
    text, status = run("--against", str(exported), "--export-heads", str(later))
    assert status == 0
    assert "It extends the statement of " in text
    assert "states the heads of 3 wallets, signed with the key development." in text
    assert run("--against", str(later))[1] == 0
    assert json.loads(run("--json", "--against", str(later))[0])["notes"] != []


def test_finds_an_older_database_that_was_restored(tmp_path: Path, anna: str, bob: str) -> None:
    """Everything in it agrees with itself, the audit's own record too."""
    play(start(anna, bob, 300))
    tasks.audit()
    older = dump()
    play(start(anna, bob, 10))
    carl = person("carl", balance_minor=5)
    tasks.audit()
    file = tmp_path / "heads.jsonl"
    run("--export-heads", str(file))
    restore(older)
    text, status = run("--against", str(file))
    assert status == 1
    for user in (anna, bob):
        assert f"L1 wallet {wallet_id_of(user)} #3: #3, which " in text
        assert "is gone: the chain ends with #2" in text
    assert f"L1 wallet {wallet_id_of(carl)} #1: the wallet has vanished: " in text


def test_finds_a_tail_that_was_cut_with_its_checkpoint(exported: Path, anna: str, bob: str) -> None:
    for rows in (collection(LedgerEntry), collection(Transaction)):
        rows.delete_many({"_id": {"$regex": "^txn_"}})
    collection(LedgerEntry).delete_many({"sequence": 2})
    for document in (Checkpoint, AuditState):
        collection(document).delete_many({})
    text, status = run("--against", str(exported))
    assert status == 1
    for user in (anna, bob):
        assert f"L1 wallet {wallet_id_of(user)} #2: #2, which " in text


def test_finds_a_chain_that_was_computed_anew_with_the_ledgers_key(exported: Path, anna: str) -> None:
    query = {"wallet_id": wallet_id_of(anna), "sequence": 2}
    entry = collection(LedgerEntry).find_one(query)
    forged = {**entry, "reason": "another"}
    collection(LedgerEntry).replace_one({"_id": entry["_id"]}, with_mac(rehashed(forged)))
    text, status = run("--against", str(exported))
    assert status == 1
    assert f"L1 wallet {wallet_id_of(anna)} #2: #2 is another entry than " in text


def test_finds_a_chain_that_grew_past_what_was_cut(exported: Path, anna: str) -> None:
    for rows in (collection(LedgerEntry), collection(Transaction)):
        rows.delete_many({"_id": {"$regex": "^txn_"}})
    wallet_services.deposit(user_id=anna, currency="USD", amount_minor=1, key=None)
    wallet_services.deposit(user_id=anna, currency="USD", amount_minor=1, key=None)
    text, status = run("--against", str(exported))
    assert status == 1
    assert f"L1 wallet {wallet_id_of(anna)} #2: #2 is another entry than " in text


# --- What is no statement ---------------------------------------------------------------------------------


def _cut_trailer(raw: bytes) -> bytes:
    return b"".join(raw.splitlines(keepends=True)[:-1])


def _without_a_head(raw: bytes) -> bytes:
    lines = raw.splitlines(keepends=True)
    return b"".join([lines[0], *lines[2:]])


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda raw: b"", "it was cut off"),
    "half": (lambda raw: raw[: len(raw) // 2], "it was cut off"),
    "one byte short": (lambda raw: raw[:-1], "it was cut off"),
    "no trailer": (_cut_trailer, "it was cut off"),
    "a head fewer": (_without_a_head, "its lines are not those that were signed"),
    "another balance": (lambda raw: raw.replace(b'"700"', b'"701"'), "not those that were signed"),
    "other blanks": (lambda raw: raw.replace(b":", b": ", 1), "not those that were signed"),
    "another total": (lambda raw: raw.replace(b'"wallets":2', b'"wallets":1'), "not those that were signed"),
    "more": (lambda raw: raw + b"\n", "something follows its signature"),
    "two of them": (lambda raw: raw + raw, "something follows its signature"),
    "another issuer": (lambda raw: raw.replace(b'"payflow"', b'"another"', 1), "no statement of heads by"),
    "no JSON": (lambda raw: raw.replace(b"{", b"", 1), "line 1 is no JSON object"),
    "nested": (lambda raw: b"[" * 3_000 + b"\n" + raw, "line 1 is no JSON object"),
    "a long line": (lambda raw: b"x" * 5_000 + b"\n" + raw, "line 1 is too long"),
    "a strange head": (lambda raw: raw.replace(b'"sequence":2', b'"sequence":"2"', 1), "line 2 is no head"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_file_that_was_changed_proves_nothing(exported: Path, name: str) -> None:
    damage, reason = DAMAGES[name]
    raw = exported.read_bytes()
    exported.write_bytes(damage(raw))
    assert exported.read_bytes() != raw
    said = refusal("--against", str(exported))
    assert "proves nothing" in said
    assert reason in said


def test_a_file_that_was_cut_anywhere_proves_nothing(tmp_path: Path) -> None:
    raw = written(tmp_path / "whole", wallets=2).read_bytes()
    for length in range(len(raw)):
        (tmp_path / "cut").write_bytes(raw[:length])
        with pytest.raises(BadStatement):
            Statement(tmp_path / "cut", keys=KEYS, issuer="me").verify()


def test_only_a_published_key_signs_statements(exported: Path, settings: LazySettings) -> None:
    new = f"new:{signing.to_base64url(bytes([2]) * 32)}"
    old = settings.RECEIPT_SIGNING_KEYS
    settings.RECEIPT_SIGNING_KEYS = signing.read_keys([new])
    assert "is not among the keys given" in refusal("--against", str(exported))
    settings.RECEIPT_SIGNING_KEYS = signing.Keyring((*signing.read_keys([new]).keys, *old.keys))
    assert run("--against", str(exported))[1] == 0


def test_the_signature_of_a_receipt_is_none_of_a_statement(tmp_path: Path) -> None:
    file = written(tmp_path / "heads", wallets=1)
    *lines, last = file.read_text().splitlines()
    trailer = json.loads(last)
    del trailer["signature"]
    trailer["signature"] = KEYS.sign(trailer, typ="payflow-receipt+jws")
    file.write_text("\n".join([*lines, json.dumps(trailer)]) + "\n")
    with pytest.raises(BadStatement, match="header is not that of a payflow-heads"):
        Statement(file, keys=KEYS, issuer="me").verify()


# --- Writing ----------------------------------------------------------------------------------------------


def test_a_ledger_that_does_not_hold_is_not_stated(tmp_path: Path, anna: str) -> None:
    entry = collection(LedgerEntry).find_one({"wallet_id": wallet_id_of(anna)})
    rewrite(entry["_id"], mac="0" * 64)
    file = tmp_path / "heads.jsonl"
    text, status = run("--export-heads", str(file))
    assert (status, file.exists()) == (1, False)
    assert "was not written: only a ledger that holds is stated." in text


def test_an_earlier_statement_is_never_overwritten(exported: Path) -> None:
    raw = exported.read_bytes()
    assert "exists already" in refusal("--export-heads", str(exported))
    assert exported.read_bytes() == raw


def test_says_what_it_cannot_do(tmp_path: Path, exported: Path, anna: str) -> None:
    assert "cannot be read: No such file" in refusal("--against", str(tmp_path / "none"))
    assert "cannot be written: No such file" in refusal("--export-heads", str(tmp_path / "no" / "file"))
    for option in ("--against", "--export-heads"):
        said = refusal("--wallet", wallet_id_of(anna), option, str(exported))
        assert said == "A statement is about all wallets, not one."


def written(file: Path, *, wallets: int) -> Path:
    entry = {"currency": "USD", "sequence": 3, "balance_minor": 2**62, "hash": "a" * 64}
    with StatementWriter(file, issuer="me", exported_at=clock.now()) as writer:
        for number in range(wallets):
            writer.add({**entry, "wallet_id": f"wal_{number:032}"})
        writer.finish(KEYS)
    return file


def test_memory_does_not_grow_with_the_number_of_wallets(tmp_path: Path) -> None:
    written(tmp_path / "first", wallets=10)
    tracemalloc.start()
    file = written(tmp_path / "heads", wallets=10_000)
    Statement(file, keys=KEYS, issuer="me").verify()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert file.stat().st_size > 1_500_000
    assert most < 300_000
