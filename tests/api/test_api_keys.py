"""API keys over HTTP: making, seeing and revoking them, and which ones let nobody in."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import LazySettings

from accounts import api_keys
from accounts.models import ApiKey
from payflow import clock, redisdb
from tests.accounts.keys import mint
from tests.accounts.test_api_keys import HOSTILE, hostile
from tests.api.client import Api, Party, assert_problem, facts, nothing_changes

KEYS = "/auth/api-keys"
WANTED: dict[str, Any] = {"name": "Payouts", "scopes": ["wallets:read", "transactions:write"]}


def made(party: Party, **changes: Any) -> dict[str, Any]:
    response = party.api.post_json(KEYS, {**WANTED, **changes})
    assert response.status_code == 201, response.content
    return response.json()


def days_from_now(text: str) -> float:
    return (datetime.fromisoformat(text) - datetime.now(UTC)) / timedelta(days=1)


# --- Making and seeing ------------------------------------------------------------------------------------


def test_a_key_is_shown_once_and_works(anna: Party) -> None:
    response = anna.api.post_json(KEYS, {**WANTED, "scopes": ["transactions:write", "wallets:read"]})
    assert response["Cache-Control"] == "no-store"
    body = response.json()
    secret = body.pop("key")
    assert response["Location"] == f"{KEYS}/{body['id']}"
    assert secret.startswith(body["prefix"] + "_")
    assert 89.9 < days_from_now(body.pop("expires_at")) <= 90
    assert days_from_now(body.pop("created_at")) <= 0
    assert body == {
        "id": f"key_{body['prefix'].removeprefix('pk_')}",
        "name": "Payouts",
        "prefix": body["prefix"],
        "scopes": ["transactions:write", "wallets:read"],
        "created_by": anna.id,
        "last_used_at": None,
        "revoked_at": None,
    }
    assert Api(secret).get("/wallets/me").json()["balance"] == "100.00"
    one, listed = anna.api.get(response["Location"]), anna.api.get(KEYS)
    assert listed.json() == {"results": [one.json()], "next": None}
    assert one.json()["last_used_at"] is not None
    assert secret.split("_", 2)[2] not in (one.content + listed.content).decode()


def test_pays_like_its_owner(anna: Party, bob: Party) -> None:
    key = Api(made(anna)["key"])
    body = {"receiver_id": bob.id, "amount": "1.00"}
    first = key.post_json("/transactions", body, Idempotency_Key="rent")
    assert first.status_code == 201
    # The key belongs to the owner, not to what they call with.
    again = anna.api.post_json("/transactions", body, Idempotency_Key="rent")
    assert (again.json()["id"], again["Idempotent-Replayed"]) == (first.json()["id"], "true")
    assert first.json()["sender_id"] == anna.id


@pytest.mark.parametrize(
    ("sent", "days"), [({"expires_in_days": 1}, 1), ({"expires_in_days": 365}, 365), ({}, 90)], ids=str
)
def test_expires_when_it_is_told_to(anna: Party, sent: dict[str, int], days: int) -> None:
    assert days - 0.01 < days_from_now(made(anna, **sent)["expires_at"]) <= days


def test_expires_at_the_time_that_is_named(anna: Party) -> None:
    moment = clock.rfc3339(clock.now() + timedelta(hours=5))
    assert made(anna, expires_at=moment)["expires_at"] == moment


def in_days(days: float) -> str:
    return clock.rfc3339(clock.now() + timedelta(days=days))


BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": None}, "name"), ({"name": ""}, "name"), ({"name": "x" * 61}, "name"), ({"name": 7}, "name"),
    ({"name": "a\nb"}, "name"), ({"name": ...}, "name"),
    ({"scopes": ...}, "scopes"), ({"scopes": []}, "scopes"), ({"scopes": "wallets:read"}, "scopes"),
    ({"scopes": ["admin"]}, "scopes.0"), ({"scopes": ["*"]}, "scopes.0"), ({"scopes": [None]}, "scopes.0"),
    ({"scopes": ["wallets:read", "wallets:read"]}, "scopes"), ({"scopes": ["wallets:read"] * 9}, "scopes"),
    ({"scopes": {"wallets:read": True}}, "scopes"), ({"scopes": [["wallets:read"]]}, "scopes.0"),
    ({"expires_in_days": 0}, "expires_in_days"), ({"expires_in_days": 366}, "expires_in_days"),
    ({"expires_in_days": -1}, "expires_in_days"), ({"expires_in_days": "9"}, "expires_in_days"),
    ({"expires_in_days": True}, "expires_in_days"), ({"expires_in_days": 1.5}, "expires_in_days"),
    ({"expires_in_days": 10**30}, "expires_in_days"), ({"expires_in_days": None}, "expires_in_days"),
    ({"expires_at": in_days(-1)}, "expires_at"), ({"expires_at": in_days(366)}, "expires_at"),
    ({"expires_at": "9999-12-31T23:59:59Z"}, "expires_at"), ({"expires_at": "tomorrow"}, "expires_at"),
    ({"expires_at": "2026-12-24"}, "expires_at"), ({"expires_at": None}, "expires_at"),
    ({"expires_at": in_days(1), "expires_in_days": 1}, "expires_at"),
    ({"owner": "somebody"}, "owner"), ({"created_by": "somebody"}, "created_by"), ({"key": "pk_x"}, "key"),
]  # fmt: skip


# By number: their times differ from process to process, and then xdist finds different tests in each.
@pytest.mark.parametrize(("changes", "field"), BAD, ids=range(len(BAD)))
def test_a_bad_request_makes_no_key_and_names_the_field(
    anna: Party, changes: dict[str, Any], field: str
) -> None:
    body = {name: value for name, value in {**WANTED, **changes}.items() if value is not ...}
    with nothing_changes():
        problem = assert_problem(anna.api.post_json(KEYS, body), 400, "validation_error")
    assert field in {error["field"] for error in problem["errors"]}


@pytest.mark.parametrize("raw", [b"[]", b'"pk_"', b"null", b"7"])
def test_a_body_that_is_no_object_makes_no_key(anna: Party, raw: bytes) -> None:
    with nothing_changes():
        assert_problem(anna.api.send("POST", KEYS, raw), 400, "validation_error")


def test_lists_newest_first_in_pages_with_revoked_and_expired_ones(anna: Party, bob: Party) -> None:
    ids = [mint(anna.user).key.id for _ in range(3)]
    mint(bob.user)
    anna.api.delete(f"{KEYS}/{ids[1]}")
    first = anna.api.get(f"{KEYS}?limit=2").json()
    second = anna.api.get(f"{KEYS}?limit=2&cursor={first['next']}").json()
    assert [key["id"] for key in first["results"] + second["results"]] == ids[::-1]
    assert second["next"] is None
    assert [key["revoked_at"] is not None for key in first["results"]] == [False, True]


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "cursor=x", "cursor=a2V5Xw=="])
def test_a_bad_page_is_refused(anna: Party, query: str) -> None:
    assert_problem(anna.api.get(f"{KEYS}?{query}"), 400, "validation_error")


def test_past_the_limit_the_answer_says_so(anna: Party, settings: LazySettings) -> None:
    settings.API_KEYS_PER_USER_MAX = 1
    first = made(anna)
    assert_problem(anna.api.post_json(KEYS, WANTED), 409, "too_many_api_keys")
    assert anna.api.delete(f"{KEYS}/{first['id']}").status_code == 204
    assert made(anna)


def test_a_repeat_with_the_same_idempotency_key_makes_no_second_key(anna: Party) -> None:
    answers = [anna.api.post_json(KEYS, WANTED, Idempotency_Key="once") for _ in range(2)]
    assert answers[0].content == answers[1].content
    assert ApiKey.objects.count() == 1
    # What is kept of the answer for the repeat is sealed.
    secret = answers[0].json()["key"].split("_", 2)[2].encode()
    kept = redis_dump()
    assert kept
    assert not any(secret in value for value in kept)


def redis_dump() -> list[bytes]:
    """Return every value in Redis as it lies there."""
    client = redisdb.client()
    connection = client.connection_pool.get_connection()
    try:
        found = []
        for key in client.keys("*"):
            connection.send_command("DUMP", key)
            found.append(connection.read_response(disable_decoding=True))
        return found
    finally:
        client.connection_pool.release(connection)


# --- Revoking ---------------------------------------------------------------------------------------------


def test_a_revoked_key_is_refused_with_the_next_request(anna: Party) -> None:
    body = made(anna)
    key = Api(body["key"])
    assert key.get("/wallets").status_code == 200
    response = anna.api.delete(f"{KEYS}/{body['id']}")
    assert (response.status_code, response.content) == (204, b"")
    refused = key.get("/wallets")
    assert_problem(refused, 401, "not_authenticated")
    assert refused["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert anna.api.get(f"{KEYS}/{body['id']}").json()["revoked_at"] is not None
    assert anna.api.delete(f"{KEYS}/{body['id']}").status_code == 204


@pytest.mark.parametrize("key_id", ["key_" + "0" * 32, "x", "key_", "a.b:c", "pk_" + "0" * 32])
def test_a_key_that_is_not_there_is_a_404(anna: Party, key_id: str) -> None:
    for method in ("GET", "DELETE"):
        assert_problem(anna.api.generic(method, f"{KEYS}/{key_id}"), 404, "not_found")


def test_somebody_elses_key_is_a_404_and_goes_on(anna: Party, bob: Party, staff: Party) -> None:
    body = made(anna)
    for other in (bob, staff):
        for method in ("GET", "DELETE"):
            assert_problem(other.api.generic(method, f"{KEYS}/{body['id']}"), 404, "not_found")
    assert Api(body["key"]).get("/wallets").status_code == 200


# --- Keys that let nobody in ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [name for name in HOSTILE if name not in {"surrogate", "a newline", "a NUL"}]
)
def test_a_hostile_key_is_a_401_everywhere(anna: Party, bob: Party, name: str) -> None:
    token = hostile(mint(anna.user).encoded, mint(bob.user).encoded)[name]
    # Headers come as bytes, and WSGI reads them as Latin-1.
    header = f"Bearer {token}".encode().decode("latin-1")
    with nothing_changes():
        for method, path in (("GET", "/wallets"), ("POST", "/transactions"), ("DELETE", f"{KEYS}/x")):
            response = Api().generic(method, path, b"{}", HTTP_AUTHORIZATION=header)
            assert_problem(response, 401, "not_authenticated")


def test_only_a_bearer_header_carries_a_key(anna: Party) -> None:
    encoded = mint(anna.user).encoded
    for header in (
        encoded,
        f"Basic {encoded}",
        f"Token {encoded}",
        f"Bearer {encoded} x",
        f"Bearer{encoded}",
    ):
        assert_problem(Api().get("/wallets", headers={"Authorization": header}), 401, "not_authenticated")
    assert_problem(Api().get(f"/wallets?access_token={encoded}&key={encoded}"), 401, "not_authenticated")
    assert Api().get("/wallets", headers={"Authorization": f"bearer  {encoded} "}).status_code == 200


def test_without_mongodb_a_key_is_answered_503(anna: Party, request: pytest.FixtureRequest) -> None:
    key = Api(mint(anna.user).encoded)
    request.getfixturevalue("mongodb_down")
    assert_problem(key.get("/wallets"), 503, "service_unavailable")


@pytest.mark.usefixtures("redis_down")
def test_without_redis_a_key_reads_and_pays_and_can_be_revoked(anna: Party, bob: Party) -> None:
    minted = mint(anna.user, "wallets:read", "transactions:write")
    key = Api(minted.encoded)
    assert key.get("/wallets").status_code == 200
    assert key.post_json("/transactions", {"receiver_id": bob.id, "amount": "1.00"}).status_code == 201
    assert anna.api.delete(f"{KEYS}/{minted.key.id}").status_code == 204
    assert_problem(key.get("/wallets"), 401, "not_authenticated")


# --- Deposits ---------------------------------------------------------------------------------------------


def test_where_deposits_are_closed_staff_decide_which_keys_make_them(
    anna: Party, staff: Party, settings: LazySettings
) -> None:
    opened = Api(made(anna, scopes=["deposits:write"])["key"])
    assert opened.post_json("/wallets/me/deposit", {"amount": "1.00"}).status_code == 201
    settings.DEPOSITS_OPEN = False
    wanted = {**WANTED, "scopes": ["wallets:read", "deposits:write"]}
    with nothing_changes():
        problem = assert_problem(anna.api.post_json(KEYS, wanted), 403, "permission_denied")
        assert problem["errors"][0]["field"] == "scopes"
        answer = opened.post_json("/wallets/me/deposit", {"amount": "1.00"})
        assert_problem(answer, 403, "permission_denied")
    for key in (
        made(staff, scopes=["deposits:write"])["key"],
        mint(anna.user, "deposits:write", created_by=staff.user).encoded,
    ):
        assert Api(key).post_json("/wallets/me/deposit", {"amount": "1.00"}).status_code == 201


# --- Nothing tells ----------------------------------------------------------------------------------------


def test_no_log_no_error_and_nothing_stored_holds_a_secret(
    anna: Party, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    body = made(anna)
    secret = body["key"].split("_", 2)[2]
    key = Api(body["key"])
    answers = [key.get("/wallets"), key.post_json("/wallets", {"currency": "EUR"}), key.get("/nowhere")]
    monkeypatch.setattr(api_keys.selectors, "find_api_key_and_owner", lambda **_: 1 // 0)
    answers.append(key.get("/wallets"))
    assert [answer.status_code for answer in answers] == [200, 403, 404, 500]
    said = caplog.text + json.dumps(facts(), default=str)
    said += "".join(answer.content.decode() + str(answer.headers) for answer in answers)
    said += "".join(repr(vars(record)) for record in caplog.records if record.name.startswith("payflow"))
    assert "ZeroDivisionError" in said
    assert secret[:20] not in said
