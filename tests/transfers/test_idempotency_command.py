"""`manage.py idempotency`: who used a key, when, where, and what came of it; never a body."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from payflow import idempotency, redisdb
from payflow.mongodb import collection
from tests.api.client import Party, facts, join
from tests.api.test_idempotency import slot_of
from transfers.documents import Transaction, TransferBatch
from transfers.selectors import _indexed


def ask(*arguments: str) -> str:
    out = io.StringIO()
    call_command("idempotency", *arguments, stdout=out)
    return out.getvalue()


def ask_json(*arguments: str) -> dict[str, Any]:
    return json.loads(ask(*arguments, "--json"))


@pytest.fixture
def anna() -> Party:
    return join("Anna", cents=100_00)


@pytest.fixture
def bob() -> Party:
    return join("Bob", cents=100_00)


def use_everywhere(party: Party, receiver: Party, key: str = "dinner") -> dict[str, Any]:
    """Use one key at every endpoint that moves money, and at one that does not; return the answers."""
    wish = {"receiver_id": receiver.id, "amount": "12345.67"}
    sent = {
        "/transactions": wish,
        "/transactions/batch": {"transfers": [wish, wish]},
        "/wallets/me/deposit": {"amount": "45678.91"},
        "/wallets/me/withdraw": {"amount": "1000000"},
        "/wallets": {"currency": "EUR"},
    }
    return {path: party.api.post_json(path, body, Idempotency_Key=key) for path, body in sent.items()}


def test_tells_who_when_where_and_what_came_of_it(anna: Party, bob: Party) -> None:
    answers = use_everywhere(anna, bob)
    told = ask_json("dinner")
    uses = {use["path"]: use for use in told["redis"]}
    assert {path: use["status"] for path, use in uses.items()} == {
        path: answer.status_code for path, answer in answers.items()
    }
    for path, use in uses.items():
        assert (use["user_id"], use["email"], use["method"]) == (anna.id, "anna@example.com", "POST")
        assert use["answer_bytes"] == len(answers[path].content)
        assert 0 < use["expires_in_seconds"] <= 86_400
        assert len(use["fingerprint"]) == 64
    found = {(row["what"], row["id"], row["status"]) for row in told["mongodb"]}
    assert found == {
        ("transaction", answers["/transactions"].json()["id"], "INITIATED"),
        ("batch", answers["/transactions/batch"].json()["id"], "2 transfers, written down"),
        ("ledger entry", f"key_{anna.id}_dinner:deposit", "DEPOSIT"),
        ("ledger entry", f"key_{anna.id}_dinner:withdrawal", "DECLINED"),
    }
    assert {row["email"] for row in told["mongodb"]} == {"anna@example.com"}


def test_prints_for_people_and_no_body(anna: Party, bob: Party) -> None:
    answers = use_everywhere(anna, bob)
    told = ask("dinner")
    assert "anna@example.com" in told
    assert "POST /wallets/me/deposit" in told
    assert answers["/transactions"].json()["id"] in told
    for secret in ("12345.67", "45678.91", bob.id, "EUR", "amount"):
        assert secret not in told
        assert secret not in ask("dinner", "--json")


def test_a_request_that_still_runs_is_in_progress(anna: Party) -> None:
    claim = idempotency.claim(slot_of(anna, "/wallets", {"currency": "EUR"}))
    assert isinstance(claim, idempotency.Claim)
    assert "in progress" in ask("k")
    (use,) = ask_json("k")["redis"]
    assert (use["status"], use["answer_bytes"]) == (None, None)
    claim.end(None)
    assert ask_json("k")["redis"] == []


def test_what_redis_has_lost_is_still_found(anna: Party, bob: Party) -> None:
    use_everywhere(anna, bob)
    before = ask_json("dinner")["mongodb"]
    redisdb.client().flushall()
    told = ask_json("dinner")
    assert told["redis"] == []
    assert sorted(map(str, told["mongodb"])) == sorted(map(str, before))


def test_deposits_alone_are_found_for_a_named_user(anna: Party) -> None:
    anna.api.post_json("/wallets/me/deposit", {"amount": "1"}, Idempotency_Key="k")
    redisdb.client().flushall()
    assert "--user" in ask("k")
    assert ask_json("k")["mongodb"] == []
    for name in ("anna@example.com", "Anna@Example.COM", anna.id):
        (row,) = ask_json("k", "--user", name)["mongodb"]
        assert row["id"] == f"key_{anna.id}_k:deposit"


def test_a_user_can_be_picked_out(anna: Party, bob: Party) -> None:
    use_everywhere(anna, bob)
    use_everywhere(bob, anna)
    everyone, hers = ask_json("dinner"), ask_json("dinner", "--user", anna.id)
    for place in ("redis", "mongodb"):
        assert {row["user_id"] for row in everyone[place]} == {anna.id, bob.id}
        assert {row["user_id"] for row in hers[place]} == {anna.id}


USES_OF_ONE = (
    ("/wallets/me/deposit", {"amount": "1"}),
    ("/wallets/me/withdraw", {"amount": "1"}),
    ("/wallets", {"currency": "EUR"}),
)


def test_only_the_newest_uses_are_remembered(anna: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "SLOTS_PER_KEY_MAX", 2)
    for path, body in USES_OF_ONE:
        assert anna.api.post_json(path, body, Idempotency_Key="k").status_code == 201
    assert redisdb.client().zcard("payflow:idempotency:k") == 2
    assert [use["path"] for use in ask_json("k")["redis"]] == ["/wallets", "/wallets/me/withdraw"]


@pytest.mark.usefixtures("redis_down")
def test_without_redis_mongodb_still_tells(anna: Party, bob: Party) -> None:
    anna.api.post_json("/transactions", {"receiver_id": bob.id, "amount": "1"}, Idempotency_Key="k")
    told = ask_json("k")
    assert told["redis"] is None
    assert [row["id"] for row in told["mongodb"]] == [facts()["transactions"][0]["_id"]]
    assert "not answering" in ask("k")


def test_nothing_is_known_of_a_key_that_nobody_used() -> None:
    assert ask_json("k") == {"key": "k", "redis": [], "mongodb": []}
    assert ask("k").count("none") == 2


@pytest.mark.parametrize(
    "arguments", [["a b"], ["x" * 65], ["k", "--user", "f" * 24], ["k", "--user", "\x1b[31m@x"]]
)
def test_what_cannot_be_is_refused_in_a_printable_sentence(arguments: list[str]) -> None:
    with pytest.raises(CommandError) as refusal:
        ask(*arguments)
    assert str(refusal.value).isprintable()


def test_what_somebody_wrote_into_redis_cannot_steer_a_terminal(anna: Party) -> None:
    anna.api.post_json("/wallets", {"currency": "EUR"}, Idempotency_Key="k")
    (slot,) = redisdb.client().zrange("payflow:idempotency:k", 0, -1)
    redisdb.client().hset(slot, "path", "/\x1b[2J\u202e\n")
    assert "\x1b" not in ask("k")
    assert ask("k").isascii()


@pytest.mark.parametrize("document", [Transaction, TransferBatch])
@pytest.mark.parametrize(
    "query", [{"idempotency_key": "k7"}, {"sender_id": "s", "idempotency_key": _indexed("k7")}]
)
def test_a_key_is_looked_up_by_an_index(
    document: type[Transaction | TransferBatch], query: dict[str, Any]
) -> None:
    rows = [{"_id": f"t{n}", "sender_id": "s", "idempotency_key": f"k{n}"} for n in range(20)]
    collection(document).insert_many(rows)
    seen = collection(document).find(query).explain()["executionStats"]
    assert (seen["nReturned"], seen["totalDocsExamined"]) == (1, 1)
