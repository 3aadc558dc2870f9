"""The account endpoints over HTTP: what they give and whom they refuse."""

# ruff: noqa: RUF001 - names are written in the scripts they come in

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import jwt
import pytest
from django.conf import settings
from django.contrib.auth.hashers import Argon2PasswordHasher, make_password

from accounts import services
from accounts.models import User
from payflow.errors import Transient
from tests.accounts.factories import PASSWORD, UserFactory
from tests.api.auth_client import (
    NEW_PASSWORD,
    REGISTER,
    assert_problem,
    call,
    everything_stored,
    post,
    register,
    signed_in,
)
from wallets.documents import Status, Wallet

# --- What they give ---------------------------------------------------------------------------------------


def test_registering_answers_with_the_user_and_tokens_and_opens_a_wallet() -> None:
    response = post("/auth/register", {**REGISTER, "name": "  Alice  ", "email": "Alice@Example.com"})
    body = response.json()
    assert response.status_code == 201
    assert set(body) == {"user", "access", "refresh"}
    created_at = body["user"].pop("created_at")
    assert body["user"] == {
        "id": str(User.objects.get().pk),
        "name": "Alice",
        "email": "alice@example.com",
        "phone": "+14155550123",
        "locale": "en_US",
        "email_notifications": True,
    }
    assert datetime.strptime(created_at, "%Y-%m-%dT%H:%M:%S.%f%z")
    assert created_at.endswith("Z")
    assert len(created_at) == len("2026-01-31T09:30:00.125Z")
    wallet = Wallet.objects.get(user_id=body["user"]["id"])
    assert (wallet.currency, wallet.status) == (settings.DEFAULT_CURRENCY, Status.ACTIVE)


@pytest.mark.parametrize("phone", ["", None, ...])
def test_a_phone_is_optional(phone: Any) -> None:
    body = {name: value for name, value in {**REGISTER, "phone": phone}.items() if value is not ...}
    assert post("/auth/register", body).json()["user"]["phone"] is None


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("\N{GRINNING FACE}", "\N{GRINNING FACE}"),
        ("محمد بن سلمان", "محمد بن سلمان"),
        ("علی\u200cرضا", "علی\u200cرضا"),
        ("Zoe\u0308", "Zo\u00eb"),
        ("\N{MAN}\u200d\N{WOMAN}", "\N{MAN}\u200d\N{WOMAN}"),
        ("x" * 120, "x" * 120),
        ("\u3000山田 太郎\u00a0", "山田 太郎"),
        ("O'Brien & Søn <b>", "O'Brien & Søn <b>"),
        ('{"$gt": ""}', '{"$gt": ""}'),
    ],
)
def test_a_name_may_be_in_any_script(sent: str, kept: str) -> None:
    access = register(name=sent)["access"]
    assert call("GET", "/auth/me", access=access).json()["name"] == kept


def test_a_password_may_hold_any_characters_and_its_spaces_count() -> None:
    register(password="  سلام \N{GRINNING FACE} cafe\u0301  ")
    assert (
        post(
            "/auth/login", {"email": "alice@example.com", "password": "  سلام \N{GRINNING FACE} caf\u00e9  "}
        ).status_code
        == 200
    )
    refused = post(
        "/auth/login", {"email": "alice@example.com", "password": "سلام \N{GRINNING FACE} caf\u00e9"}
    )
    assert_problem(refused, 401, "invalid_credentials")


@pytest.mark.parametrize("email", ["alice@example.com", "ALICE@Example.COM", "  alice@example.com\t"])
def test_login_takes_the_email_in_any_case(email: str) -> None:
    registered = register()
    response = post("/auth/login", {"email": email, "password": PASSWORD})
    assert response.status_code == 200
    assert response.json()["user"] == registered["user"]
    assert call("GET", "/auth/me", access=response.json()["access"]).json() == registered["user"]


def test_refreshing_gives_the_next_pair_which_works() -> None:
    first = register()
    second = post("/auth/refresh", {"refresh": first["refresh"]})
    assert second.status_code == 200
    assert set(second.json()) == {"access", "refresh"}
    assert call("GET", "/auth/me", access=second.json()["access"]).status_code == 200
    assert post("/auth/refresh", {"refresh": second.json()["refresh"]}).status_code == 200


