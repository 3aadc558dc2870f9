"""Rate limits over HTTP: who is counted where, what the answers say, and what happens without Redis."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import redis
from django.conf import LazySettings
from django.test import Client
from django.urls import get_resolver
from django_ratelimit import core as ratelimit
from prometheus_client import REGISTRY

from accounts import api_keys, selectors
from payflow import redisdb
from payflow.api import limits as rate_limits
from payflow.errors import Transient
from payflow.rates import Rate
from tests.accounts.factories import PASSWORD, UserFactory
from tests.accounts.keys import mint
from tests.api.client import Api, Party, assert_problem, nothing_changes

DAY = 86_400
HEADERS = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
LOGIN = {"email": "anna@example.com", "password": "not the password"}
Limited = Callable[..., None]


@pytest.fixture
def limited(settings: LazySettings) -> Limited:
    """Sets limits, for a day, so that no window ends while a test runs."""

    def limit(**limits: int) -> None:
        rates = {group: Rate(count, DAY) for group, count in limits.items()}
        settings.RATE_LIMITS = {**settings.RATE_LIMITS, **rates}
        # Whoever used up another limit has not used up this one.
        rate_limits._spent.clear()

    return limit


def pay(party: Party | Api, **headers: str) -> Any:
    api = party.api if isinstance(party, Party) else party
    return api.post_json("/transactions", {"receiver_email": "bob@example.com", "amount": "0.01"}, **headers)


def log_in(address: str = "10.0.0.1", **changes: str) -> Any:
    return Api().post("/auth/login", {**LOGIN, **changes}, "application/json", REMOTE_ADDR=address)


def standing(response: Any) -> tuple[int, int]:
    return int(response["RateLimit-Limit"]), int(response["RateLimit-Remaining"])


# --- Who is counted, and where ----------------------------------------------------------------------------


def test_a_limit_is_every_user_s_own(anna: Party, bob: Party, stranger: Party, limited: Limited) -> None:
    limited(transactions=2)
    assert [pay(anna).status_code for _ in range(3)] == [201, 201, 429]
    assert pay(stranger).status_code == 201
    assert anna.api.get("/transactions").status_code == 200, "another group"


def test_a_user_takes_their_count_along_to_another_address(anna: Party, bob: Party, limited: Limited) -> None:
    limited(transactions=1)
    codes = [pay(Api(anna.another_client().defaults["HTTP_AUTHORIZATION"][7:])).status_code for _ in "ab"]
    assert codes == [201, 429]


def test_deposits_and_withdrawals_share_a_limit(anna: Party, limited: Limited) -> None:
    limited(deposits=2)
    moves = ("deposit", "withdraw", "deposit")
    codes = [anna.api.post_json(f"/wallets/me/{move}", {"amount": "1"}).status_code for move in moves]
    assert codes == [201, 201, 429]


def test_who_is_nobody_is_counted_by_address(limited: Limited) -> None:
    limited(**{"global": 2})
    codes = [
        Client(REMOTE_ADDR=a).get("/").status_code for a in ("10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.2")
    ]
    assert codes == [200, 200, 429, 200]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/transactions", 401), ("POST", "/transactions", 401),
     ("PUT", "/", 405), ("GET", "/nothing\0", 404), ("OPTIONS", "/", 405)],
)  # fmt: skip
@pytest.mark.parametrize("token", [None, "nonsense"])
def test_requests_that_come_to_nothing_count_once(
    limited: Limited, token: str | None, method: str, path: str, status: int
) -> None:
    limited(**{"global": 2})
    answers = [Api(token).send(method, path) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [status, status, 429]
    assert [standing(answer) for answer in answers] == [(2, 1), (2, 0), (2, 0)]
    assert_problem(answers[2], 429, "rate_limited")


def test_who_may_not_counts(anna: Party, limited: Limited) -> None:
    limited(**{"global": 1})
    assert [anna.api.get("/ledger/audit").status_code for _ in "ab"] == [403, 429]


def test_who_may_not_counts_as_the_user_they_are(anna: Party, stranger: Party, limited: Limited) -> None:
    limited(**{"global": 1})
    assert anna.api.get("/ledger/audit").status_code == 403
    assert stranger.api.get("/ledger/audit").status_code == 403, "from the same address"
    assert Api().get("/").status_code == 200
    assert anna.api.get("/wallets").status_code == 429


def test_wrong_api_keys_cost_no_query_once_their_address_is_refused(
    anna: Party, limited: Limited, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(**{"global": 1})
    good = Api(mint(anna.user).encoded)
    wrong = Api(f"pk_{'0' * 32}_{'x' * 43}")
    assert [wrong.get("/wallets").status_code for _ in "ab"] == [401, 429]
    with monkeypatch.context() as patch:
        patch.setattr(selectors, "find_api_key_and_owner", lambda **_: pytest.fail("MongoDB was asked"))
        refusal = wrong.get("/wallets")
    assert_problem(refusal, 429, "rate_limited")
    assert 0 < int(refusal["Retry-After"]) <= DAY
    assert anna.api.get("/wallets").status_code == 200, "a token costs no query"
    assert good.get("/wallets", REMOTE_ADDR="10.0.0.2").status_code == 429, "her count is used up"
    limited(**{"global": 9})
    assert good.get("/wallets", REMOTE_ADDR="10.0.0.2").status_code == 200


def test_writes_cost_no_query_once_their_user_is_refused(
    anna: Party, limited: Limited, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Api(mint(anna.user, "wallets:read").encoded)
    assert key.get("/wallets").status_code == 200
    limited(**{"global": 1})
    assert [anna.api.post_json("/wallets", {}).status_code for _ in "ab"] == [400, 429]
    with monkeypatch.context() as patch:
        for query in ("require_active", "find_api_key_and_owner"):
            patch.setattr(selectors, query, lambda **_: pytest.fail("MongoDB was asked"))
        refusals = anna.api.post_json("/wallets", {}), key.get("/wallets")
    for refusal in refusals:
        assert_problem(refusal, 429, "rate_limited")
        assert standing(refusal) == (1, 0)
        assert 0 < int(refusal["Retry-After"]) <= DAY
    assert Api().get("/").status_code == 200, "her address is not counted for her"


def test_a_key_that_was_good_lately_is_read_wherever_strangers_have_used_up_the_limit(
    anna: Party, limited: Limited
) -> None:
    minted = mint(anna.user)
    good, new = Api(minted.encoded), Api(mint(anna.user).encoded)
    wrong = Api(f"{minted.encoded[:-43]}{'x' * 43}")
    assert good.get("/wallets").status_code == 200
    limited(**{"global": 3})
    assert [wrong.get("/wallets").status_code for _ in range(4)] == [401, 401, 401, 429]
    assert good.get("/wallets").status_code == 200
    assert new.get("/wallets").status_code == 429, "nobody knows yet"
    assert wrong.get("/wallets").status_code == 429, "the same key with another secret"
    api_keys.revoke_key(user_id=anna.id, key_id=minted.key.id)
    assert_problem(good.get("/wallets", REMOTE_ADDR="10.0.0.2"), 401, "not_authenticated")
    assert good.get("/wallets").status_code == 429, "it is nobody's, and counts for its address"


def test_of_good_keys_so_many_are_remembered(anna: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "KNOWN_MAX", 1)
    keys = [mint(anna.user).encoded for _ in "ab"]
    for key in keys:
        api_keys.read_key(key)
    assert [api_keys.find_known_owner(key) for key in keys] == [None, anna.id]


def test_a_body_refused_unread_counts(limited: Limited) -> None:
    limited(**{"global": 1})
    codes = [Api().send("POST", "/", b"{}", Content_Length="9999999").status_code for _ in "ab"]
    assert codes == [413, 429]


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/metrics"])
def test_what_our_own_machines_ask_is_not_counted(limited: Limited, path: str) -> None:
    limited(**{"global": 1})
    answers = [Api().get(path) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {200}
    assert not any(answer.has_header(name) for answer in answers for name in HEADERS)


@pytest.mark.parametrize("path", ["/admin/", "/admin/login/", "/admin/nothing", "/admin/accounts/user/"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_admin_s_pages_count_for_who_has_not_signed_in(limited: Limited, path: str, method: str) -> None:
    limited(**{"global": 2})
    answers = [Client().generic(method, path) for _ in range(3)]
    assert [answer.status_code == 429 for answer in answers] == [False, False, True]
    assert standing(answers[2]) == (2, 0)
    staff = Client()
    staff.force_login(UserFactory(email="staff@example.com", is_staff=True, is_superuser=True))
    answer = staff.generic(method, path)
    assert answer.status_code != 429
    assert not any(answer.has_header(name) for name in HEADERS)


@pytest.mark.parametrize("path", ["register", "login", "refresh", "logout"])
def test_account_endpoints_count_by_address(limited: Limited, path: str) -> None:
    limited(auth=2)
    with nothing_changes():
        codes = [Api().post_json(f"/auth/{path}", {}).status_code for _ in range(3)]
    assert codes == [400, 400, 429]


def test_a_password_is_guessed_by_a_user_a_few_times_only(anna: Party, limited: Limited) -> None:
    limited(auth=1)
    body = {"current_password": "wrong", "new_password": "a better password"}
    assert [anna.api.post_json("/auth/password", body).status_code for _ in "ab"] == [401, 429]


def test_an_email_is_counted_wherever_it_is_asked_from(anna: Party, limited: Limited) -> None:
    limited(auth_email=2)
    padded = " " * 2_000 + "ANNA@example.com "
    spellings = ("anna@example.com", padded, "Anna@Example.COM")
    codes = [log_in(f"10.0.0.{n}", email=email).status_code for n, email in enumerate(spellings)]
    assert codes == [401, 401, 429]
    assert log_in("10.0.0.9", email="bob@example.com").status_code == 401
    register = {"name": "Anna", "email": "anna@example.com", "password": PASSWORD}
    assert Api().post_json("/auth/register", register).status_code == 429


def test_who_is_refused_already_shuts_nobody_out(anna: Party, limited: Limited) -> None:
    limited(auth=1, auth_email=3)
    assert [log_in().status_code for _ in range(5)] == [401, 429, 429, 429, 429]
    form = {"username": "anna@example.com", "password": "wrong"}
    login = [Client(REMOTE_ADDR="10.0.0.2").post("/admin/login/", form).status_code for _ in range(4)]
    assert login == [200, 429, 429, 429]
    assert log_in("10.0.0.3", password=PASSWORD).status_code == 200


@pytest.mark.parametrize("path", ["refresh", "logout"])
def test_where_no_account_is_named_no_email_counts(limited: Limited, path: str) -> None:
    limited(auth_email=1)
    body = {"refresh": "x", "email": "anna@example.com"}
    assert {Api().post_json(f"/auth/{path}", body).status_code for _ in "abc"} == {400}


def test_nothing_of_an_email_or_an_address_stands_in_redis(anna: Party, limited: Limited) -> None:
    limited(auth=5, auth_email=5)
    log_in()
    keys = redisdb.client().keys("payflow:limits:*")
    assert len(keys) == 2
    assert not any("anna" in key or "10.0.0" in key for key in keys)
    assert all(0 < redisdb.client().ttl(key) <= DAY + 5 for key in keys)


@pytest.mark.parametrize("email", [None, 1, [], {}, "x" * 5_000, ""])
def test_an_email_that_is_none_counts_for_its_address(limited: Limited, email: object) -> None:
    limited(auth=1, auth_email=1)
    body = {"email": email, "password": PASSWORD}
    assert [Api().post_json("/auth/login", body).status_code for _ in "ab"] == [400, 429]


def test_the_admin_s_login_is_no_way_round(anna: Party, limited: Limited) -> None:
    limited(auth_email=2)
    # The admin's form takes them all for the same name (NFKC).
    spellings = ("anna@example.com", "\uff21nna@example.com", "\u3000anna\uff20example.com")
    codes = [
        Client().post("/admin/login/", {"username": name, "password": "wrong"}).status_code
        for name in spellings
    ]
    assert codes == [200, 200, 429]
    assert log_in().status_code == 429


def test_the_admin_s_login_is_not_read_before_it_is_counted_nor_if_it_is_long(
    settings: LazySettings, limited: Limited
) -> None:
    limited(auth=2, auth_email=1)
    form = {"username": "anna@example.com", "x": "x" * settings.REQUEST_BODY_BYTES_MAX}
    answers = [Client().post("/admin/login/", form) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [413, 413, 429]
    form = {"username": "anna@example.com", "password": "wrong"}
    assert Client(REMOTE_ADDR="10.0.0.2").post("/admin/login/", form).status_code == 200


def test_no_page_of_the_admin_reads_without_end(settings: LazySettings) -> None:
    raw = b"x" * (settings.REQUEST_BODY_BYTES_MAX + 1)
    assert_problem(Api().send("POST", "/admin/accounts/user/", raw), 413, "payload_too_large")
    chunked = Api().generic("POST", "/admin/login/", headers={"Transfer-Encoding": "chunked"})
    assert_problem(chunked, 411, "length_required")


def test_a_form_that_cannot_be_read_is_a_problem() -> None:
    part = '--x\r\nContent-Disposition: form-data; name="username"; y*=a; y*0=b\r\n\r\nanna\r\n--x--\r\n'
    answer = Api().send("POST", "/admin/login/", part.encode(), "multipart/form-data; boundary=x")
    assert_problem(answer, 400, "validation_error")


def test_every_group_that_a_view_names_exists(settings: LazySettings) -> None:
    named: set[str] = set()
    patterns = list(get_resolver().url_patterns)
    for pattern in patterns:
        patterns += getattr(pattern, "url_patterns", [])
        view = getattr(getattr(pattern, "callback", None), "cls", None)
        named |= set(getattr(view, "limits", {}).values())
    assert named >= {"auth", "transactions", "deposits"}
    assert named <= set(settings.RATE_LIMITS)


# --- What the answers say ---------------------------------------------------------------------------------


def test_headers_tell_the_tightest_limit(anna: Party, bob: Party, limited: Limited) -> None:
    limited(**{"global": 10, "transactions": 3})
    assert standing(anna.api.get("/wallets")) == (10, 9)
    assert standing(pay(anna)) == (3, 2)
    limited(**{"global": 3})
    assert standing(anna.api.get("/wallets")) == (3, 2)
    assert standing(pay(anna)) == (3, 1)
    assert 0 < int(pay(anna)["RateLimit-Reset"]) <= DAY


def test_errors_tell_it_too(anna: Party, limited: Limited) -> None:
    limited(**{"global": 10})
    for number, (path, status) in enumerate({"/transactions?limit=x": 400, "/transactions/x": 404}.items()):
        response = anna.api.get(path)
        assert (response.status_code, standing(response)) == (status, (10, 9 - number))


def test_a_refusal_says_what_to_do_and_is_counted(anna: Party, bob: Party, limited: Limited) -> None:
    def refused() -> float:
        return REGISTRY.get_sample_value("payflow_rate_limited_total", {"group": "transactions"}) or 0.0

    limited(transactions=1)
    pay(anna)
    before = refused()
    with nothing_changes():
        response = pay(anna)
    problem = assert_problem(response, 429, "rate_limited")
    assert 0 < int(response["Retry-After"]) <= DAY
    assert response["Retry-After"] == response["RateLimit-Reset"]
    assert standing(response) == (1, 0)
    assert f"Wait {response['Retry-After']} seconds" in problem["detail"]
    assert refused() == before + 1


def test_after_the_reset_requests_pass_again(
    anna: Party, bob: Party, limited: Limited, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(ratelimit, "time", SimpleNamespace(time=lambda: now))
    limited(transactions=1)
    assert pay(anna).status_code == 201
    wait_seconds = int(pay(anna)["Retry-After"])
    now += wait_seconds - 1
    assert pay(anna).status_code == 429
    now += 1
    assert pay(anna).status_code == 201


def test_a_refused_request_uses_up_no_idempotency_key(anna: Party, bob: Party, limited: Limited) -> None:
    limited(transactions=1)
    pay(anna)
    assert pay(anna, Idempotency_Key="dinner").status_code == 429
    limited(transactions=10)
    response = pay(anna, Idempotency_Key="dinner")
    assert response.status_code == 201
    assert "Idempotent-Replayed" not in response


def test_no_limit_no_header(anna: Party) -> None:
    assert not any(anna.api.get("/wallets").has_header(name) for name in HEADERS)


def test_of_many_at_once_exactly_as_many_pass_as_may(anna: Party, limited: Limited) -> None:
    limited(deposits=20)
    clients = [anna.another_client() for _ in range(50)]
    with ThreadPoolExecutor(50) as pool:
        codes = pool.map(
            lambda client: client.post_json("/wallets/me/withdraw", {"amount": "1000"}).status_code, clients
        )
    assert Counter(codes) == {409: 20, 429: 30}


# --- Without Redis ----------------------------------------------------------------------------------------


@pytest.fixture
def everything_limited(limited: Limited, settings: LazySettings) -> None:
    limited(**dict.fromkeys(settings.RATE_LIMITS, 100))


@pytest.mark.usefixtures("everything_limited")
def test_without_redis_reading_and_money_go_on_uncounted(anna: Party, bob: Party, redis_down: None) -> None:
    for answer in (
        anna.api.get("/wallets"),
        anna.api.get("/transactions"),
        anna.api.post_json("/wallets/me/deposit", {"amount": "1"}),
        pay(anna),
    ):
        assert answer.status_code in {200, 201}
        assert not any(answer.has_header(name) for name in HEADERS)


@pytest.mark.usefixtures("everything_limited")
def test_without_redis_nobody_tries_passwords(anna: Party, redis_down: None) -> None:
    with nothing_changes():
        for answer in (
            log_in(),
            log_in(password=PASSWORD),
            Api().post_json("/auth/register", {"name": "N", "email": "n@example.com", "password": PASSWORD}),
            anna.api.post_json("/auth/password", {"current_password": PASSWORD, "new_password": "x" * 12}),
        ):
            assert_problem(answer, 503, "service_unavailable")
            assert int(answer["Retry-After"]) > 0


@pytest.mark.usefixtures("everything_limited")
def test_a_redis_that_just_failed_is_not_asked_again(
    anna: Party, bob: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redisdb.SERVER, "ping", Mock(side_effect=Transient))
    redisdb.SERVER.failed()
    monkeypatch.setattr(redis.Connection, "send_packed_command", lambda *_: pytest.fail("Redis was asked"))
    assert pay(anna).status_code == 201
    assert anna.api.get("/wallets").status_code == 200
    assert_problem(log_in(), 503, "service_unavailable")
