"""The root, health, and what every answer has: the correlation id and one form for whatever goes wrong."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.conf import LazySettings

from payflow import clock, health
from payflow.mongodb import collection
from tests.api.client import Api, Party, assert_problem, facts
from tests.transfers import world
from tests.webhooks import hooks
from transfers import notices
from transfers.documents import Notice, Transaction
from wallets import selectors
from webhooks import slots, sweep, turns
from webhooks.documents import Delivery, WebhookSweep

HEALTHY = {"status": "ok", "dependencies": {"mongodb": "up", "redis": "up"}}
READY = {"status": "ok", "dependencies": {"mongodb": "up"}}
_NO_ROUND = {"visited": 0, "age_seconds": None, "last_ended_seconds": None}
NO_ROUNDS = {"entries": _NO_ROUND, "transactions": _NO_ROUND}
MADE = re.compile(r"cor_[0-9a-f]{32}")


def test_the_root_says_what_this_is_and_where_to_go(anyone: Api, settings: LazySettings) -> None:
    body = anyone.get("/").json()
    assert set(body) == {"name", "version", "links"}
    assert (body["name"], body["version"]) == ("PayFlow", settings.VERSION)
    assert set(body["links"]) == {"docs", "openapi", "health", "admin"}
    for link in body["links"].values():
        assert link.startswith("http://testserver/")
        assert anyone.get(link.removeprefix("http://testserver")).status_code in {200, 302}


@pytest.mark.parametrize("host", ["evil.example", "a b", "localhost:x", ""])
def test_the_root_refuses_a_host_that_is_not_ours(anyone: Api, host: str) -> None:
    assert_problem(anyone.get("/", headers={"Host": host}), 400, "validation_error")


# --- Health -----------------------------------------------------------------------------------------------


def test_healthy_while_every_dependency_answers(anyone: Api, settings: LazySettings) -> None:
    response = anyone.get("/health")
    body = response.json()
    told = body.pop("duties")
    assert body["storage"]["status"] == "up"
    reports = {
        "database": body["database"],
        "storage": body["storage"],
        "saga": {"status": "up", "queue_age_seconds": 0.0},
        "notifications": {"status": "up", "overdue_seconds": 0.0},
        "webhooks": {"status": "up", "queue_age_seconds": 0.0},
        "ledger_audit": {"status": "UNKNOWN", "age_seconds": None, "rounds": NO_ROUNDS},
    }
    assert (response.status_code, body) == (200, HEALTHY | reports)
    assert (told["status"], told["overdue"], set(told["ages_seconds"])) == ("up", [], set(settings.DUTIES))
    assert "Retry-After" not in response


def test_ready_while_mongodb_answers(anyone: Api, request: pytest.FixtureRequest) -> None:
    for _ in ("Redis is up", "Redis is down"):
        response = anyone.get("/health/ready")
        assert (response.status_code, response.json()) == (200, READY)
        assert "Retry-After" not in response
        request.getfixturevalue("redis_down")


def test_degraded_but_serving_while_no_worker_takes_what_waits(anyone: Api, anna: Party, bob: Party) -> None:
    sent = anna.api.post_json("/transactions", {"receiver_id": bob.id, "amount": "1.00"}).json()
    world.make_old(sent["id"], seconds=60)
    response = anyone.get("/health")
    body = response.json()
    assert (response.status_code, body["status"], body["saga"]["status"]) == (200, "degraded", "stalled")
    assert body["saga"]["queue_age_seconds"] >= 60
    assert anyone.get("/health/ready").json() == READY


@pytest.mark.parametrize(
    ("document", "field"),
    [(Notice, "next_attempt_at"), (Transaction, "notices_due_at")],
    ids=["one", "none yet"],
)
def test_degraded_but_serving_while_mails_wait(
    document: type[Notice | Transaction],
    field: str,
    anyone: Api,
    anna: Party,
    bob: Party,
    settings: LazySettings,
) -> None:
    world.play(anna.api.post_json("/transactions", {"receiver_id": bob.id, "amount": "1.00"}).json()["id"])
    assert anyone.get("/health").json()["notifications"]["status"] == "up"
    if document is Notice:
        notices.write_down(transactions_max=1)
    long_ago = clock.after(clock.now(), -settings.NOTIFICATIONS_OVERDUE_SECONDS_MAX)
    collection(document).update_one({}, {"$set": {field: long_ago}})
    body = anyone.get("/health").json()
    assert (body["status"], body["notifications"]["status"]) == ("degraded", "behind")
    assert body["notifications"]["overdue_seconds"] >= settings.NOTIFICATIONS_OVERDUE_SECONDS_MAX
    settings.NOTIFICATIONS_ENABLED = False
    body = anyone.get("/health").json()
    assert (body["status"], body["notifications"]) == ("ok", {"status": "off"})


def test_degraded_but_serving_where_no_worker_has_ever_looked_at_deliveries(anyone: Api) -> None:
    subscription_id = hooks.subscribe()
    hooks.one_event(subscription_id)
    assert anyone.get("/health").json()["webhooks"]["status"] == "up"
    collection(Delivery).update_one({}, {"$set": {"created_at": clock.after(clock.now(), -90)}})
    body = anyone.get("/health").json()
    assert (body["status"], body["webhooks"]["status"]) == ("degraded", "stalled")
    assert body["webhooks"]["queue_age_seconds"] >= 60
    hooks.place(subscription_id)
    assert anyone.get("/health").json()["status"] == "ok"


def let_wait(subscription_id: str, *, seconds: float) -> None:
    """Let an endpoint's deliveries, placed or not, have waited for so long."""
    past = clock.after(clock.now(), -seconds)
    of_it = {"subscription_id": subscription_id}
    collection(Delivery).update_many(of_it, {"$set": {"created_at": past}})
    collection(Delivery).update_many(
        {**of_it, "next_attempt_at": {"$exists": True}}, {"$set": {"next_attempt_at": past}}
    )


