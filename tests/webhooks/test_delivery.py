"""Deliveries to receivers of every kind: what their documents say, attempt by attempt."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timedelta

import pytest
from django.conf import LazySettings
from pytest_httpserver import HTTPServer
from standardwebhooks import Webhook
from werkzeug import Request, Response

from payflow import clock
from payflow.mongodb import collection
from tests.webhooks import hooks, receivers
from tests.webhooks.hooks import LIFE, one_event, only_delivery, outcomes, subscribe, work
from tests.webhooks.receivers import hang, hang_up, receiving
from webhooks import delivery, replay, services, slots, transport, turns
from webhooks.documents import Delivery

ATTEMPTS_MAX = 8


def live_out(subscription_id: str, *, rounds_max: int = 30) -> None:
    """Let the time of every retry come until there are none."""
    for _ in range(rounds_max):
        hooks.make_due(subscription_id)
        work(subscription_id)
        if all(row["status"] != "PENDING" for row in hooks.deliveries(subscription_id)):
            return
    raise AssertionError("a delivery never ends")


@pytest.fixture(autouse=True)
def _patient_circuit(settings: LazySettings) -> None:
    """These tests are about attempts; test_circuit.py is about leaving endpoints alone."""
    settings.WEBHOOK_CIRCUIT_FAILURES = 1_000
    settings.WEBHOOK_TOTAL_SECONDS = 0.8


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> datetime:
    """The time, which stands still."""
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now)
    return now


def test_a_delivery_arrives_signed_and_its_document_says_so(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/hook").respond_with_data("thank you")
    subscription_id = subscribe(url=httpserver.url_for("/hook"))
    one_event(subscription_id)
    work(subscription_id)
    row = only_delivery(subscription_id)
    (attempt,) = row["attempts"]
    assert (row["status"], row["attempt_count"], row["tries"], row["sequence"]) == ("DELIVERED", 1, 1, 1)
    assert (attempt["status_code"], attempt["error"], attempt["answer"]) == (200, None, "thank you")
    assert 0 <= attempt["latency_ms"] < 5_000
    assert row["created_at"] <= attempt["at"] <= row["finished_at"] <= clock.now()
    assert not {"next_attempt_at", "claim"} & row.keys()
    ((request, _),) = httpserver.log
    assert request.get_data().decode() == row["payload"]
    assert Webhook(hooks.SECRET).verify(request.get_data(), dict(request.headers)) == json.loads(
        row["payload"]
    )
    assert request.headers["webhook-id"] == row["event_id"] == json.loads(row["payload"])["id"]
    assert (request.headers["PayFlow-Sequence"], request.headers["PayFlow-Delivery"]) == ("1", row["_id"])


def test_everything_arrives_once_and_in_order(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/hook").respond_with_data("ok")
    subscription_id = subscribe(url=httpserver.url_for("/hook"))
    hooks.tell(20)
    work(subscription_id)
    arrived = [int(request.headers["PayFlow-Sequence"]) for request, _ in httpserver.log]
    assert arrived == list(range(1, 20 * len(LIFE) + 1))
    assert {row["attempt_count"] for row in hooks.deliveries(subscription_id)} == {1}


def test_fails_then_arrives(httpserver: HTTPServer, frozen: datetime) -> None:
    httpserver.expect_ordered_request("/hook").respond_with_data("not yet", status=500)
    httpserver.expect_ordered_request("/hook").respond_with_data("nor now", status=404)
    httpserver.expect_ordered_request("/hook").respond_with_data("ok", status=204)
    subscription_id = subscribe(url=httpserver.url_for("/hook"))
    one_event(subscription_id)
    work(subscription_id)
    waiting = only_delivery(subscription_id)
    assert (waiting["status"], outcomes(waiting)) == ("PENDING", [500])
    assert timedelta(seconds=5) <= waiting["next_attempt_at"] - frozen <= timedelta(seconds=5.5)
    live_out(subscription_id)
    row = only_delivery(subscription_id)
    assert (row["status"], outcomes(row), row["attempt_count"]) == ("DELIVERED", [500, 404, 204], 3)
    timestamps = {request.headers["webhook-id"] for request, _ in httpserver.log}
    assert timestamps == {row["event_id"]}


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 403, 404, 409, 418, 422, 429, 500, 503])
def test_whatever_is_not_2xx_is_tried_until_it_is_a_dead_letter(status: int, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/hook").respond_with_data(
        "no", status=status, headers={"Location": httpserver.url_for("/elsewhere")}
    )
    subscription_id = subscribe(url=httpserver.url_for("/hook"))
    one_event(subscription_id)
    live_out(subscription_id)
    row = only_delivery(subscription_id)
    assert (row["status"], outcomes(row)) == ("DEAD", [status] * ATTEMPTS_MAX)
    assert row["attempt_count"] == ATTEMPTS_MAX == len(httpserver.log)
    assert {request.path for request, _ in httpserver.log} == {"/hook"}
    assert not {"next_attempt_at", "claim"} & row.keys()


def test_gone_disables_the_endpoint_and_keeps_what_it_did_not_take(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/hook").respond_with_data(status=410)
    subscription_id = subscribe(url=httpserver.url_for("/hook"))
    hooks.tell()
    work(subscription_id)
    seen = hooks.subscription(subscription_id)
    assert (seen["is_active"], seen["disabled_because"]) == (False, "GONE")
    assert [outcomes(row) for row in hooks.deliveries(subscription_id)] == [[410], [], [], []]
    assert {row["status"] for row in hooks.deliveries(subscription_id)} == {"PENDING"}
    hooks.make_due(subscription_id)
    work(subscription_id)
    assert len(httpserver.log) == 1


@pytest.mark.parametrize(("status", "counts"), [(429, True), (503, True), (500, False), (302, False)])
def test_retry_after_is_respected_where_it_has_a_meaning(
    status: int, counts: bool, httpserver: HTTPServer, frozen: datetime
) -> None:
    httpserver.expect_request("/hook").respond_with_data(status=status, headers={"Retry-After": "120"})
    subscription_id = subscribe(url=httpserver.url_for("/hook"))
    hooks.tell()
    for _ in range(3):
        work(subscription_id)
    rows = hooks.deliveries(subscription_id)
    wait = rows[0]["next_attempt_at"] - frozen
    if counts:
        # The others are not tried meanwhile, and use up none of their tries.
        assert wait == timedelta(seconds=120)
        assert [row["attempt_count"] for row in rows] == [1, 0, 0, 0]
        assert hooks.subscription(subscription_id)["paused_until"] == clock.after(frozen, 120)
    else:
        assert wait < timedelta(seconds=6)
        assert [row["attempt_count"] for row in rows] == [1, 1, 1, 1]


def test_a_receiver_may_ask_for_a_time_by_date_but_not_for_ever(
    httpserver: HTTPServer, frozen: datetime
) -> None:
    httpserver.expect_ordered_request("/hook").respond_with_data(
        status=503, headers={"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}
    )
    subscription_id = subscribe(url=httpserver.url_for("/hook"))
    one_event(subscription_id)
    work(subscription_id)
    assert only_delivery(subscription_id)["next_attempt_at"] - frozen == timedelta(hours=6)


@pytest.mark.parametrize(
    ("converse", "word"), [(hang, "timeout"), (hang_up, "connection_closed")], ids=["hangs", "hangs up"]
)
def test_no_answer_is_a_failure_with_a_word(converse: receivers.Conversation, word: str) -> None:
    with receiving(converse) as receiver:
        subscription_id = subscribe(url=receiver.url)
        one_event(subscription_id)
        work(subscription_id)
    row = only_delivery(subscription_id)
    assert (row["status"], outcomes(row)) == ("PENDING", [word])
    assert row["attempts"][0]["latency_ms"] < 5_000


def test_one_failing_delivery_holds_up_none_of_the_others(httpserver: HTTPServer) -> None:
    def refuse_the_second(request: Request) -> Response:
        return Response(status=500 if request.headers["PayFlow-Sequence"] == "2" else 200)

    httpserver.expect_request("/hook").respond_with_handler(refuse_the_second)
    subscription_id = subscribe(url=httpserver.url_for("/hook"))
    hooks.tell(2)
    work(subscription_id)
    statuses = [row["status"] for row in hooks.deliveries(subscription_id)]
    assert statuses == ["DELIVERED", "PENDING", *["DELIVERED"] * 6]


def test_an_attempt_that_has_begun_shows_without_a_result(httpserver: HTTPServer) -> None:
    """As a worker leaves it that dies in the middle: the claim runs out, and then it is tried again."""
    httpserver.expect_request("/hook").respond_with_data("ok")
    subscription_id = subscribe(url=httpserver.url_for("/hook"))
    one_event(subscription_id)
    hooks.place(subscription_id)
    delivery.claim(subscription_id=subscription_id, now=clock.now())
    work(subscription_id)
    claimed = only_delivery(subscription_id)
    assert (claimed["status"], outcomes(claimed), httpserver.log) == ("PENDING", ["unfinished"], [])
    collection(Delivery).update_one({}, {"$set": {"next_attempt_at": clock.now()}})
    work(subscription_id)
    row = only_delivery(subscription_id)
    assert (row["status"], outcomes(row), row["attempt_count"]) == ("DELIVERED", ["unfinished", 200], 2)


def test_whose_claim_has_run_out_tells_what_happened_and_decides_nothing(httpserver: HTTPServer) -> None:
    """Two workers at one delivery: the first stood still, the second failed, then the first fails, too."""
    httpserver.expect_request("/hook").respond_with_data("no", status=500)
    subscription_id = subscribe(url=httpserver.url_for("/hook"))
    one_event(subscription_id)
    hooks.place(subscription_id)
    first = delivery.claim(subscription_id=subscription_id, now=clock.now())
    assert first is not None
    collection(Delivery).update_one({}, {"$set": {"next_attempt_at": clock.now()}})
    work(subscription_id)
    before = only_delivery(subscription_id)
    with turns.Line(httpserver.url_for("/hook")) as line:
        delivery.attempt(delivery.Endpoint(subscription_id, [hooks.SECRET], line), first)
    after = only_delivery(subscription_id)
    assert outcomes(before) == ["unfinished", 500]
    assert outcomes(after) == [500, 500]
    assert after["next_attempt_at"] == before["next_attempt_at"]


def test_what_a_receiver_took_late_is_delivered(httpserver: HTTPServer) -> None:
    httpserver.expect_ordered_request("/hook").respond_with_data("no", status=500)
    httpserver.expect_ordered_request("/hook").respond_with_data("ok")
    subscription_id = subscribe(url=httpserver.url_for("/hook"))
    one_event(subscription_id)
    hooks.place(subscription_id)
    first = delivery.claim(subscription_id=subscription_id, now=clock.now())
    assert first is not None
    collection(Delivery).update_one({}, {"$set": {"next_attempt_at": clock.now()}})
    work(subscription_id)
    with turns.Line(httpserver.url_for("/hook")) as line:
        delivery.attempt(delivery.Endpoint(subscription_id, [hooks.SECRET], line), first)
    row = only_delivery(subscription_id)
    assert (row["status"], outcomes(row)) == ("DELIVERED", [200, 500])
    live_out(subscription_id)
    assert len(httpserver.log) == 2


def test_sending_again_begins_the_schedule_anew_and_keeps_the_record(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/hook").respond_with_data("no", status=500)
    subscription_id = subscribe(url=httpserver.url_for("/hook"))
    delivery_id = one_event(subscription_id)
    live_out(subscription_id)
    assert replay.redeliver(delivery_id=delivery_id, subscription_id=subscription_id)
    assert not replay.redeliver(delivery_id=delivery_id, subscription_id=subscription_id)
    live_out(subscription_id)
    row = only_delivery(subscription_id)
    assert (row["status"], row["sequence"], row["attempt_count"]) == ("DEAD", 1, 2 * ATTEMPTS_MAX)
    assert outcomes(row) == [500] * 2 * ATTEMPTS_MAX


def test_the_record_of_attempts_is_bounded(httpserver: HTTPServer, settings: LazySettings) -> None:
    settings.WEBHOOK_RETRY_SECONDS = [0.0] * 40
    httpserver.expect_request("/hook").respond_with_data("no", status=500)
    subscription_id = subscribe(url=httpserver.url_for("/hook"))
    one_event(subscription_id)
    live_out(subscription_id)
    row = only_delivery(subscription_id)
    assert (row["status"], row["attempt_count"]) == ("DEAD", 41)
    assert len(row["attempts"]) == delivery.ATTEMPTS_KEPT_MAX


def test_nothing_is_sent_to_a_disabled_endpoint_and_all_of_it_when_it_is_enabled(
    httpserver: HTTPServer,
) -> None:
    httpserver.expect_request("/hook").respond_with_data("ok")
    subscription_id = subscribe(url=httpserver.url_for("/hook"))
    hooks.tell()
    hooks.change(subscription_id, is_active=False, disabled_because="OWNER")
    work(subscription_id)
    assert httpserver.log == []
    assert hooks.sequences(subscription_id) == [1, 2, 3, 4]
    services.set_active(subscription_id=subscription_id, is_active=True)
    work(subscription_id)
    assert {row["status"] for row in hooks.deliveries(subscription_id)} == {"DELIVERED"}


def test_who_was_enabled_a_moment_ago_waits_for_nobody_who_looked_before(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/hook").respond_with_data("ok")
    subscription_id = subscribe(url=httpserver.url_for("/hook"), is_active=False, disabled_because="FAILING")
    hooks.tell()
    hooks.place(subscription_id)
    seen_before = hooks.subscription(subscription_id)
    services.set_active(subscription_id=subscription_id, is_active=True)
    assert not turns._serve(seen_before, is_suspect=False)
    work(subscription_id)
    assert {row["status"] for row in hooks.deliveries(subscription_id)} == {"DELIVERED"}


def test_a_new_chance_is_given_step_by_step_and_once(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    httpserver.expect_request("/hook").respond_with_data("no", status=500)
    subscription_id = subscribe(url=httpserver.url_for("/hook"))
    hooks.tell()
    work(subscription_id)
    services.set_active(subscription_id=subscription_id, is_active=True)
    since = hooks.subscription(subscription_id)["fresh_since"]
    monkeypatch.setattr(turns, "STEP_MAX", 3)
    assert turns.take(subscription_id=subscription_id) == [subscription_id]
    assert [row["tries"] for row in hooks.deliveries(subscription_id)].count(0) == 3
    assert turns.take(subscription_id=subscription_id) == []
    assert "fresh_since" not in hooks.subscription(subscription_id)
    assert [outcomes(row) for row in hooks.deliveries(subscription_id)] == [[500, 500]] * 4
    # Another worker that has not heard that it was given: what was tried since has had its chance.
    assert delivery.resume(subscription_id=subscription_id, since=since, limit=10) == 0


def test_a_delivery_that_waited_while_its_endpoint_was_disabled_has_all_its_tries(
    httpserver: HTTPServer,
) -> None:
    subscription_id = subscribe(url=httpserver.url_for("/hook"), is_active=False, disabled_because="FAILING")
    one_event(subscription_id)
    hooks.place(subscription_id)
    collection(Delivery).update_one({}, {"$set": {"tries": 7}})
    services.set_active(subscription_id=subscription_id, is_active=True)
    work(subscription_id)
    row = only_delivery(subscription_id)
    assert (row["status"], row["tries"]) == ("PENDING", 1)


def test_a_receiver_can_fetch_what_its_endpoint_has_no_thread_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "TURNS_MAX", 0)
    subscription_id = subscribe()
    hooks.tell()
    assert turns.take(subscription_id=subscription_id) == []
    slots._waiting.clear()
    assert hooks.sequences(subscription_id) == [1, 2, 3, 4]
    assert {row["attempt_count"] for row in hooks.deliveries(subscription_id)} == {0}


def test_an_endpoint_that_is_slow_gives_its_thread_back_and_shares_with_its_like(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    httpserver.expect_request("/hook").respond_with_data("ok")
    subscription_id = subscribe(url=httpserver.url_for("/hook"))
    hooks.tell()
    monkeypatch.setattr(slots, "SLOW_SECONDS", 0.0)
    assert turns.take(subscription_id=subscription_id) == [subscription_id]
    assert len(httpserver.log) == 1
    entered: list[slots.Visitor] = []
    monkeypatch.setattr(slots, "enter", lambda visitor: entered.append(visitor))
    assert turns.take(subscription_id=subscription_id) == []
    slots._slow.clear()
    assert entered == [slots.Visitor(subscription_id, hooks.ALICE, 1, is_suspect=True)]


def test_an_attempt_that_could_not_be_made_is_nobodys_failure(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, frozen: datetime
) -> None:
    """Other hosts' names keep all threads that look names up."""
    subscription_id = subscribe(url=httpserver.url_for("/hook"))
    one_event(subscription_id)
    monkeypatch.setattr(transport, "_lookups_free", threading.BoundedSemaphore(1))
    with transport._lookups_free:
        work(subscription_id)
    row = only_delivery(subscription_id)
    assert (row["status"], row["attempts"], row["attempt_count"], row["tries"]) == ("PENDING", [], 0, 0)
    assert "claim" not in row
    assert row["next_attempt_at"] == clock.after(frozen, delivery.NOT_MADE_SECONDS)
    assert hooks.subscription(subscription_id)["consecutive_failures"] == 0
    httpserver.expect_request("/hook").respond_with_data("ok")
    hooks.make_due(subscription_id)
    work(subscription_id)
    assert outcomes(only_delivery(subscription_id)) == [200]


