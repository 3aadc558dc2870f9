"""The idempotency guard over HTTP: one acts, repeats get its answer, and nobody gets another's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.conf import LazySettings
from prometheus_client import REGISTRY
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory

from payflow import idempotency, mongodb, redisdb
from tests.accounts.factories import PASSWORD
from tests.api.client import Api, Party, assert_problem, facts, nothing_changes
from wallets import services as wallets

REPLAYED = "Idempotent-Replayed"
KEPT = {"Content-Type", "Location", "Preference-Applied", "Cache-Control", "Allow"}
OUTCOMES = ("acted", "replayed", "in_progress", "reused", "unguarded")


def slots() -> dict[str, dict[str, str]]:
    """Return what is stored for each use of a key."""
    names = redisdb.client().keys("payflow:idempotency:*:*")
    return {name: redisdb.client().hgetall(name) for name in names}


def transfer(receiver: Party, amount: str = "10.00") -> dict[str, str]:
    return {"receiver_id": receiver.id, "amount": amount}


def requests_to(anna: Party, bob: Party) -> dict[str, Any]:
    return {
        "/transactions": transfer(bob),
        "/transactions/batch": {"transfers": [transfer(bob), transfer(bob, "0")]},
        "/wallets/me/deposit": {"amount": "2.50"},
        "/wallets/me/withdraw": {"amount": "2.50"},
        "/wallets": {"currency": "EUR"},
        "/auth/password": {"current_password": PASSWORD, "new_password": "violet-kettle-42"},
    }


PATHS = ("/transactions", "/transactions/batch", "/wallets/me/deposit", "/wallets/me/withdraw", "/wallets",
         "/auth/password")  # fmt: skip
MONEY_PATHS = PATHS[:4]


# --- Repeats ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_a_repeat_gets_every_byte_of_the_first_answer_and_does_nothing(
    anna: Party, bob: Party, path: str
) -> None:
    body = requests_to(anna, bob)[path]
    first = anna.api.post_json(path, body, Idempotency_Key="k")
    assert (first.status_code // 100, REPLAYED in first) == (2, False), first.content
    with nothing_changes():
        again = anna.api.post_json(path, body, Idempotency_Key="k")
    assert (again.status_code, again.content, again[REPLAYED]) == (first.status_code, first.content, "true")
    assert {n: v for n, v in again.headers.items() if n in KEPT} == {
        n: v for n, v in first.headers.items() if n in KEPT
    }
    assert again["X-Correlation-Id"] != first["X-Correlation-Id"]


@pytest.mark.parametrize("path", MONEY_PATHS)
def test_what_redis_has_lost_mongodb_replays(anna: Party, bob: Party, path: str) -> None:
    body = requests_to(anna, bob)[path]
    first = anna.api.post_json(path, body, Idempotency_Key="k")
    redisdb.client().flushall()
    with nothing_changes():
        for _ in range(2):  # from MongoDB, then from Redis again
            again = anna.api.post_json(path, body, Idempotency_Key="k")
            assert (again.status_code, again.json(), again[REPLAYED]) == (201, first.json(), "true")
            assert again.get("Location") == first.get("Location")


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/wallets", {"currency": "USD"}, "already_exists"),
        ("/transactions", {"receiver_id": "f" * 24, "amount": "1"}, "receiver_not_found"),
        ("/wallets/me/withdraw", {"amount": "100.01"}, "insufficient_balance"),
    ],
)
def test_a_refusal_is_repeated_too(anna: Party, path: str, body: dict[str, str], code: str) -> None:
    first = anna.api.post_json(path, body, Idempotency_Key="k")
    again = anna.api.post_json(path, body, Idempotency_Key="k")
    assert first.json()["code"] == code
    assert (again.status_code, again.content, again[REPLAYED]) == (first.status_code, first.content, "true")


def test_without_a_key_redis_is_not_asked(anna: Party) -> None:
    assert anna.api.post_json("/wallets", {"currency": "EUR"}).status_code == 201
    assert redisdb.client().keys("payflow:idempotency:*") == []


def test_the_order_of_fields_and_blanks_do_not_matter(anna: Party, bob: Party) -> None:
    one = f'{{"receiver_id": "{bob.id}", "amount": 1.0}}'
    other = f'{{ "amount":1.00,\n"receiver_id":"{bob.id}"}}'
    answers = [anna.api.send("POST", "/transactions", t.encode(), Idempotency_Key="k") for t in (one, other)]
    assert answers[0].status_code == 201
    assert answers[1].content == answers[0].content


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/transactions", {"amount": "10.0"}),
        ("/transactions", {"amount": 10}),
        ("/transactions", {"description": ""}),
    ],
)
def test_a_key_used_for_something_else_is_refused_and_stays_the_first_one_s(
    anna: Party, bob: Party, path: str, body: dict[str, Any]
) -> None:
    first = anna.api.post_json("/transactions", transfer(bob), Idempotency_Key="k")
    with nothing_changes():
        other = anna.api.post_json(path, {**transfer(bob), **body}, Idempotency_Key="k")
        assert_problem(other, 422, "idempotency_key_reused")
        again = anna.api.post_json("/transactions", transfer(bob), Idempotency_Key="k")
    assert (again.content, again[REPLAYED]) == (first.content, "true")


def test_a_request_with_an_unknown_parameter_is_refused_and_the_key_stays_the_first_one_s(
    anna: Party, bob: Party
) -> None:
    first = anna.api.post_json("/transactions", transfer(bob), Idempotency_Key="k")
    with nothing_changes():
        other = anna.api.post_json("/transactions?dry=1", transfer(bob), Idempotency_Key="k")
        assert_problem(other, 400, "validation_error")
        again = anna.api.post_json("/transactions", transfer(bob), Idempotency_Key="k")
    assert (again.content, again[REPLAYED]) == (first.content, "true")


def test_a_key_refused_by_mongodb_stays_the_first_one_s(anna: Party, bob: Party) -> None:
    first = anna.api.post_json("/transactions", transfer(bob), Idempotency_Key="k")
    redisdb.client().flushall()
    with nothing_changes():
        other = anna.api.post_json("/transactions", transfer(bob, "11.00"), Idempotency_Key="k")
        assert_problem(other, 422, "idempotency_key_reused")
        again = anna.api.post_json("/transactions", transfer(bob), Idempotency_Key="k")
    assert (again.status_code, again.json(), again[REPLAYED]) == (201, first.json(), "true")


def test_a_body_that_cannot_be_read_is_400_and_leaves_the_key_free(anna: Party) -> None:
    for raw in (b"{", b'{"currency": "EUR", "currency": "EUR"}', b"\xff"):
        broken = anna.api.send("POST", "/wallets", raw, Idempotency_Key="k")
        assert_problem(broken, 400, "validation_error")
    assert slots() == {}
    assert anna.api.post_json("/wallets", {"currency": "EUR"}, Idempotency_Key="k").status_code == 201


@pytest.mark.parametrize("path", ["/wallets", "/auth/password", "/transactions/batch"])
def test_a_malformed_key_is_refused_everywhere(anna: Party, path: str) -> None:
    assert_problem(anna.api.post_json(path, {}, Idempotency_Key="a b"), 400, "validation_error")


def test_who_has_no_name_has_no_keys(anyone: Api) -> None:
    body = {"email": "nobody@example.com", "password": PASSWORD}
    for key in ("k", "a b"):
        assert anyone.post_json("/auth/login", body, Idempotency_Key=key).status_code == 401
    assert redisdb.client().keys("payflow:idempotency:*") == []


@pytest.mark.parametrize("path", PATHS)
def test_a_malformed_request_takes_no_key_away(anna: Party, bob: Party, path: str) -> None:
    body = requests_to(anna, bob)[path]
    first = anna.api.post_json(path, body, Idempotency_Key="k")
    redisdb.client().flushall()
    assert_problem(anna.api.post_json(path, {"x": 1}, Idempotency_Key="k"), 400, "validation_error")
    assert slots() == {}
    if path in MONEY_PATHS:
        with nothing_changes():
            again = anna.api.post_json(path, body, Idempotency_Key="k")
        assert (again.status_code, again.json(), again[REPLAYED]) == (201, first.json(), "true")


def test_a_malformed_request_takes_no_key_of_a_large_batch(anna: Party, bob: Party) -> None:
    body = {"transfers": [transfer(bob, "0.01")] * 60}
    first = anna.api.post_json("/transactions/batch", body, Idempotency_Key="k")
    assert first.status_code == 201
    assert slots() == {}, "an answer of this size is not kept in Redis"
    bad = anna.api.post_json("/transactions/batch", {"transfers": []}, Idempotency_Key="k")
    assert_problem(bad, 400, "validation_error")
    with nothing_changes():
        again = anna.api.post_json("/transactions/batch", body, Idempotency_Key="k")
    assert (again.status_code, again.json(), again[REPLAYED]) == (201, first.json(), "true")


# --- Whose it is ------------------------------------------------------------------------------------------


def test_another_user_or_endpoint_has_keys_of_its_own(anna: Party, stranger: Party) -> None:
    entries = set()
    for party in (anna, stranger):
        for path in ("/wallets/me/deposit", "/wallets/me/withdraw"):
            answer = party.api.post_json(path, {"amount": "1.00"}, Idempotency_Key="k")
            assert (answer.status_code, REPLAYED in answer) == (201, False)
            entries.add(answer.json()["entry"]["id"])
    assert len(entries) == 4


def test_nothing_of_an_answer_or_a_body_can_be_read_in_redis(anna: Party, bob: Party) -> None:
    for path, body in requests_to(anna, bob).items():
        anna.api.post_json(path, body, Idempotency_Key="k")
    assert len(slots()) == len(PATHS)
    raw = str(slots())
    started = [row["_id"] for row in facts()["transactions"]]
    assert len(started) == 2
    for secret in (*started, bob.id, "INITIATED", "10.00", "amount", "EUR", PASSWORD, "violet-kettle"):
        assert secret not in raw


def slot_of(party: Party, path: str, body: Any) -> idempotency.Asked:
    request = Request(APIRequestFactory().post(path))
    request.user, request._full_data = party.user, body
    return idempotency.asked_by(request, "k")


def test_an_answer_copied_to_another_user_is_not_there_for_them(anna: Party, stranger: Party) -> None:
    body = {"amount": "1.00"}
    hers = anna.api.post_json("/wallets/me/deposit", body, Idempotency_Key="k")
    (stored,) = slots().values()
    redisdb.client().hset(slot_of(stranger, "/wallets/me/deposit", body).slot, mapping=stored)
    theirs = stranger.api.post_json("/wallets/me/deposit", body, Idempotency_Key="k")
    assert (theirs.status_code, REPLAYED in theirs) == (201, False)
    assert theirs.json()["entry"]["id"] != hers.json()["entry"]["id"]


@pytest.mark.parametrize(
    "garbage",
    [
        {"answer": "AAAA"},
        {"answer": "\u00e4"},
        {"answer": b"\xff\x00"},
        {"fingerprint": b"\xff"},
        {"owner": "own", "fingerprint": ""},
    ],
)
def test_what_cannot_be_read_counts_as_not_there(anna: Party, garbage: dict[str, Any]) -> None:
    body = {"amount": "1.00"}
    first = anna.api.post_json("/wallets/me/deposit", body, Idempotency_Key="k")
    redisdb.client().hset(slot_of(anna, "/wallets/me/deposit", body).slot, mapping=garbage)
    with nothing_changes():
        for _ in range(2):
            again = anna.api.post_json("/wallets/me/deposit", body, Idempotency_Key="k")
            assert (again.status_code, again.json(), again[REPLAYED]) == (201, first.json(), "true")


def test_a_value_of_another_kind_counts_as_not_there(anna: Party) -> None:
    slot = slot_of(anna, "/wallets", {"currency": "EUR"}).slot
    redisdb.client().set(slot, "x")
    redisdb.client().set("payflow:idempotency:k", "x")
    for replayed in (False, True):
        answer = anna.api.post_json("/wallets", {"currency": "EUR"}, Idempotency_Key="k")
        assert (answer.status_code, REPLAYED in answer) == (201, replayed)


def test_keys_outlive_a_change_of_the_secret_key(anna: Party, bob: Party, settings: LazySettings) -> None:
    first = anna.api.post_json("/transactions", transfer(bob), Idempotency_Key="k")
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another secret key, long enough for anything"
    again = anna.api.post_json("/transactions", transfer(bob), Idempotency_Key="k")
    assert (again.content, again[REPLAYED]) == (first.content, "true")
    other = anna.api.post_json("/transactions", transfer(bob, "1"), Idempotency_Key="k")
    assert_problem(other, 422, "idempotency_key_reused")


# --- What is not stored -----------------------------------------------------------------------------------


def test_a_dependency_s_failure_is_not_stored(
    anna: Party, bob: Party, request: pytest.FixtureRequest, settings: LazySettings
) -> None:
    address = settings.MONGODB_URI, settings.MONGODB_OPTIONS
    request.getfixturevalue("mongodb_down")
    failed = anna.api.post_json("/transactions", transfer(bob), Idempotency_Key="k")
    assert_problem(failed, 503, "service_unavailable")
    assert slots() == {}
    settings.MONGODB_URI, settings.MONGODB_OPTIONS = address
    mongodb.reconnect()
    again = anna.api.post_json("/transactions", transfer(bob), Idempotency_Key="k")
    assert (again.status_code, REPLAYED in again) == (201, False)


def test_a_crash_of_ours_is_not_stored(anna: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(wallets, "open_wallet", lambda **_: 1 / 0)
        crashed = anna.api.post_json("/wallets", {"currency": "EUR"}, Idempotency_Key="k")
        assert_problem(crashed, 500, "internal_error")
    assert slots() == {}
    again = anna.api.post_json("/wallets", {"currency": "EUR"}, Idempotency_Key="k")
    assert (again.status_code, REPLAYED in again) == (201, False)


def test_that_the_caller_may_not_do_it_now_is_not_stored(anna: Party, settings: LazySettings) -> None:
    settings.DEPOSITS_OPEN = False
    refused = anna.api.post_json("/wallets/me/deposit", {"amount": "1"}, Idempotency_Key="k")
    assert_problem(refused, 403, "permission_denied")
    settings.DEPOSITS_OPEN = True
    again = anna.api.post_json("/wallets/me/deposit", {"amount": "1"}, Idempotency_Key="k")
    assert (again.status_code, REPLAYED in again) == (201, False)


def test_an_answer_that_is_too_large_is_not_stored_and_mongodb_replays_it(
    anna: Party, bob: Party, settings: LazySettings
) -> None:
    settings.IDEMPOTENCY_ANSWER_BYTES_MAX = 100
    body = {"transfers": [transfer(bob, "0.01")] * 3}
    first = anna.api.post_json("/transactions/batch", body, Idempotency_Key="k")
    assert slots() == {}
    with nothing_changes():
        again = anna.api.post_json("/transactions/batch", body, Idempotency_Key="k")
    assert (again.status_code, again.json(), again[REPLAYED]) == (201, first.json(), "true")


# --- Without Redis ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("redis_down")
@pytest.mark.parametrize("path", MONEY_PATHS)
def test_without_redis_money_goes_on_and_keys_hold(anna: Party, bob: Party, path: str) -> None:
    body = requests_to(anna, bob)[path]
    first = anna.api.post_json(path, body, Idempotency_Key="k")
    with nothing_changes():
        again = anna.api.post_json(path, body, Idempotency_Key="k")
    assert (first.status_code, REPLAYED in first) == (201, False)
    assert (again.status_code, again.json(), again[REPLAYED]) == (201, first.json(), "true")


@pytest.mark.usefixtures("redis_down")
def test_without_redis_a_key_that_could_not_hold_is_not_taken(anna: Party) -> None:
    with nothing_changes():
        answer = anna.api.post_json("/wallets", {"currency": "EUR"}, Idempotency_Key="k")
    assert_problem(answer, 503, "service_unavailable")
    assert int(answer["Retry-After"]) > 0
    assert anna.api.post_json("/wallets", {"currency": "EUR"}).status_code == 201


# --- At the same moment -----------------------------------------------------------------------------------


def ask_fifty_times_at_once(party: Party, path: str, body: Any) -> list[Any]:
    """Return the answers, once exactly one row of its kind has been made by all of them."""
    before = facts()
    with ThreadPoolExecutor(50) as pool:
        clients = [party.another_client() for _ in range(50)]
        answers = list(pool.map(lambda client: client.post_json(path, body, Idempotency_Key="k"), clients))
    added = {name: len(rows) - len(before[name]) for name, rows in facts().items()}
    made = {"/transactions": "transactions", "/wallets": "wallets"}.get(path, "ledger_entries")
    assert added == {**dict.fromkeys(added, 0), made: 1}
    return answers


@pytest.mark.parametrize("path", ["/transactions", "/wallets/me/deposit", "/wallets"])
def test_of_fifty_requests_at_once_one_acts(anna: Party, bob: Party, path: str) -> None:
    answers = ask_fifty_times_at_once(anna, path, requests_to(anna, bob)[path])
    (acted,) = [a for a in answers if a.status_code == 201 and REPLAYED not in a]
    for answer in answers:
        if answer.status_code == 201:
            assert answer.content == acted.content
        else:
            assert_problem(answer, 409, "idempotency_in_progress")
            assert answer["Retry-After"] == "1"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/transactions", None),
        ("/wallets/me/deposit", None),
        ("/wallets/me/withdraw", {"amount": "1.00"}),
        ("/wallets/me/withdraw", {"amount": "900.00"}),
    ],
)
def test_of_fifty_at_once_one_acts_without_redis_too(
    anna: Party, bob: Party, path: str, body: Any, redis_down: None
) -> None:
    """MongoDB decides; the others get what the first one got."""
    answers = ask_fifty_times_at_once(anna, path, body or requests_to(anna, bob)[path])
    (acted,) = [a for a in answers if REPLAYED not in a]
    assert {a.status_code for a in answers} == {acted.status_code}
    if acted.status_code == 201:
        assert {a.content for a in answers} == {acted.content}


def outcomes() -> dict[str, float]:
    name = "payflow_idempotency_total"
    return {o: REGISTRY.get_sample_value(name, {"outcome": o}) or 0.0 for o in OUTCOMES}


def test_every_outcome_is_counted(anna: Party, bob: Party, request: pytest.FixtureRequest) -> None:
    before = outcomes()
    for body in (transfer(bob), transfer(bob), transfer(bob, "1.00")):
        anna.api.post_json("/transactions", body, Idempotency_Key="k")
    held = idempotency.claim(slot_of(anna, "/wallets", {"currency": "EUR"}))
    assert isinstance(held, idempotency.Claim)
    running = anna.api.post_json("/wallets", {"currency": "EUR"}, Idempotency_Key="k")
    assert_problem(running, 409, "idempotency_in_progress")
    held.end(None)
    request.getfixturevalue("redis_down")
    anna.api.post_json("/transactions", transfer(bob), Idempotency_Key="other")
    assert {o: n - before[o] for o, n in outcomes().items()} == dict.fromkeys(OUTCOMES, 1.0)