@pytest.mark.parametrize("is_placed", [False, True], ids=["without a place", "due"])
@pytest.mark.parametrize("case", ["served", "fails", "many", "disabled"])
def test_one_users_long_queue_is_nobodys_alarm(case: str, is_placed: bool, anyone: Api) -> None:
    """Three batches of 1,000 for an endpoint that answers 500 said "stalled" after a minute."""
    subscription_id = hooks.subscribe()
    more = [hooks.subscribe() for _ in range(19)] if case == "many" else []
    for each in (subscription_id, *more):
        for _ in range(5):
            hooks.one_event(each)
        if is_placed:
            hooks.place(each)
        let_wait(each, seconds=9_000)
        # As its last turn left it.
        hooks.change(each, worked_at=clock.after(clock.now(), -5))
    if case == "fails":
        hooks.change(subscription_id, paused_until=clock.after(clock.now(), 600), consecutive_failures=9)
    if case == "disabled":
        hooks.change(subscription_id, is_active=False, disabled_because="FAILING")
    sweep.sweep()
    body = anyone.get("/health").json()
    assert (body["status"], body["webhooks"]["status"]) == ("ok", "up")
    assert body["webhooks"]["queue_age_seconds"] < 60


@pytest.mark.parametrize("is_placed", [False, True], ids=["without a place", "due"])
def test_an_endpoint_that_no_worker_looks_at_is_an_alarm(is_placed: bool, anyone: Api) -> None:
    """The sweep runs, and workers take no message."""
    busy, forgotten = hooks.subscribe(), hooks.subscribe()
    for each in (busy, forgotten):
        hooks.one_event(each)
        if is_placed:
            hooks.place(each)
        let_wait(each, seconds=200)
        hooks.change(each, worked_at=clock.after(clock.now(), -5 if each == busy else -100))
    sweep.sweep()
    body = anyone.get("/health").json()
    assert (body["status"], body["webhooks"]["status"]) == ("degraded", "stalled")
    assert 100 <= body["webhooks"]["queue_age_seconds"] < 200
    turns.take(subscription_id=forgotten)
    sweep.sweep()
    assert anyone.get("/health").json()["status"] == "ok"


