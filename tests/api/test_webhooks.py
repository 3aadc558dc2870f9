"""The webhook endpoints: registering, secrets, changing, the log, catching up."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any

import mongoengine
import pytest
from django.conf import LazySettings
from standardwebhooks import Webhook

from payflow import clock
from payflow.events import Event, EventType
from payflow.mongodb import collection
from tests.api.client import Party, assert_problem, nothing_changes
from tests.webhooks import hooks
from webhooks import addresses, fanout, sequencing
from webhooks.documents import Delivery, Subscription
from webhooks.event_schema import COMPLETED

URL = "https://hooks.example.com/payflow"
EVENTS = ["TRANSACTION_COMPLETED", "TRANSACTION_FAILED"]
FIELDS = {
    "id", "url", "events", "is_active", "disabled_because", "consecutive_failures", "failing_since",
    "held_since", "secrets",
    "created_at", "updated_at",
}  # fmt: skip
SECRET = "whsec_" + "QUJD" * 10


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"hooks.example.com": "93.184.215.14", "inside.example.com": "10.0.0.1"}
    monkeypatch.setattr(
        addresses, "resolve", lambda host, port: [ip_address(names[host])] if host in names else []
    )


def register(party: Party, **changes: Any) -> dict[str, Any]:
    response = party.api.post_json("/webhooks", {"url": URL, "events": EVENTS, **changes})
    assert response.status_code == 201, response.content
    return response.json()


def patch(party: Party, webhook_id: str, body: Any) -> Any:
    return party.api.send("PATCH", f"/webhooks/{webhook_id}", json.dumps(body).encode())


def tell(party: Party, *types: EventType, transaction_id: str = "txn_1") -> None:
    """Fan events of a transaction of the party's out, and give the deliveries their places."""
    data = {**COMPLETED["data"], "id": transaction_id, "sender_id": party.id, "receiver_id": "somebody"}
    fanout.fan_out([Event(transaction_id, each, clock.now(), data) for each in types])
    for row in collection(Subscription).find({"user_id": party.id}):
        sequencing.place(subscription_id=row["_id"], limit=100)


# --- Registering ------------------------------------------------------------------------------------------


def test_the_answer_that_creates_shows_the_secret_and_no_other_does(anna: Party) -> None:
    response = anna.api.post_json("/webhooks", {"url": URL, "events": EVENTS})
    body = response.json()
    assert (response.status_code, response["Location"]) == (201, f"/webhooks/{body['id']}")
    assert response["Cache-Control"] == "no-store"
    assert set(body) == {*FIELDS, "secret"}
    assert (body["url"], body["events"], body["is_active"]) == (URL, EVENTS, True)
    assert body["secrets"] == [{"created_at": body["created_at"], "expires_at": None}]
    Webhook(body["secret"]).sign("msg", clock.now(), "{}")
    shown = {name: value for name, value in body.items() if name != "secret"}
    one = f"/webhooks/{body['id']}"
    assert anna.api.get(one).json() == shown
    assert anna.api.get("/webhooks").json() == {"results": [shown], "next": None}
    later = [anna.api.get(path) for path in (one, "/webhooks", f"{one}/logs", f"{one}/events")]
    later.append(patch(anna, body["id"], {"is_active": False}))
    stored = str(list(mongoengine.get_db()["webhook_subscriptions"].find()))
    for text in (*(each.content.decode() for each in later), stored):
        assert body["secret"].removeprefix("whsec_") not in text
        assert "gAAAA" not in text or text == stored


def test_takes_a_secret_of_the_clients_own(anna: Party) -> None:
    assert register(anna, secret=SECRET)["secret"] == SECRET


def test_an_event_that_is_named_twice_counts_once(anna: Party) -> None:
    events = ["DEBIT_SUCCESS", "TRANSACTION_FAILED", "DEBIT_SUCCESS", *["DEBIT_SUCCESS"] * 90]
    assert register(anna, events=events)["events"] == ["DEBIT_SUCCESS", "TRANSACTION_FAILED"]
    every = [event.value for event in EventType]
    assert register(anna, events=every)["events"] == every


