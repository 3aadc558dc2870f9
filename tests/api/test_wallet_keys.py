"""Idempotency keys of deposits and withdrawals: they last, whatever Redis has lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from payflow import redisdb
from tests.api.client import Party, assert_problem, facts, nothing_changes
from wallets import services
from wallets.documents import Wallet

REPLAYED = "Idempotent-Replayed"


@pytest.mark.parametrize("move", ["deposit", "withdraw"])
@pytest.mark.parametrize("redis_is_lost", [False, True])
def test_a_repeat_gets_the_first_answer_and_moves_nothing(
    anna: Party, move: str, redis_is_lost: bool
) -> None:
    path, body = f"/wallets/me/{move}", {"amount": "2.50"}
    first = anna.api.post_json(path, body, Idempotency_Key="key-1")
    assert first.status_code == 201
    assert REPLAYED not in first
    anna.receive(5_00)
    if redis_is_lost:
        redisdb.client().flushall()
    with nothing_changes():
        again = anna.api.post_json(path, body, Idempotency_Key="key-1")
    assert (again.status_code, again.json(), again[REPLAYED]) == (201, first.json(), "true")


def test_both_names_of_the_header_are_one_key(anna: Party) -> None:
    first = anna.api.post_json("/wallets/me/deposit", {"amount": "1"}, X_Idempotency_Key="same")
    with nothing_changes():
        again = anna.api.post_json("/wallets/me/deposit", {"amount": "1"}, Idempotency_Key="same")
        both = anna.api.post_json(
            "/wallets/me/deposit", {"amount": "1"}, Idempotency_Key="same", X_Idempotency_Key="same"
        )
    assert again.json() == both.json() == first.json()


def test_a_repeat_is_the_same_body_and_once_redis_has_forgotten_it_the_same_money(anna: Party) -> None:
    first = anna.api.post_json("/wallets/me/deposit", {"amount": "1.50"}, Idempotency_Key="k")
    body = {"currency": "USD", "amount": "1.5"}
    with nothing_changes():
        spelt = anna.api.post_json("/wallets/me/deposit", body, Idempotency_Key="k")
        assert_problem(spelt, 422, "idempotency_key_reused")
        redisdb.client().flushall()
        assert anna.api.post_json("/wallets/me/deposit", body, Idempotency_Key="k").json() == first.json()


@pytest.mark.parametrize("other", [{"amount": "2.51"}, {"amount": "2.50", "currency": "EUR"}])
@pytest.mark.parametrize("has_eur_wallet", [False, True])
@pytest.mark.parametrize("move", ["deposit", "withdraw"])
def test_a_key_used_for_something_else_is_refused(
    anna: Party, move: str, has_eur_wallet: bool, other: dict[str, str]
) -> None:
    if has_eur_wallet:
        services.open_wallet(user_id=anna.id, currency="EUR")
        anna.receive(100_00, "EUR")
    anna.api.post_json(f"/wallets/me/{move}", {"amount": "2.50"}, Idempotency_Key="k")
    with nothing_changes():
        response = anna.api.post_json(f"/wallets/me/{move}", other, Idempotency_Key="k")
        assert_problem(response, 422, "idempotency_key_reused")


def test_the_same_key_of_another_user_or_endpoint_is_another_key(anna: Party, stranger: Party) -> None:
    entries = []
    for party in (anna, stranger):
        for move in ("deposit", "withdraw"):
            response = party.api.post_json(f"/wallets/me/{move}", {"amount": "1.00"}, Idempotency_Key="k")
            assert (response.status_code, REPLAYED in response) == (201, False)
            entries.append(response.json()["entry"]["id"])
    assert len(set(entries)) == 4


def test_a_refusal_for_lack_of_money_is_repeated_even_when_the_money_has_come(anna: Party) -> None:
    def ask() -> Any:
        return anna.api.post_json("/wallets/me/withdraw", {"amount": "100.01"}, Idempotency_Key="k")

    first = ask()
    problem = assert_problem(first, 409, "insufficient_balance")
    assert REPLAYED not in first
    anna.receive(50_00)
    with nothing_changes():
        again = ask()
    # Every byte, the correlation id of the request that asked the ledger included.
    assert (again.status_code, again.content, again[REPLAYED]) == (409, first.content, "true")
    redisdb.client().flushall()
    with nothing_changes():
        from_the_ledger = ask()
    assert from_the_ledger[REPLAYED] == "true"
    repeated = assert_problem(from_the_ledger, 409, "insufficient_balance")
    assert {**repeated, "correlation_id": ""} == {**problem, "correlation_id": ""}


def test_a_repeat_is_answered_after_the_wallet_was_frozen(anna: Party) -> None:
    first = anna.api.post_json("/wallets/me/deposit", {"amount": "1"}, Idempotency_Key="k")
    services.freeze_wallets(user_id=anna.id)
    with nothing_changes():
        again = anna.api.post_json("/wallets/me/deposit", {"amount": "1"}, Idempotency_Key="k")
    assert (again.status_code, again.json()) == (201, first.json())


def test_a_key_refused_for_a_frozen_wallet_stays_refused_and_another_works(anna: Party) -> None:
    services.freeze_wallets(user_id=anna.id)
    frozen = anna.api.post_json("/wallets/me/deposit", {"amount": "1"}, Idempotency_Key="k")
    assert_problem(frozen, 409, "wallet_closed")
    Wallet.objects(user_id=anna.id).update(set__status="ACTIVE")
    with nothing_changes():
        again = anna.api.post_json("/wallets/me/deposit", {"amount": "1"}, Idempotency_Key="k")
    assert (again.status_code, again.content, again[REPLAYED]) == (409, frozen.content, "true")
    anew = anna.api.post_json("/wallets/me/deposit", {"amount": "1"}, Idempotency_Key="another")
    assert (anew.status_code, REPLAYED in anew) == (201, False)


@pytest.mark.parametrize(("move", "cents"), [("deposit", 101_00), ("withdraw", 99_00)])
def test_thirty_requests_at_once_with_one_key_move_money_once(anna: Party, move: str, cents: int) -> None:
    def ask(_: int) -> tuple[int, Any]:
        client = anna.another_client()
        response = client.post_json(f"/wallets/me/{move}", {"amount": "1.00"}, Idempotency_Key="k")
        return response.status_code, response.json()

    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(ask, range(30)))
    done = [body for status, body in answers if status == 201]
    assert done == [done[0]] * len(done)
    # The others came while the first was still running.
    assert {body["code"] for status, body in answers if status != 201} <= {"idempotency_in_progress"}
    assert anna.cents == cents
    assert len(facts()["ledger_entries"]) == 2


@pytest.mark.parametrize("length", [1, 64])
def test_a_key_may_be_1_to_64_characters_long(anna: Party, length: int) -> None:
    key = ("Az09_-" * 11)[:length]
    assert anna.api.post_json("/wallets/me/deposit", {"amount": "1"}, Idempotency_Key=key).status_code == 201
    assert facts()["ledger_entries"][0]["_id"] == f"key_{anna.id}_{key}:deposit"
