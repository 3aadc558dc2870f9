"""MongoDB or Redis slow, silent or resetting: what requests wait for, what they answer, when it is over.

A proxy stands between this process and the server; the servers are real.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from django.conf import LazySettings
from django.db import connection
from prometheus_client import REGISTRY
from pymongo.errors import PyMongoError

from payflow import circuits, mongodb, redisdb
from payflow.mongodb import collection
from payflow.rates import Rate
from payflow.stack.drill.proxy import Fault, Proxy
from tests.accounts.factories import PASSWORD
from tests.api.client import Api, Party, assert_problem
from transfers import inbox, services
from transfers.documents import Transaction

SILENT = Fault(is_silent=True)
RESETS = Fault(resets=True)
# An operation that is answered so late leaves no time for a third one.
LATE = Fault(delay_seconds=0.6)
TIMEOUT_MS = 1_000
WAIT_SECONDS_MAX = 60.0


@pytest.fixture
def spent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, circuits.Account]]:
    """What each request spends from here on, by server."""
    seen: list[dict[str, circuits.Account]] = []
    give = circuits.request_budgets

    @contextmanager
    def give_and_tell() -> Iterator[dict[str, circuits.Account]]:
        with give() as accounts:
            seen.append(accounts)
            yield accounts

    monkeypatch.setattr(circuits, "request_budgets", give_and_tell)
    return seen


@pytest.fixture
def impatient(settings: LazySettings) -> None:
    """Requests have a second for MongoDB, and once it counts as away that lasts."""
    settings.MONGODB_TIMEOUT_MS, settings.MONGODB_AWAY_SECONDS = TIMEOUT_MS, 600.0


def pay(sender: Party, receiver: Party, key: str = "dinner") -> object:
    return sender.api.post_json(
        "/transactions", {"receiver_id": receiver.id, "amount": "1.00"}, Idempotency_Key=key
    )


def metric(name: str, server: str) -> float:
    return REGISTRY.get_sample_value(name, {"server": server}) or 0.0


def eventually(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- MongoDB ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [SILENT, RESETS, LATE], ids=["silent", "resets", "late"])
def test_one_request_finds_mongodb_away_and_the_next_are_refused_unasked(
    fault: Fault, anna: Party, bob: Party, mongodb_proxy: Proxy, impatient: None, spent: list
) -> None:
    assert pay(anna, bob, "before").status_code == 201
    mongodb_proxy.set(fault)
    assert_problem(pay(anna, bob), 503, "service_unavailable")
    assert mongodb.SERVER.is_away
    asked = len(spent)
    refused = metric("payflow_server_refused_total", "mongodb")
    for path in ("/wallets", "/wallets/me", "/transactions", "/transactions/txn_1") * 5:
        answer = anna.api.get(path)
        assert_problem(answer, 503, "service_unavailable")
        assert int(answer["Retry-After"]) > 0
    assert_problem(pay(anna, bob, "meanwhile"), 503, "service_unavailable")
    assert metric("payflow_server_refused_total", "mongodb") - refused >= 21
    assert sum(each["mongodb"].errands for each in spent[asked:]) == 0


def test_a_request_waits_for_a_slow_mongodb_once_in_all(
    anna: Party, bob: Party, mongodb_proxy: Proxy, impatient: None, spent: list
) -> None:
    assert pay(anna, bob, "before").status_code == 201
    usual = spent[-1]["mongodb"].errands
    mongodb_proxy.set(LATE)
    assert_problem(pay(anna, bob), 503, "service_unavailable")
    account = spent[-1]["mongodb"]
    assert account.errands <= 2 < usual
    # Each errand alone would have had as much.
    assert account.spent_seconds < usual * TIMEOUT_MS / 1_000


def test_a_query_that_takes_too_long_is_no_outage(anna: Party, bob: Party, settings: LazySettings) -> None:
    assert pay(anna, bob).status_code == 201
    settings.MONGODB_TIMEOUT_MS, settings.MONGODB_AWAY_SECONDS = 200, 600.0
    numbers = [{"$set": {"n": {"$range": [0, 500_000]}}}, {"$unwind": "$n"}]
    slow = [*numbers, {"$group": {"_id": {"$mod": ["$n", 7]}, "sum": {"$sum": {"$sqrt": "$n"}}}}]
    with circuits.request_budgets(), pytest.raises(PyMongoError) as raised:
        collection(Transaction).aggregate([*slow, *numbers, *numbers])
    assert raised.value.timeout
    eventually(lambda: not mongodb.SERVER.is_away)


@pytest.mark.parametrize("fault", [SILENT, RESETS, LATE], ids=["silent", "resets", "late"])
def test_mongodb_is_asked_again_once_it_answers_a_ping(
    fault: Fault, anna: Party, bob: Party, mongodb_proxy: Proxy, settings: LazySettings
) -> None:
    settings.MONGODB_TIMEOUT_MS, settings.MONGODB_AWAY_SECONDS = TIMEOUT_MS, 0.1
    mongodb_proxy.set(fault)
    assert_problem(pay(anna, bob), 503, "service_unavailable")
    mongodb_proxy.clear()
    eventually(lambda: not mongodb.SERVER.is_away)
    eventually(lambda: pay(anna, bob).status_code == 201)
    assert collection(Transaction).count_documents({}) == 1


def test_a_transfer_that_landed_before_its_answer_was_lost_is_repeated_by_its_key(
    anna: Party, bob: Party, mongodb_proxy: Proxy, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MONGODB_TIMEOUT_MS, settings.MONGODB_AWAY_SECONDS = TIMEOUT_MS, 0.1
    initiated = services.initiated

    def lose_the_answer(**terms: object) -> dict:
        mongodb_proxy.set(Fault(delay_seconds=60.0))
        return initiated(**terms)

    with monkeypatch.context() as patch:
        patch.setattr(services, "initiated", lose_the_answer)
        problem = assert_problem(pay(anna, bob), 503, "service_unavailable")
    assert "may have written it down" in problem["detail"]
    mongodb_proxy.clear()
    eventually(lambda: not mongodb.SERVER.is_away)
    eventually(lambda: collection(Transaction).count_documents({}) == 1)
    again = pay(anna, bob)
    assert (again.status_code, again["Idempotent-Replayed"]) == (201, "true")
    assert collection(Transaction).count_documents({}) == 1


def test_liveness_has_no_errand_anywhere(
    anyone: Api, mongodb_proxy: Proxy, redis_proxy: Proxy, spent: list
) -> None:
    for proxy in (mongodb_proxy, redis_proxy):
        proxy.set(SILENT)
    assert anyone.get("/health/live").status_code == 200
    assert spent == [{}]


def test_the_database_of_the_admin_keeps_to_the_budget_too(settings: LazySettings) -> None:
    settings.MONGODB_AWAY_SECONDS = 600.0
    connection.ensure_connection()
    assert isinstance(connection.connection, mongodb.Client)
    mongodb.SERVER.failed()
    eventually(lambda: not mongodb.SERVER.is_away)


def test_a_long_wait_for_an_end_is_many_budgets(
    anna: Party, bob: Party, settings: LazySettings, spent: list
) -> None:
    settings.PREFER_WAIT_SECONDS_MAX = 1
    body = {"receiver_id": bob.id, "amount": "1.00"}
    answer = anna.api.post_json("/transactions", body, Prefer="wait=1")
    assert answer.status_code == 201
    assert len(spent) > 3
    assert all(each["mongodb"].errands == 1 for each in spent[1:])


# --- Redis ------------------------------------------------------------------------------------------------


def test_a_payment_spends_one_budget_on_a_slow_redis_and_the_next_none(
    anna: Party, bob: Party, redis_proxy: Proxy, settings: LazySettings, spent: list
) -> None:
    settings.REDIS_REQUEST_SECONDS, settings.REDIS_SPARED_SECONDS = 0.25, 600.0
    redis_proxy.set(Fault(delay_seconds=0.1))
    assert pay(anna, bob, "first").status_code == 201
    assert redisdb.is_spared()
    assert 0 < spent[-1]["redis"].errands <= 4
    for number in range(5):
        assert pay(anna, bob, f"next-{number}").status_code == 201
        assert anna.api.get("/wallets").status_code == 200
    assert sum(each["redis"].errands for each in spent[1:] if "redis" in each) == 0


def test_without_redis_in_time_nobody_signs_in(
    anna: Party, redis_proxy: Proxy, settings: LazySettings
) -> None:
    settings.REDIS_REQUEST_SECONDS, settings.REDIS_SPARED_SECONDS = 0.2, 600.0
    redis_proxy.set(SILENT)
    for _ in range(3):
        answer = Api().post_json("/auth/login", {"email": anna.user.email, "password": PASSWORD})
        assert_problem(answer, 503, "service_unavailable")


# --- How often a request asks -----------------------------------------------------------------------------


def test_a_keyed_transfer_has_few_errands(
    anna: Party, bob: Party, settings: LazySettings, spent: list
) -> None:
    settings.RATE_LIMITS = dict.fromkeys(settings.RATE_LIMITS, Rate(1_000, 60))
    pay(anna, bob, "first")  # opens connections, and looks for sessions that have ended, as once a second
    redisdb.client().delete(inbox.KEY)  # so that the next one starts a chain, too
    pay(anna, bob, "second")
    found = {server: account.errands for server, account in spent[-1].items()}
    # Limits, claim of the key, inbox, broker, end of the claim; once a second the ended sessions.
    assert found["redis"] <= 6
    # Sender and receiver, an earlier use of the key, the transaction.
    assert found["mongodb"] <= 4


def test_what_is_refused_because_a_server_is_away_fills_no_log(
    anna: Party, mongodb_proxy: Proxy, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    mongodb_proxy.set(SILENT)
    anna.api.get("/wallets")
    caplog.clear()
    for _ in range(20):
        assert_problem(anna.api.get("/wallets"), 503, "service_unavailable")
    assert len(caplog.records) <= 1, "that it counts as away, at most"