NO_EVENTS: list[Any] = [
    None, [], "TRANSACTION_COMPLETED", {}, {"0": "TRANSACTION_COMPLETED"}, 1, True, [None], [1], [True],
    [[]], [{}],
    [["TRANSACTION_COMPLETED"]], ["*"], [""], ["transaction_completed"], ["TRANSACTION_COMPLETED "],
    ["webhook.test"],
    ["TRANSACTION_COMPLETED\x00"], ["\uff34RANSACTION_COMPLETED"], ["x" * 10_000], ["DEBIT_SUCCESS"] * 101,
    ["x"] * 12_000,
    [{"$ne": None}], ["TRANSACTION_COMPLETED", "NO_SUCH_EVENT"],
]  # fmt: skip


@pytest.mark.parametrize("events", NO_EVENTS, ids=lambda each: ascii(each)[:24])
def test_refuses_what_is_no_list_of_events(anna: Party, events: Any) -> None:
    mine = register(anna)
    with nothing_changes():
        for response in (
            anna.api.post_json("/webhooks", {"url": URL, "events": events}),
            patch(anna, mine["id"], {"events": events}),
        ):
            problem = assert_problem(response, 400, "validation_error")
            assert {error["field"].split(".")[0] for error in problem["errors"]} == {"events"}
            assert len(response.content) < 2_000


NO_URLS: list[tuple[Any, str]] = [
    (None, "validation_error"), (1, "validation_error"), ([], "validation_error"), ({}, "validation_error"),
    (True, "validation_error"), ("", "validation_error"), ("https://x.example/\x00", "validation_error"),
    ("https://hooks.example.com/" + "x" * 3_000, "validation_error"), (" " + URL, "webhook_url_refused"),
    ("https://inside.example.com/", "webhook_url_refused"), ("https://nowhere.example.com/",
    "webhook_url_refused"),
    ("http://169.254.169.254/latest/meta-data", "webhook_url_refused"), ("http://2130706433/",
    "webhook_url_refused"),
    ("https://user:pass@hooks.example.com/", "webhook_url_refused"), ("ftp://hooks.example.com/",
    "webhook_url_refused"),
    ("https://h\u00f6oks.example.com/", "webhook_url_refused"), ("https://\uff11\uff12\uff17.0.0.1/",
    "webhook_url_refused"),
    ("javascript:alert(1)", "webhook_url_refused"), ("https://hooks.example.com/#x", "webhook_url_refused"),
]  # fmt: skip


@pytest.mark.parametrize(("url", "code"), NO_URLS, ids=lambda each: ascii(each)[:24])
def test_refuses_what_may_not_be_sent_to(anna: Party, url: Any, code: str) -> None:
    mine = register(anna)
    with nothing_changes():
        for response in (
            anna.api.post_json("/webhooks", {"url": url, "events": EVENTS}),
            patch(anna, mine["id"], {"url": url}),
        ):
            problem = assert_problem(response, 400, code)
            assert [error["field"] for error in problem["errors"]] == ["url"]


def test_production_takes_https_to_public_hosts_only(anna: Party, settings: LazySettings) -> None:
    settings.WEBHOOK_ALLOW_HTTP = settings.WEBHOOK_ALLOW_LOCALHOST = False
    settings.WEBHOOK_PORTS = (80, 443)
    for url in ("http://hooks.example.com/", "https://127.0.0.1/", "https://hooks.example.com:8443/"):
        response = anna.api.post_json("/webhooks", {"url": url, "events": EVENTS})
        assert_problem(response, 400, "webhook_url_refused")
    register(anna)


NO_SECRETS: list[tuple[Any, str]] = [
    (None, "validation_error"), (1, "validation_error"), ([], "validation_error"), ("", "validation_error"),
    ("whsec_", "invalid_secret"), (SECRET.removeprefix("whsec_"), "invalid_secret"), (SECRET + "=",
    "invalid_secret"),
    (SECRET + " ", "invalid_secret"), ("whsec_QUJD", "invalid_secret"), ("whsec_" + "QUJD" * 22,
    "invalid_secret"),
    ("whsec_" + "\uff21" * 40, "invalid_secret"), ("x" * 10_000, "validation_error"), (SECRET + "\x00",
    "validation_error"),
]  # fmt: skip


@pytest.mark.parametrize(("secret", "code"), NO_SECRETS, ids=lambda each: ascii(each)[:24])
def test_refuses_what_is_no_secret_and_does_not_repeat_it(anna: Party, secret: Any, code: str) -> None:
    with nothing_changes():
        response = anna.api.post_json("/webhooks", {"url": URL, "events": EVENTS, "secret": secret})
        problem = assert_problem(response, 400, code)
    assert [error["field"] for error in problem["errors"]] == ["secret"]
    assert "QUJDQUJD" not in response.content.decode()


