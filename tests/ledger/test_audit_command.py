"""`manage.py audit`: what it prints, and the exit status that scripts rely on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from io import StringIO
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command

from ledger.chain import Kind
from ledger.documents import LedgerEntry
from ledger.posting import post
from payflow import clock
from payflow.ids import new_id
from payflow.mongodb import collection
from tests.ledger.books import deposit, leg, rewrite
from transfers.documents import Transaction
from transfers.services import with_mac
from wallets import services as wallets


@pytest.fixture
def paid() -> dict[str, str]:
    """Alice pays Bob 1.50 of her 100.00."""
    alice, bob = (wallets.open_wallet(user_id=user, currency="USD").id for user in ("alice", "bob"))
    post([deposit(alice, 10_000, key="first")])
    id_ = new_id("txn")
    collection(Transaction).insert_one(
        with_mac({
            "_id": id_, "sender_id": "alice", "receiver_id": "bob", "sender_wallet_id": alice,
            "receiver_wallet_id": bob, "amount_minor": 150, "currency": "USD", "status": "COMPLETED",
            "settlement": "CREDIT", "failure": None, "initiated_at": clock.now(),
        })
    )  # fmt: skip
    post([leg(Kind.DEBIT, id_, alice, 150)])
    post([leg(Kind.CREDIT, id_, bob, 150)])
    return {"alice": alice, "bob": bob, "transaction": id_}


def run(*arguments: str) -> tuple[str, int]:
    out = StringIO()
    try:
        call_command("audit", *arguments, stdout=out)
    except SystemExit as end:
        return out.getvalue(), int(end.code or 0)
    return out.getvalue(), 0


def test_a_clean_ledger_exits_0_and_shows_the_sums(paid: dict[str, str]) -> None:
    text, status = run("--expect-settled")
    assert status == 0
    assert "The audit is clean: L1-L8 hold." in text
    assert "entries 3   wallets 2   transactions 1   in flight 0" in text
    assert "USD: deposits 100.00 - withdrawals 0.00 = balances 100.00 + in flight 0.00" in text
    assert text.isascii()


def test_one_wallet(paid: dict[str, str]) -> None:
    text, status = run("--wallet", paid["alice"])
    assert status == 0
    assert "USD: deposits 100.00 - withdrawals 0.00 + transfers -1.50 = balance 98.50" in text


def test_a_violation_exits_1_and_is_named(paid: dict[str, str]) -> None:
    rewrite(f"{paid['transaction']}:debit", amount_minor=-15, reason="\u2028\u00e9")
    text, status = run()
    assert status == 1
    assert f"L1 wallet {paid['alice']} #2" in text
    assert text.isascii()


def test_a_wallets_own_audit_sees_a_missing_credit(paid: dict[str, str]) -> None:
    collection(LedgerEntry).delete_one({"_id": f"{paid['transaction']}:credit"})
    for wallet in ("alice", "bob"):
        text, status = run("--wallet", paid[wallet])
        assert status == 1
        assert f"transaction {paid['transaction']}: COMPLETED without a credit" in text


def test_json_holds_the_same_verdict(paid: dict[str, str]) -> None:
    rewrite("first:deposit", balance_minor=1)
    text, status = run("--json")
    verdict: dict[str, Any] = json.loads(text)
    assert status == 1
    assert verdict["clean"] is False
    assert verdict["violations_count"] == len(verdict["violations"])
    assert verdict["violations"][0]["wallet_id"] == paid["alice"]


def test_a_broken_transaction_document_is_judged_not_a_crash(paid: dict[str, str]) -> None:
    collection(Transaction).insert_one({"_id": new_id("txn"), "sender_id": "alice", "status": "COMPLETED"})
    assert run()[1] == 1


def test_an_unknown_wallet_exits_2() -> None:
    with pytest.raises(CommandError) as refusal:
        call_command("audit", "--wallet", "wal_0")
    assert refusal.value.returncode == 2


def test_mongodb_down_exits_2_with_one_sentence() -> None:
    environment = {
        **os.environ,
        "MONGODB_URI": "mongodb://127.0.0.1:9/?directConnection=true",
        "MONGODB_TIMEOUT_MS": "200",
    }
    command = [sys.executable, "manage.py", "audit"]
    done = subprocess.run(
        command,
        env=environment,
        cwd=settings.BASE_DIR,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.strip() == (
        "CommandError: The audit could not run. The database is not answering. Try again shortly."
    )
