"""Open sessions over HTTP: seeing them, ending them, and what is left of a session that has ended."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from accounts import sessions
from payflow import redisdb
from tests.accounts.factories import PASSWORD
from tests.api.auth_client import (
    NEW_PASSWORD,
    REGISTER,
    assert_problem,
    call,
    everything_stored,
    post,
    register,
)

LOGIN = {"email": REGISTER["email"], "password": PASSWORD}
UNKNOWN = "0" * 32


def login(**kwargs: Any) -> dict[str, Any]:
    return post("/auth/login", LOGIN, **kwargs).json()


def listed(access: str) -> list[dict[str, Any]]:
    response = call("GET", "/auth/sessions", access=access)
    assert response.status_code == 200, response.content
    assert response["Cache-Control"] == "no-store"
    return response.json()["results"]


def own_id(access: str) -> str:
    return next(session["id"] for session in listed(access) if session["current"])


def delete(path: str, access: str) -> Any:
    return call("DELETE", path, access=access)


def test_lists_the_open_sessions_and_says_which_one_asks() -> None:
    access = register()["access"]
    away = login(HTTP_USER_AGENT="Mozilla/5.0 (a phone)", REMOTE_ADDR="192.0.2.7")["access"]
    mine = {session["current"]: session for session in listed(access)}
    theirs = {session["current"]: session for session in listed(away)}
    assert {**mine[True], "current": False} == theirs[False]
    assert {**mine[False], "current": True} == theirs[True]
    assert theirs[True]["user_agent"] == "Mozilla/5.0 (a phone)"
    assert theirs[True]["address"] == "192.0.2.7"
    assert mine[True]["user_agent"] is None
    assert set(mine[True]) == {
        "id", "created_at", "last_used_at", "expires_at", "user_agent", "address", "current",
    }  # fmt: skip
    times = [
        datetime.fromisoformat(mine[True][name]) for name in ("created_at", "last_used_at", "expires_at")
    ]
    assert times[0] <= times[1] < times[2]


def test_a_refresh_shows_as_use_and_where_it_came_from() -> None:
    first = register()
    before = listed(first["access"])[0]
    post("/auth/refresh", {"refresh": first["refresh"]}, HTTP_USER_AGENT="train", REMOTE_ADDR="192.0.2.8")
    after = listed(first["access"])[0]
    assert (after["id"], after["created_at"]) == (before["id"], before["created_at"])
    assert (after["user_agent"], after["address"]) == ("train", "192.0.2.8")
    assert after["last_used_at"] >= before["last_used_at"]


def test_neither_tokens_nor_other_peoples_sessions_are_listed() -> None:
    mine, theirs = register(), register(email="bob@example.com", name="Bob")
    text = call("GET", "/auth/sessions", access=mine["access"]).content.decode()
    assert own_id(theirs["access"]) not in text
    jtis = [value.split(" ")[0] for key in redisdb.client().keys("payflow:sessions:*")
            for value in redisdb.client().hgetall(key).values()]  # fmt: skip
    assert len(jtis) == 2
    assert not any(jti in text for jti in jtis)


def test_an_ended_session_is_over_for_its_refresh_token_and_its_access_token() -> None:
    mine, lost = register(), login()
    response = delete(f"/auth/sessions/{own_id(lost['access'])}", mine["access"])
    assert (response.status_code, response.content) == (204, b"")
    assert_problem(post("/auth/refresh", {"refresh": lost["refresh"]}), 401, "not_authenticated")
    payment = {"receiver_email": "bob@example.com", "amount": "1.00"}
    for answer in (
        call("GET", "/wallets/me", access=lost["access"]),
        post("/wallets/me/withdraw", {"amount": "1.00"}, access=lost["access"]),
        post("/transactions", payment, access=lost["access"]),
    ):
        problem = assert_problem(answer, 401, "not_authenticated")
        assert problem["detail"] == "This session is over. Sign in again."
    assert len(listed(mine["access"])) == 1
    assert post("/auth/refresh", {"refresh": mine["refresh"]}).status_code == 200


@pytest.mark.parametrize("session_id", [UNKNOWN, "x", "a.b:c"])
def test_a_session_that_is_not_there_is_a_404(session_id: str) -> None:
    access = register()["access"]
    before = everything_stored()
    assert_problem(delete(f"/auth/sessions/{session_id}", access), 404, "not_found")
    assert everything_stored() == before


def test_somebody_elses_session_is_a_404_and_goes_on() -> None:
    mine, theirs = register(), register(email="bob@example.com", name="Bob")
    assert_problem(delete(f"/auth/sessions/{own_id(theirs['access'])}", mine["access"]), 404, "not_found")
    assert len(listed(theirs["access"])) == 1
    assert post("/auth/refresh", {"refresh": theirs["refresh"]}).status_code == 200


def test_ending_a_session_twice_is_a_404_the_second_time() -> None:
    mine, other = register(), login()
    path = f"/auth/sessions/{own_id(other['access'])}"
    assert delete(path, mine["access"]).status_code == 204
    assert_problem(delete(path, mine["access"]), 404, "not_found")


def test_ending_ones_own_session_is_signing_out() -> None:
    mine = register()
    assert delete(f"/auth/sessions/{own_id(mine['access'])}", mine["access"]).status_code == 204
    assert_problem(call("GET", "/auth/sessions", access=mine["access"]), 401, "not_authenticated")
    assert_problem(post("/auth/refresh", {"refresh": mine["refresh"]}), 401, "not_authenticated")


def test_ending_the_others_leaves_the_one_that_asks() -> None:
    mine, others = register(), [login(), login()]
    theirs = register(email="bob@example.com", name="Bob")
    response = delete("/auth/sessions", mine["access"])
    assert (response.status_code, response.content) == (204, b"")
    assert [session["current"] for session in listed(mine["access"])] == [True]
    for other in others:
        assert_problem(call("GET", "/auth/me", access=other["access"]), 401, "not_authenticated")
        assert_problem(post("/auth/refresh", {"refresh": other["refresh"]}), 401, "not_authenticated")
    assert listed(theirs["access"])


def test_a_new_password_ends_the_access_tokens_of_the_other_sessions() -> None:
    mine, other = register(), login()
    change = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    assert post("/auth/password", change, access=mine["access"]).status_code == 204
    assert_problem(call("GET", "/auth/me", access=other["access"]), 401, "not_authenticated")
    assert call("GET", "/auth/me", access=mine["access"]).status_code == 200


def test_signing_out_and_a_stolen_refresh_token_end_the_access_token() -> None:
    out, stolen = register(), login()
    post("/auth/logout", {"refresh": out["refresh"]})
    assert_problem(call("GET", "/auth/me", access=out["access"]), 401, "not_authenticated")
    following = post("/auth/refresh", {"refresh": stolen["refresh"]}).json()
    assert call("GET", "/auth/me", access=stolen["access"]).status_code == 200
    assert post("/auth/refresh", {"refresh": stolen["refresh"]}).status_code == 401
    for access in (stolen["access"], following["access"]):
        assert_problem(call("GET", "/auth/me", access=access), 401, "not_authenticated")


def test_no_more_sessions_are_listed_than_may_be_open(settings: Any) -> None:
    settings.SESSIONS_PER_USER_MAX = 3
    access = [register()["access"], *(login()["access"] for _ in range(4))][-1]
    assert len(listed(access)) == 3


def test_a_redis_that_has_lost_everything_lists_nothing_and_the_token_goes_on() -> None:
    mine = register()
    redisdb.client().flushdb()
    assert listed(mine["access"]) == []
    assert_problem(post("/auth/refresh", {"refresh": mine["refresh"]}), 401, "not_authenticated")


def test_without_redis_sessions_answer_503_and_access_tokens_go_on(request: pytest.FixtureRequest) -> None:
    mine = register()
    request.getfixturevalue("redis_down")
    sessions._Ended.read_at = float("-inf")
    assert call("GET", "/auth/me", access=mine["access"]).status_code == 200
    for method, path in (("GET", ""), ("DELETE", ""), ("DELETE", f"/{UNKNOWN}")):
        response = call(method, f"/auth/sessions{path}", access=mine["access"])
        assert_problem(response, 503, "service_unavailable")