def test_a_sweep_that_no_longer_runs_is_an_alarm(anyone: Api) -> None:
    sweep.sweep()
    assert anyone.get("/health").json()["status"] == "ok"
    collection(WebhookSweep).update_one({}, {"$set": {"at": clock.after(clock.now(), -90)}})
    body = anyone.get("/health").json()
    assert (body["status"], body["webhooks"]["status"]) == ("degraded", "stalled")


def test_an_endpoint_that_waits_for_its_owners_other_one_counts_as_looked_at(
    anyone: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may only be spoken to once another one that fails is done."""
    subscription_id = hooks.subscribe(consecutive_failures=3)
    hooks.one_event(subscription_id)
    hooks.place(subscription_id)
    let_wait(subscription_id, seconds=9_000)
    monkeypatch.setattr(slots, "enter", lambda visitor: False)
    turns.take(subscription_id=subscription_id)
    sweep.sweep()
    assert anyone.get("/health").json()["webhooks"]["status"] == "up"


@pytest.mark.parametrize("down", ["mongodb", "redis"])
def test_unhealthy_while_a_dependency_does_not_answer(
    anyone: Api, request: pytest.FixtureRequest, down: str
) -> None:
    request.getfixturevalue(f"{down}_down")
    response = anyone.get("/health")
    assert response.status_code == 503
    assert int(response["Retry-After"]) > 0
    assert response.json() == {
        "status": "degraded", "dependencies": {**HEALTHY["dependencies"], down: "down"},
    }  # fmt: skip


@pytest.mark.usefixtures("mongodb_down")
def test_not_ready_while_mongodb_does_not_answer(anyone: Api) -> None:
    response = anyone.get("/health/ready")
    assert response.status_code == 503
    assert int(response["Retry-After"]) > 0
    assert response.json() == {"status": "degraded", "dependencies": {"mongodb": "down"}}


@pytest.mark.usefixtures("mongodb_down", "redis_down")
def test_alive_whatever_does_not_answer(anyone: Api) -> None:
    response = anyone.get("/health/live")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert anyone.get("/").status_code == 200


def test_health_looks_at_nobody_s_credentials() -> None:
    assert Api("nonsense").get("/health").status_code == 200


# --- A dependency that is down ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/wallets"), ("GET", "/wallets/me"), ("GET", "/wallets/me/history"), ("GET", "/transactions"),
     ("GET", "/transactions/txn_1"), ("GET", "/wallets/wal_1/balance"), ("POST", "/wallets"),
     ("POST", "/wallets/me/deposit"), ("POST", "/wallets/me/withdraw"), ("POST", "/transactions")],
)  # fmt: skip
def test_without_mongodb_every_endpoint_says_when_to_come_back(
    anna: Party, bob: Party, request: pytest.FixtureRequest, method: str, path: str
) -> None:
    body: dict[str, Any] = {"currency": "EUR"} if path == "/wallets" else {"amount": "1.00"}
    if path == "/transactions":
        body["receiver_id"] = bob.id
    request.getfixturevalue("mongodb_down")
    response = anna.api.get(path) if method == "GET" else anna.api.post_json(path, body)
    problem = assert_problem(response, 503, "service_unavailable")
    assert int(response["Retry-After"]) > 0
    assert "127.0.0.1" not in problem["detail"]


@pytest.mark.usefixtures("redis_down")
def test_without_redis_reading_and_moving_money_go_on(anna: Party, bob: Party) -> None:
    for path in ("/wallets", "/wallets/me", "/wallets/me/history", "/transactions"):
        assert anna.api.get(path).status_code == 200
    for move in ("deposit", "withdraw"):
        response = anna.api.post_json(f"/wallets/me/{move}", {"amount": "1"}, Idempotency_Key="k")
        assert response.status_code == 201


# --- What goes wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/nothing", "/health/", "/health/dead", "/auth", "/auth/nothing", "/%2e%2e/x"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_address_is_a_problem(anyone: Api, method: str, path: str) -> None:
    assert_problem(anyone.send(method, path), 404, "not_found")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("path", ["/", "/health", "/health/live", "/health/ready"])
def test_a_wrong_method_is_a_problem_that_names_the_right_ones(anyone: Api, method: str, path: str) -> None:
    response = anyone.send(method, path)
    assert_problem(response, 405, "method_not_allowed")
    assert response["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"])
@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_pages_for_people_take_no_other_method_either(anyone: Api, method: str, path: str) -> None:
    response = anyone.send(method, path)
    assert_problem(response, 405, "method_not_allowed")
    assert response["Allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize("debug", [False, True])
def test_a_crash_is_a_problem_that_tells_nothing(
    anna: Party, monkeypatch: pytest.MonkeyPatch, settings: LazySettings, debug: bool
) -> None:
    def crash(**_: object) -> None:
        raise RuntimeError("secret detail")

    settings.DEBUG = debug
    monkeypatch.setattr(selectors, "list_states", crash)
    problem = assert_problem(anna.api.get("/wallets"), 500, "internal_error")
    assert "secret" not in str(problem)


def test_a_crash_of_the_health_check_is_a_problem_too(anyone: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash() -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setitem(health.DEPENDENCIES, "mongodb", crash)
    assert "secret" not in str(assert_problem(anyone.get("/health"), 500, "internal_error"))


# --- Correlation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["X-Correlation-Id", "X-Request-Id"])
@pytest.mark.parametrize(
    "value", ["a", "x" * 128, "0af7651916cd43dd8448eb211c80319c", "Root=1-6.7:8/9+a@b_c"]
)
def test_a_safe_correlation_id_is_taken_over(anyone: Api, header: str, value: str) -> None:
    for path in ("/", "/nothing", "/wallets"):
        assert anyone.get(path, headers={header: value})["X-Correlation-Id"] == value


@pytest.mark.parametrize("header", ["X-Correlation-Id", "X-Request-Id"])
@pytest.mark.parametrize(
    "value",
    ["", " ", "x" * 129, "a b", "a\r\nSet-Cookie: x=1", "a\n", "<b>", "${jndi:x}", "\u00e4", "\u0661", "a\0"],
)
def test_an_unsafe_correlation_id_is_replaced(anyone: Api, header: str, value: str) -> None:
    for path in ("/", "/nothing", "/wallets"):
        assert MADE.fullmatch(anyone.get(path, headers={header: value})["X-Correlation-Id"])


def test_of_two_names_the_correlation_id_s_own_wins(anyone: Api) -> None:
    headers = {"X-Correlation-Id": "mine", "X-Request-Id": "other"}
    assert anyone.get("/", headers=headers)["X-Correlation-Id"] == "mine"


def test_every_request_without_one_gets_its_own(anyone: Api) -> None:
    ids = {anyone.get("/")["X-Correlation-Id"] for _ in range(5)}
    assert len(ids) == 5
    assert all(MADE.fullmatch(one) for one in ids)


def test_a_transaction_remembers_the_request_that_started_it(anna: Party, bob: Party) -> None:
    body = {"receiver_id": bob.id, "amount": "1"}
    response = anna.api.post_json("/transactions", body, X_Correlation_Id="the-request")
    assert response["X-Correlation-Id"] == "the-request"
    assert [row["correlation_id"] for row in facts()["transactions"]] == ["the-request"]


def test_a_body_announced_as_too_long_is_refused_unread_with_its_correlation_id(anyone: Api) -> None:
    response = anyone.generic(
        "POST", "/nothing", b"{}", content_type="application/json", headers={"Content-Length": "9999999"}
    )
    assert_problem(response, 413, "payload_too_large")


@pytest.mark.parametrize(
    "accept",
    ["text/html", "application/xml", "", "*/*;q=0", "application/json; indent=9", "nonsense", "a/b;;=,"],
)
def test_answers_in_json_whatever_is_asked_for(anyone: Api, accept: str) -> None:
    for path, kind in (("/health", "application/json"), ("/wallets", "application/problem+json")):
        assert anyone.get(path, headers={"Accept": accept})["Content-Type"] == kind
        assert anyone.get(f"{path}?format=html", headers={"Accept": accept})["Content-Type"] == kind