def test_logging_out_ends_the_session_and_can_be_repeated() -> None:
    mine, other = register(), post("/auth/login", {"email": REGISTER["email"], "password": PASSWORD}).json()
    for _ in range(2):
        response = post("/auth/logout", {"refresh": mine["refresh"]})
        assert (response.status_code, response.content) == (204, b"")
    assert_problem(post("/auth/refresh", {"refresh": mine["refresh"]}), 401, "not_authenticated")
    assert post("/auth/refresh", {"refresh": other["refresh"]}).status_code == 200


def test_changing_the_password_ends_the_other_sessions() -> None:
    mine, other = register(), post("/auth/login", {"email": REGISTER["email"], "password": PASSWORD}).json()
    body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    response = post("/auth/password", body, access=mine["access"])
    assert (response.status_code, response.content) == (204, b"")
    assert_problem(post("/auth/refresh", {"refresh": other["refresh"]}), 401, "not_authenticated")
    assert post("/auth/refresh", {"refresh": mine["refresh"]}).status_code == 200
    assert post("/auth/login", {"email": REGISTER["email"], "password": NEW_PASSWORD}).status_code == 200
    old = post("/auth/login", {"email": REGISTER["email"], "password": PASSWORD})
    assert_problem(old, 401, "invalid_credentials")


def test_no_answer_is_to_be_cached() -> None:
    body = register()
    answers = [
        post("/auth/register", REGISTER),
        post("/auth/login", {"email": REGISTER["email"], "password": PASSWORD}),
        post("/auth/refresh", {"refresh": body["refresh"]}),
        call("GET", "/auth/me", access=body["access"]),
    ]
    assert {answer["Cache-Control"] for answer in answers} == {"no-store"}


def test_an_old_token_in_the_header_does_not_stop_signing_in() -> None:
    register()
    body = {"email": REGISTER["email"], "password": PASSWORD}
    assert post("/auth/login", body, access="not.a.token").status_code == 200


# --- Who is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("email", ["alice@example.com", "ALICE@EXAMPLE.COM"])
def test_an_email_registers_once(email: str) -> None:
    register()
    before = everything_stored()
    problem = assert_problem(post("/auth/register", {**REGISTER, "email": email}), 409, "already_exists")
    assert problem["errors"][0]["field"] == "email"
    assert everything_stored() == before


def test_an_unknown_email_a_wrong_password_and_an_inactive_user_answer_alike() -> None:
    register()
    UserFactory(email="inactive@example.com", is_active=False)
    attempts = [
        ("alice@example.com", "wrong"),
        ("nobody@example.com", PASSWORD),
        ("inactive@example.com", PASSWORD),
    ]
    answers = []
    for email, password in attempts:
        response = post("/auth/login", {"email": email, "password": password})
        problem = assert_problem(response, 401, "invalid_credentials")
        answers.append({**problem, "correlation_id": ""})
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize(
    ("stored", "password", "status"),
    [
        (None, PASSWORD, 401),
        ({}, "wrong", 401),
        ({}, PASSWORD, 200),
        ({"is_active": False}, PASSWORD, 401),
        ({"is_active": False}, "wrong", 401),
        ({"password": make_password(None)}, PASSWORD, 401),
        ({"password": ""}, PASSWORD, 401),
    ],
    ids=["nobody", "wrong", "right", "inactive", "inactive and wrong", "no password", "empty password"],
)
def test_a_login_hashes_once_whoever_it_is(
    monkeypatch: pytest.MonkeyPatch, stored: dict[str, Any] | None, password: str, status: int
) -> None:
    if stored is not None:
        UserFactory(email="alice@example.com", **stored)
    hashed: list[str] = []
    for name in ("encode", "verify"):
        once = getattr(Argon2PasswordHasher, name)

        def counted(self: Any, *given: str, once: Any = once) -> Any:
            hashed.append("once")
            return once(self, *given)

        monkeypatch.setattr(Argon2PasswordHasher, name, counted)
    response = post("/auth/login", {"email": "alice@example.com", "password": password})
    assert (response.status_code, len(hashed)) == (status, 1)