def test_no_endpoint_shows_its_secrets() -> None:
    with turns.Line("http://localhost:9/") as line:
        assert hooks.SECRET not in repr(delivery.Endpoint("wh_1", [hooks.SECRET], line))


def test_what_was_on_its_way_to_a_deleted_endpoint_goes_step_by_step(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    httpserver.expect_request("/hook").respond_with_data("ok")
    subscription_id = subscribe(url=httpserver.url_for("/hook"))
    one_event(subscription_id)
    work(subscription_id)
    hooks.tell()
    collection(turns.Subscription).delete_one({"_id": subscription_id})
    monkeypatch.setattr(turns, "STEP_MAX", 3)
    work(subscription_id)
    assert [row["status"] for row in hooks.deliveries(subscription_id)] == ["DELIVERED"]
    assert len(httpserver.log) == 1


def test_secrets_that_cannot_be_opened_cost_the_receiver_nothing(
    httpserver: HTTPServer, settings: LazySettings, caplog: pytest.LogCaptureFixture
) -> None:
    subscription_id = subscribe(url=httpserver.url_for("/hook"))
    one_event(subscription_id)
    settings.WEBHOOK_SECRET_KEYS = ["s3cr3tOfHooksZg5vX2k9Lr0QmTqW7eYbH3JuNcD4aE="]
    work(subscription_id)
    row = only_delivery(subscription_id)
    assert (row["status"], row["attempt_count"], httpserver.log) == ("PENDING", 0, [])
    assert "webhook secrets cannot be opened" in caplog.text
    assert hooks.subscription(subscription_id)["paused_until"] > clock.now()
    assert hooks.SECRET not in caplog.text