@pytest.mark.parametrize("name", ["Url", "is_active", "user_id", "id", "slot", "secrets", "$set", "x" * 200])
def test_refuses_fields_it_does_not_know(anna: Party, name: str) -> None:
    with nothing_changes():
        body = {"url": URL, "events": EVENTS, name: "x"}
        problem = assert_problem(anna.api.post_json("/webhooks", body), 400, "validation_error")
    assert [error["code"] for error in problem["errors"]] == ["unknown_field"]


def test_the_limit_is_exact_for_requests_at_once(anna: Party, settings: LazySettings) -> None:
    settings.WEBHOOKS_PER_USER_MAX = 3

    def ask(_: int) -> int:
        body = {"url": URL, "events": EVENTS}
        return anna.another_client().post_json("/webhooks", body).status_code

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(ask, range(12))) == [*[201] * 3, *[409] * 9]
    refused = anna.api.post_json("/webhooks", {"url": URL, "events": EVENTS})
    assert_problem(refused, 409, "webhook_limit")


# --- Listing, changing, deleting --------------------------------------------------------------------------


def test_lists_own_webhooks_newest_first_page_by_page(anna: Party, bob: Party) -> None:
    ids = [register(anna)["id"] for _ in range(5)][::-1]
    register(bob)
    seen, path = [], "/webhooks?limit=2"
    for _ in range(3):
        body = anna.api.get(path).json()
        seen += [row["id"] for row in body["results"]]
        path = f"/webhooks?limit=2&cursor={body['next']}"
    assert (seen, body["next"]) == (ids, None)


def test_changes_what_is_named_and_nothing_else(anna: Party) -> None:
    mine = register(anna)
    for change in (
        {"url": "https://hooks.example.com/2"},
        {"events": ["DEBIT_FAILED"]},
        {"is_active": False},
    ):
        before = anna.api.get(f"/webhooks/{mine['id']}").json()
        response = patch(anna, mine["id"], change)
        assert response.status_code == 200
        because = {"disabled_because": "OWNER"} if "is_active" in change else {}
        updated = {"updated_at": response.json()["updated_at"]}
        assert response.json() == {**before, **change, **because, **updated}
    assert patch(anna, mine["id"], {"is_active": True}).json()["disabled_because"] is None
    assert patch(anna, mine["id"], {}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [{"is_active": None}, {"is_active": "true"}, {"is_active": 1}, {"secret": SECRET}, {"user_id": "x"},
    {"slot": 1},
     {"id": "wh_1"}, {"disabled_because": None}, {"consecutive_failures": 0}, {"$set": {"is_active": True}}],
    ids=str,
)  # fmt: skip
def test_refuses_changes_that_are_not_the_clients_to_make(anna: Party, body: dict[str, Any]) -> None:
    mine = register(anna)
    with nothing_changes():
        assert_problem(patch(anna, mine["id"], body), 400, "validation_error")


def test_a_deleted_webhook_is_gone(anna: Party) -> None:
    mine = register(anna)
    tell(anna, EventType.TRANSACTION_COMPLETED)
    assert anna.api.delete(f"/webhooks/{mine['id']}").status_code == 204
    assert_problem(anna.api.get(f"/webhooks/{mine['id']}"), 404, "not_found")
    assert_problem(anna.api.delete(f"/webhooks/{mine['id']}"), 404, "not_found")
    hooks.work(mine["id"])
    assert collection(Delivery).count_documents({}) == 0


NOT_MINE = [
    ("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/rotate-secret"), ("POST", "/test"), ("GET",
    "/logs"),
    ("GET", "/events"), ("POST", "/logs/{delivery}/redeliver"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "rest"), NOT_MINE)