def test_a_wrong_current_password_changes_nothing() -> None:
    access = register()["access"]
    before = everything_stored()
    body = {"current_password": "wrong", "new_password": NEW_PASSWORD}
    assert_problem(post("/auth/password", body, access=access), 401, "invalid_credentials")
    assert everything_stored() == before


def test_using_a_refresh_token_twice_ends_its_session() -> None:
    first = register()["refresh"]
    second = post("/auth/refresh", {"refresh": first}).json()["refresh"]
    assert_problem(post("/auth/refresh", {"refresh": first}), 401, "not_authenticated")
    assert_problem(post("/auth/refresh", {"refresh": second}), 401, "not_authenticated")


def test_of_eight_parallel_refreshes_exactly_one_succeeds() -> None:
    refresh = register()["refresh"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post("/auth/refresh", {"refresh": refresh}).status_code, range(8)))
    assert sorted(answers) == [200] + 7 * [401]


def test_a_deactivated_user_is_stopped_at_once() -> None:
    body = register()
    services.deactivate_user(user_id=body["user"]["id"])
    assert_problem(post("/auth/refresh", {"refresh": body["refresh"]}), 401, "not_authenticated")
    assert_problem(call("GET", "/auth/me", access=body["access"]), 401, "not_authenticated")
    assert_problem(post("/wallets", {"currency": "EUR"}, access=body["access"]), 401, "not_authenticated")
    change = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    assert_problem(post("/auth/password", change, access=body["access"]), 401, "not_authenticated")
    assert Wallet.objects.count() == 1


def test_a_deleted_users_token_is_refused() -> None:
    body = register()
    User.objects.all().delete()
    assert_problem(call("GET", "/auth/me", access=body["access"]), 401, "not_authenticated")
    assert_problem(post("/wallets", {"currency": "EUR"}, access=body["access"]), 401, "not_authenticated")


def test_reading_costs_no_query_for_the_user_and_writing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    access = register()["access"]
    looked_up: list[str] = []
    find_user = services.selectors.find_user

    def counted(*, user_id: str) -> User | None:
        looked_up.append(user_id)
        return find_user(user_id=user_id)

    monkeypatch.setattr(services.selectors, "find_user", counted)
    assert call("GET", "/wallets/me", access=access).status_code == 200
    assert len(looked_up) == 0
    assert post("/wallets", {"currency": "EUR"}, access=access).status_code == 201
    assert len(looked_up) == 1


def test_a_user_without_a_wallet_gets_one_by_asking_who_they_are() -> None:
    body = register()
    Wallet.objects.delete()
    assert call("GET", "/auth/me", access=body["access"]).status_code == 200
    assert Wallet.objects.get().user_id == body["user"]["id"]


# --- Tokens -----------------------------------------------------------------------------------------------


def forged(like: str, *, key: str | None = None, algorithm: str = "HS256", **claims: Any) -> str:
    """`like` with other claims, key or algorithm, under the name of our key; a claim of None is left out."""
    payload = {**jwt.decode(like, options={"verify_signature": False}), **claims}
    payload = {name: value for name, value in payload.items() if value is not None}
    signing_key = "" if algorithm == "none" else key or settings.JWT_SIGNING_KEY
    return jwt.encode(
        payload, signing_key, algorithm, headers=jwt.get_unverified_header(like) | {"alg": algorithm}
    )


WRONG_TOKENS: dict[str, tuple[Callable[[str], str], str]] = {
    "another kind": (lambda token: forged(token, token_type="sliding"), "not_authenticated"),
    "alg none": (lambda token: forged(token, algorithm="none"), "not_authenticated"),
    "another algorithm": (lambda token: forged(token, algorithm="HS384"), "not_authenticated"),
    "another key": (lambda token: forged(token, key="k" * 64), "not_authenticated"),
    "another audience": (lambda token: forged(token, aud="elsewhere"), "not_authenticated"),
    "another issuer": (lambda token: forged(token, iss="elsewhere"), "not_authenticated"),
    "no user": (lambda token: forged(token, sub=None), "not_authenticated"),
    "expired": (lambda token: forged(token, exp=int(time.time()) - 60), "token_expired"),
    "expired and forged": (lambda token: forged(token, exp=1, key="k" * 64), "not_authenticated"),
    "cut off": (lambda token: token[:-2], "not_authenticated"),
    "words": (lambda token: "let me in", "not_authenticated"),
    "odd characters": (lambda token: "\u00ff\u00fe.\u00e9.x", "not_authenticated"),
}


@pytest.fixture
def session() -> dict[str, Any]:
    """Alice's user and tokens."""
    return signed_in()


@pytest.mark.parametrize("name", WRONG_TOKENS)
def test_a_token_that_is_not_right_in_every_point_is_refused(session: dict[str, Any], name: str) -> None:
    before = everything_stored()
    forge, code = WRONG_TOKENS[name]
    access, refresh = forge(session["access"]), forge(session["refresh"])
    assert_problem(call("GET", "/auth/me", access=access), 401, code)
    assert_problem(post("/wallets", {"currency": "EUR"}, access=access), 401, code)
    assert_problem(post("/auth/password", {}, access=access), 401, code)
    assert_problem(post("/auth/refresh", {"refresh": refresh}), 401, code)
    assert_problem(post("/auth/logout", {"refresh": refresh}), 401, code)
    assert everything_stored() == before


@pytest.mark.parametrize("text", ["", "x" * 5_000])
def test_a_token_of_no_possible_length_is_refused(text: str) -> None:
    assert_problem(
        call("GET", "/auth/me", headers={"Authorization": f"Bearer {text}"}), 401, "not_authenticated"
    )


def test_the_kinds_of_token_are_not_interchangeable() -> None:
    body = register()
    assert_problem(call("GET", "/auth/me", access=body["refresh"]), 401, "not_authenticated")
    for path in ("/auth/refresh", "/auth/logout"):
        assert_problem(post(path, {"refresh": body["access"]}), 401, "not_authenticated")
    assert post("/auth/refresh", {"refresh": body["refresh"]}).status_code == 200


@pytest.mark.parametrize("header", ["", "Bearer", "Basic YTpi", "Token x", "Bearer  ", "bearer", "\u00ff"])
def test_without_a_bearer_token_there_is_nobody(header: str) -> None:
    for method, path in (("GET", "/auth/me"), ("POST", "/auth/password"), ("GET", "/wallets")):
        response = call(method, path, headers={"Authorization": header})
        assert_problem(response, 401, "not_authenticated")


# --- Without Redis ----------------------------------------------------------------------------------------


def test_without_redis_sessions_answer_503_and_nothing_changes(request: pytest.FixtureRequest) -> None:
    body = register()
    request.getfixturevalue("redis_down")
    change = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    for path, sent in (
        ("/auth/register", {**REGISTER, "email": "bob@example.com"}),
        ("/auth/login", {"email": REGISTER["email"], "password": PASSWORD}),
        ("/auth/refresh", {"refresh": body["refresh"]}),
        ("/auth/logout", {"refresh": body["refresh"]}),
        ("/auth/password", change),
    ):
        assert_problem(post(path, sent, access=body["access"]), 503, "service_unavailable")
    assert User.objects.get().check_password(PASSWORD)
    assert call("GET", "/auth/me", access=body["access"]).status_code == 200


def test_without_mongodb_the_answer_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    body = register()

    def gone(**_: object) -> None:
        raise Transient

    monkeypatch.setattr(services.selectors, "find_user", gone)
    monkeypatch.setattr(services.selectors, "find_user_by_email", gone)
    login = {"email": REGISTER["email"], "password": PASSWORD}
    assert_problem(call("GET", "/auth/me", access=body["access"]), 503, "service_unavailable")
    assert_problem(post("/auth/login", login), 503, "service_unavailable")
    assert_problem(post("/wallets", {"currency": "EUR"}, access=body["access"]), 503, "service_unavailable")