def test_somebody_elses_webhook_looks_like_none(
    anna: Party, bob: Party, staff: Party, method: str, rest: str
) -> None:
    theirs, own = register(anna)["id"], register(bob)["id"]
    tell(anna, EventType.TRANSACTION_COMPLETED)
    delivery = collection(Delivery).find_one({})["_id"]
    collection(Delivery).update_one({}, {"$set": {"status": "DEAD"}})
    rest = rest.format(delivery=delivery)
    ids = [theirs, "wh_" + "0" * 32, "wh_", "null", "x" * 160, theirs.upper(), "..", "$ne", "%00"]
    with nothing_changes():
        bodies = [bob.api.send(method, f"/webhooks/{each}{rest}", b"{}") for each in ids]
        for response in [*bodies, staff.api.send(method, f"/webhooks/{theirs}{rest}", b"{}")]:
            problem = assert_problem(response, 404, "not_found")
            assert theirs not in problem["detail"]
        if delivery in rest:
            assert_problem(bob.api.send(method, f"/webhooks/{own}{rest}", b"{}"), 404, "not_found")


# --- Secrets ----------------------------------------------------------------------------------------------


def test_rotating_shows_a_new_secret_once_and_says_how_long_the_old_one_signs(anna: Party) -> None:
    mine = register(anna, secret=SECRET)
    response = anna.api.post_json(f"/webhooks/{mine['id']}/rotate-secret", {})
    assert response.status_code == 200
    body = response.json()
    assert body["secret"] not in ("", SECRET)
    newest, former = body["secrets"]
    assert newest["expires_at"] is None
    assert former["expires_at"] > newest["created_at"]
    assert "secret" not in anna.api.get(f"/webhooks/{mine['id']}").json()
    with nothing_changes():
        refused = anna.api.post_json(f"/webhooks/{mine['id']}/rotate-secret", {"secret": SECRET})
        assert_problem(refused, 400, "validation_error")
    assert anna.api.send("POST", f"/webhooks/{mine['id']}/rotate-secret", b"", "").status_code == 200


# --- Tests, the log, sending again ------------------------------------------------------------------------


def test_a_test_is_a_delivery_to_this_webhook_only(anna: Party) -> None:
    mine, other = register(anna), register(anna)
    response = anna.api.post_json(f"/webhooks/{mine['id']}/test", {})
    assert response.status_code == 202
    body = response.json()
    assert (body["event_type"], body["status"], body["attempts"]) == ("webhook.test", "PENDING", [])
    assert anna.api.get(f"/webhooks/{mine['id']}/logs").json() == {"results": [body], "next": None}
    assert anna.api.get(f"/webhooks/{other['id']}/logs").json()["results"] == []


@pytest.mark.parametrize("door", ["/test", "/logs/{}/redeliver"])
def test_nothing_is_sent_to_a_disabled_webhook(anna: Party, door: str) -> None:
    mine = register(anna)
    delivery = anna.api.post_json(f"/webhooks/{mine['id']}/test", {}).json()["id"]
    collection(Delivery).update_one({}, {"$set": {"status": "DEAD"}})
    patch(anna, mine["id"], {"is_active": False})
    with nothing_changes():
        response = anna.api.post_json(f"/webhooks/{mine['id']}{door.format(delivery)}", {})
        assert_problem(response, 409, "webhook_disabled")


def test_the_log_shows_attempts_and_filters_by_status(anna: Party) -> None:
    mine = register(anna)
    tell(anna, EventType.TRANSACTION_COMPLETED)
    attempt = {
        "at": clock.now(),
        "status_code": 500,
        "latency_ms": 12,
        "error": None,
        "answer": "<h1>no</h1>",
    }
    done = {
        "status": "DEAD",
        "attempts": [{**attempt, "claim": "c"}],
        "attempt_count": 1,
        "finished_at": clock.now(),
    }
    collection(Delivery).update_one({}, {"$set": done, "$unset": {"next_attempt_at": ""}})
    waiting = anna.api.post_json(f"/webhooks/{mine['id']}/test", {}).json()
    logs = f"/webhooks/{mine['id']}/logs"
    dead = anna.api.get(f"{logs}?status=DEAD").json()["results"][0]
    assert dead["attempts"] == [{**attempt, "at": clock.rfc3339(attempt["at"])}]
    assert (dead["sequence"], dead["next_attempt_at"], dead["transaction_id"]) == (1, None, "txn_1")
    assert [row["id"] for row in anna.api.get(logs).json()["results"]] == [waiting["id"], dead["id"]]
    first = anna.api.get(f"{logs}?limit=1").json()
    assert [row["id"] for row in anna.api.get(f"{logs}?cursor={first['next']}").json()["results"]] == [
        dead["id"]
    ]
    assert anna.api.get(f"{logs}?status=DELIVERED").json() == {"results": [], "next": None}


def test_what_has_ended_is_sent_again_and_what_is_under_way_is_not(anna: Party) -> None:
    mine = register(anna)
    tell(anna, EventType.TRANSACTION_COMPLETED)
    delivery = collection(Delivery).find_one({})["_id"]
    again = f"/webhooks/{mine['id']}/logs/{delivery}/redeliver"
    with nothing_changes():
        assert_problem(anna.api.post_json(again, {}), 409, "delivery_pending")
    for status in ("DELIVERED", "DEAD"):
        collection(Delivery).update_one({}, {"$set": {"status": status, "finished_at": clock.now()}})
        response = anna.api.post_json(again, {})
        assert response.status_code == 202
        body = response.json()
        assert (body["id"], body["status"], body["sequence"], body["finished_at"]) == (
            delivery,
            "PENDING",
            1,
            None,
        )
    assert_problem(anna.api.post_json(again.replace(delivery, "dlv_x"), {}), 404, "not_found")


# --- Catching up ------------------------------------------------------------------------------------------


def test_a_receiver_catches_up_in_order_and_without_gaps(anna: Party) -> None:
    mine = register(anna, events=[event.value for event in EventType])
    register(anna, events=["DEBIT_FAILED"])
    events = f"/webhooks/{mine['id']}/events"
    assert anna.api.get(events).json() == {"results": [], "next": 0}
    for number in range(3):
        tell(
            anna, EventType.TRANSACTION_INITIATED, EventType.DEBIT_SUCCESS, EventType.TRANSACTION_COMPLETED,
            transaction_id=f"txn_{number}",
        )  # fmt: skip
    seen, after = [], 0
    for _ in range(5):
        body = anna.api.get(f"{events}?after={after}&limit=2").json()
        seen += body["results"]
        after = body["next"]
    assert [row["sequence"] for row in seen] == list(range(1, 10))
    assert after == 9
    assert [row["event"]["id"] for row in seen[:3]] == [
        "txn_0:TRANSACTION_INITIATED", "txn_0:DEBIT_SUCCESS", "txn_0:TRANSACTION_COMPLETED",
    ]  # fmt: skip
    assert seen[0]["event"]["data"]["sender_id"] == anna.id
    assert set(seen[0]) == {"sequence", "delivery_id", "status", "event"}
    assert anna.api.get(f"{events}?after=9").json() == {"results": [], "next": 9}


def test_what_has_no_place_yet_is_not_shown(anna: Party) -> None:
    mine = register(anna)
    anna.api.post_json(f"/webhooks/{mine['id']}/test", {})
    assert anna.api.get(f"/webhooks/{mine['id']}/events").json()["results"] == []


BAD_QUERIES = [
    ("events", "after=-1"), ("events", "after=x"), ("events", "after="), ("events", "after=1e3"),
    ("events", "after=1_0"),
    ("events", "after=\u0661"), ("events", "after=99999999999999999999"), ("events", "after=1.5"),
    ("events", "limit=0"),
    ("events", "limit=101"), ("logs", "status=dead"), ("logs", "status="), ("logs", "cursor=x"), ("logs",
    "limit=-1"),
    ("logs", "cursor=dHhuXzE="), ("logs", "status[$ne]=x&status=x"),
]  # fmt: skip


@pytest.mark.parametrize(("door", "query"), BAD_QUERIES, ids=ascii)
def test_refuses_queries_that_say_nothing(anna: Party, door: str, query: str) -> None:
    mine = register(anna)
    assert_problem(anna.api.get(f"/webhooks/{mine['id']}/{door}?{query}"), 400, "validation_error")


# --- Without MongoDB --------------------------------------------------------------------------------------


@pytest.fixture
def outage(anna: Party, request: pytest.FixtureRequest) -> str:
    """A webhook of Anna's, with MongoDB gone after it was registered."""
    webhook_id = register(anna)["id"]
    request.getfixturevalue("mongodb_down")
    return webhook_id


def test_without_mongodb_reading_is_a_503_that_says_when_to_come_back(anna: Party, outage: str) -> None:
    for path in ("/webhooks", *(f"/webhooks/{outage}{rest}" for rest in ("", "/logs", "/events"))):
        response = anna.api.get(path)
        assert_problem(response, 503, "service_unavailable")
        assert int(response["Retry-After"]) > 0
