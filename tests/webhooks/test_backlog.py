"""The backlog: what a delivery costs, who is held when too much is undelivered, and how they catch up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bson
import pytest
from django.conf import LazySettings
from django.conf import settings as settings_
from pytest_httpserver import HTTPServer

from payflow import clock
from payflow.ids import new_id
from payflow.mongodb import collection
from tests.webhooks import hooks
from tests.webhooks.hooks import ALICE, BOB, LIFE, events_of, subscribe, subscription
from transfers import tasks
from transfers.documents import Notice
from transfers.notice_texts import held_letter
from webhooks import backlog, catchup, circuit, fanout, refill, sequencing, sweep, turns
from webhooks.documents import Delivery, Subscription, WebhookEvent

BYTES_PER_DELIVERY_MAX = 300


@pytest.fixture
def small(settings: LazySettings) -> LazySettings:
    """At most 40 undelivered deliveries of one user: ten transfers for one endpoint."""
    settings.WEBHOOK_UNDELIVERED_PER_USER_MAX = 40
    return settings


def held(subscription_id: str) -> int:
    return collection(WebhookEvent).count_documents({"held_for": subscription_id})


def is_held(subscription_id: str) -> bool:
    return "held_since" in subscription(subscription_id)


def pending(*subscription_ids: str) -> int:
    query = {"status": "PENDING", "subscription_id": {"$in": list(subscription_ids)}}
    return collection(Delivery).count_documents(query)


def deliver(subscription_id: str) -> None:
    """Let everything that waits have been delivered."""
    hooks.place(subscription_id)
    change = {"$set": {"status": "DELIVERED", "finished_at": clock.now()}, "$unset": {"next_attempt_at": ""}}
    collection(Delivery).update_many({"subscription_id": subscription_id}, change)


def read_all(subscription_id: str) -> list[dict[str, Any]]:
    """Catch up as a receiver does: page by page, until there is none, after a worker has been there."""
    after, found = 0, []
    hooks.place(subscription_id)
    while rows := catchup.read_events(
        subscription=Subscription._from_son(subscription(subscription_id)), after=after, limit=7
    ):
        found += rows
        after = rows[-1]["sequence"]
    return found


# --- What it costs ------------------------------------------------------------------------------------------


def test_a_batch_for_two_users_with_twenty_endpoints_stores_each_payload_once() -> None:
    """The report's example, a hundredth of it: 40 deliveries of each event, and one payload."""
    endpoints = [subscribe(user_id) for user_id in (ALICE, BOB) for _ in range(20)]
    for _ in range(10):
        fanout.fan_out(events_of(new_id("txn")))
    events = list(collection(WebhookEvent).find())
    assert len(events) == 10 * len(LIFE)
    assert collection(Delivery).count_documents({}) == len(events) * len(endpoints)
    for subscription_id in endpoints[::7]:
        hooks.place(subscription_id)
    sizes = [len(bson.encode(row)) for row in collection(Delivery).find({"status": "PENDING"})]
    assert max(sizes) <= BYTES_PER_DELIVERY_MAX
    assert not [row for row in collection(Delivery).find() if "payload" in row]


def test_the_longest_event_and_the_longest_wait_stay_below_the_limit() -> None:
    subscription_id = subscribe(new_id("usr")[:24], events=hooks.ALL)
    user_id = subscription(subscription_id)["user_id"]
    fanout.fan_out(events_of(new_id("txn"), list(fanout.RANK), sender=user_id))
    hooks.place(subscription_id)
    rows = list(collection(Delivery).find())
    assert len(rows) == len(fanout.RANK)
    assert max(len(bson.encode(row)) for row in rows) <= BYTES_PER_DELIVERY_MAX


# --- Who is held --------------------------------------------------------------------------------------------


def test_beyond_the_maximum_events_are_stored_once_and_nothing_is_queued(small: LazySettings) -> None:
    endpoints = [subscribe() for _ in range(4)]
    for _ in range(30):
        hooks.tell()
    assert pending(*endpoints) <= 40
    assert collection(WebhookEvent).count_documents({}) == 30 * len(LIFE)
    for subscription_id in endpoints:
        assert is_held(subscription_id)
        assert pending(subscription_id) + held(subscription_id) == 30 * len(LIFE)


def test_one_call_that_is_too_much_alone_queues_none_of_it(small: LazySettings) -> None:
    subscription_id = subscribe()
    fanout.fan_out([event for _ in range(11) for event in events_of()])
    assert (pending(subscription_id), held(subscription_id)) == (0, 44)


def test_an_endpoint_that_keeps_up_goes_on(small: LazySettings) -> None:
    dead, alive = subscribe(), subscribe()
    for _ in range(30):
        hooks.tell()
        deliver(alive)
    assert is_held(dead)
    assert not is_held(alive)
    assert hooks.sequences(alive) == list(range(1, 30 * len(LIFE) + 1))


def test_another_users_endpoint_is_not_touched(small: LazySettings) -> None:
    crowded, other = subscribe(ALICE), subscribe("c" * 24)
    for _ in range(30):
        hooks.tell()
    fanout.fan_out(events_of(sender="c" * 24, receiver="d" * 24))
    assert is_held(crowded)
    assert (is_held(other), pending(other)) == (False, len(LIFE))


def test_what_little_is_written_is_not_counted_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    subscribe()
    with hooks.counted(monkeypatch, backlog) as commands:
        for _ in range(20):
            hooks.tell()
    assert commands == []


def test_declined_transfers_fill_no_more_than_the_same_bound(small: LazySettings) -> None:
    """They cost their sender nothing, so they are how strangers would fill somebody's disk."""
    endpoints = [subscribe(user_id) for user_id in (ALICE, BOB) for _ in range(10)]
    declined = [each for each in fanout.RANK if each in ("TRANSACTION_INITIATED", "DEBIT_FAILED")]
    for _ in range(100):
        fanout.fan_out(events_of(types=declined))
    assert pending(*endpoints) <= 2 * 40


def test_the_owner_gets_one_message_a_day(small: LazySettings) -> None:
    subscription_id = subscribe()
    for _ in range(2):
        for _ in range(11):
            hooks.tell()
        assert is_held(subscription_id)
        notice = circuit.owner_notice(subscription_id=subscription_id)
        if notice is not None:
            circuit.owner_told(subscription_id=subscription_id, since=notice.since)
        deliver(subscription_id)
        refill.refill(subscription_id=subscription_id, user_id=ALICE)
        deliver(subscription_id)
        assert not is_held(subscription_id)
    row = subscription(subscription_id)
    assert row["owner_notice_since"] < row["released_at"]
    assert circuit.owner_notice(subscription_id=subscription_id) is None


def test_what_the_owner_reads(small: LazySettings, settings: LazySettings) -> None:
    settings.NOTIFICATIONS_ENABLED = True
    subscription_id = subscribe(url="https://example.com/hook")
    fanout.fan_out([event for _ in range(11) for event in events_of()])
    for _ in range(2):
        tasks.webhook_disabled(subscription_id)
    (notice,) = collection(Notice).find()
    assert (notice["kind"], notice["user_id"]) == ("WEBHOOK_HELD", ALICE)
    letter = held_letter(notice["facts"], locale="en_US", unsubscribe_url="https://x.example/")
    assert letter.subject == "Your webhook endpoint is behind"
    assert f"Webhook: {subscription_id}" in letter.text
    assert "GET /webhooks/{id}/events" in letter.text


# --- How they catch up --------------------------------------------------------------------------------------


@pytest.fixture
def behind(small: LazySettings) -> str:
    """An endpoint with 40 deliveries in its queue, and 80 events held."""
    subscription_id = subscribe()
    for number in range(30):
        fanout.fan_out(events_of(f"txn_{number:02}"))
    assert held(subscription_id) >= 80
    return subscription_id


def test_reading_shows_everything_in_order_and_without_gap(behind: str) -> None:
    rows = read_all(behind)
    assert [row["sequence"] for row in rows] == list(range(1, 121))
    assert [row["event_id"] for row in rows] == [
        f"txn_{number:02}:{event.value}" for number in range(30) for event in LIFE
    ]
    assert all(row["payload"] for row in rows)
    assert (is_held(behind), held(behind)) == (False, 0)


def test_it_resumes_by_itself_once_half_is_delivered(behind: str) -> None:
    ids = [row["_id"] for row in hooks.deliveries(behind)]
    hooks.place(behind)
    ended = {"$set": {"status": "DELIVERED", "finished_at": clock.now()}}
    collection(Delivery).update_many({"_id": {"$in": ids[:15]}}, ended)
    assert refill.refill(subscription_id=behind, user_id=ALICE) == 0
    collection(Delivery).update_many({"_id": {"$in": ids[15:25]}}, ended)
    assert refill.refill(subscription_id=behind, user_id=ALICE) > 0
    assert pending(behind) == 20


def test_a_receiver_that_is_back_gets_all_of_it(behind: str, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/hook").respond_with_data("")
    hooks.change(behind, url=httpserver.url_for("/hook"))
    hooks.work(behind)
    got = [request.headers["PayFlow-Sequence"] for request, _ in httpserver.log]
    assert sorted(map(int, got)) == list(range(1, 121))
    assert not is_held(behind)
    hooks.tell()
    hooks.work(behind)
    assert hooks.sequences(behind) == list(range(1, 125))


def test_the_sweep_has_held_endpoints_looked_at(behind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(behind)
    nudged: list[str] = []
    monkeypatch.setattr(sweep.nudge, "nudge", nudged.extend)
    sweep.sweep()
    assert nudged == [behind]


def test_an_owner_who_disables_it_gets_nothing_of_what_happens_meanwhile(behind: str) -> None:
    hooks.change(behind, is_active=False, disabled_because="OWNER")
    fanout.fan_out(events_of("txn_meanwhile"))
    hooks.change(behind, is_active=True, disabled_because=None)
    assert not [row for row in read_all(behind) if row["event_id"].startswith("txn_meanwhile")]


# --- Races and deaths ---------------------------------------------------------------------------------------


def test_an_event_stored_while_it_is_released_is_not_forgotten(
    behind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fan-out has read that it is held, and stands still until everybody else is done."""
    store = fanout._store

    def late(heard: Any, held: Any) -> None:
        while is_held(behind):
            refill.take_over(subscription_id=behind, limit=500)
        store(heard, held)

    monkeypatch.setattr(fanout, "_store", late)
    fanout.fan_out(events_of("txn_late"))
    monkeypatch.setattr(fanout, "_store", store)
    fanout.fan_out(events_of("txn_later"))
    rows = read_all(behind)
    assert [row["sequence"] for row in rows] == list(range(1, 129))
    assert [row["event_id"].split(":")[0] for row in rows[-8:]] == ["txn_late"] * 4 + ["txn_later"] * 4
    assert held(behind) == 0


def test_of_one_transaction_the_earlier_come_first_across_a_release(behind: str) -> None:
    """Its first event was held and not yet taken over, its second is queued at once: as after a death."""
    first, *others = events_of("txn_split", at=clock.now())
    fanout.fan_out([first])
    collection(Subscription).update_one(
        {"_id": behind}, {"$unset": {"held_since": ""}, "$set": {"released_at": clock.now()}}
    )
    fanout._insert(fanout._deliveries(list(fanout._heard(others, [subscription(behind)])), {behind}))
    hooks.place(behind)
    mine = [row["event_type"] for row in hooks.deliveries(behind) if row["transaction_id"] == "txn_split"]
    assert mine[0] == LIFE[0].value
    assert held(behind) == 0


def _die_at(point: str, script: str, folder: Path) -> None:
    setup = "import django; django.setup(); "
    process = subprocess.run(
        [sys.executable, "-c", setup + script],
        cwd=settings_.BASE_DIR,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "payflow.settings",
            "PAYFLOW_CRASH_AT": point,
            "PAYFLOW_DATA_DIR": str(folder),
            "WEBHOOK_UNDELIVERED_PER_USER_MAX": "40",
        },
        start_new_session=True,
        check=False,
        timeout=120,
    )
    assert process.returncode == -signal.SIGKILL


REFILL = "from webhooks import refill; refill.take_over(subscription_id='{id}', limit=500)"
FAN_OUT = (
    "from tests.webhooks.hooks import events_of; from webhooks import fanout; from datetime import *;"
    " fanout.fan_out(events_of('txn_died', at=datetime(2026, 11, 29, tzinfo=UTC)))"
)


@pytest.mark.parametrize("point", ["refill.inserted", "refill.released"])
def test_a_refill_that_dies_is_followed_by_another(point: str, behind: str, tmp_path: Path) -> None:
    _die_at(point, REFILL.format(id=behind), tmp_path)
    rows = read_all(behind)
    assert [row["sequence"] for row in rows] == list(range(1, 121))
    assert len({row["event_id"] for row in rows}) == 120


@pytest.mark.parametrize("is_crowded", [False, True], ids=["queued", "held"])
@pytest.mark.parametrize("point", ["fanout.found", "fanout.stored", "fanout.inserted"])
def test_a_fan_out_that_dies_is_repeated(
    point: str, is_crowded: bool, small: LazySettings, tmp_path: Path
) -> None:
    other, subscription_id = subscribe(BOB), subscribe(ALICE)
    for _ in range(30 if is_crowded else 0):
        fanout.fan_out(events_of(receiver="c" * 24))
    before = pending(subscription_id) + held(subscription_id)
    _die_at(point, FAN_OUT, tmp_path)
    at = clock.now().replace(year=2026, month=11, day=29, hour=0, minute=0, second=0, microsecond=0)
    for _ in range(2):
        fanout.fan_out(events_of("txn_died", at=at))
    assert pending(subscription_id) + held(subscription_id) == before + len(LIFE)
    assert pending(other) == len(LIFE)
    assert collection(WebhookEvent).count_documents({"_id": {"$regex": "^txn_died:"}}) == len(LIFE)
    rows = read_all(subscription_id)
    assert [row["sequence"] for row in rows] == list(range(1, before + len(LIFE) + 1))


# --- What is removed ----------------------------------------------------------------------------------------


def age(**more: Any) -> None:
    """Let the time of every event be over."""
    collection(WebhookEvent).update_many(more, {"$set": {"kept_until": clock.after(clock.now(), -1)}})


def test_an_event_goes_when_no_delivery_refers_to_it() -> None:
    first, second = subscribe(), subscribe()
    hooks.tell()
    age()
    sweep.remove_old()
    assert collection(WebhookEvent).count_documents({}) == len(LIFE)
    collection(Delivery).delete_many({"subscription_id": first})
    age()
    sweep.remove_old()
    assert collection(WebhookEvent).count_documents({}) == len(LIFE)
    collection(Delivery).delete_many({"subscription_id": second})
    sweep.remove_old()
    assert collection(WebhookEvent).count_documents({}) == len(LIFE), "looked at again tomorrow"
    age()
    sweep.remove_old()
    assert collection(WebhookEvent).count_documents({}) == 0


def test_an_event_that_is_told_again_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is removed after fan-out has found it stored, and before it writes deliveries."""
    subscribe()
    told = events_of("txn_1")
    fanout.fan_out(told)
    collection(Delivery).delete_many({})
    age()
    real: Callable[..., Any] = fanout.insert_missing

    def remove_meanwhile(target: Any, rows: Any) -> Any:
        found = real(target, rows)
        monkeypatch.setattr(fanout, "insert_missing", real)
        sweep.remove_old()
        return found

    monkeypatch.setattr(fanout, "insert_missing", remove_meanwhile)
    fanout.fan_out(told)
    sweep.remove_old()
    assert collection(WebhookEvent).count_documents({}) == len(LIFE)
    assert all(row["payload"] for row in hooks.deliveries())


def test_a_delivery_without_its_event_is_no_failure_of_the_endpoint(httpserver: HTTPServer) -> None:
    """Somebody has removed it by hand."""
    httpserver.expect_request("/hook").respond_with_data("")
    subscription_id = subscribe(url=httpserver.url_for("/hook"))
    hooks.tell()
    hooks.place(subscription_id)
    collection(WebhookEvent).delete_one({"_id": {"$regex": "DEBIT_SUCCESS$"}})
    hooks.work(subscription_id)
    statuses = [row["status"] for row in collection(Delivery).find().sort("sequence", 1)]
    assert statuses == ["DELIVERED", "DEAD", "DELIVERED", "DELIVERED"]
    assert subscription(subscription_id)["consecutive_failures"] == 0
    assert len(httpserver.log) == len(LIFE) - 1


def test_a_page_of_places_is_taken_and_the_rest_comes_at_the_next_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where nothing may be sent: so that 12,000 deliveries do not wait for 24 sweeps."""
    monkeypatch.setattr(turns, "PLACES_MAX", 8)
    subscription_id = subscribe(paused_until=clock.after(clock.now(), 600))
    hooks.tell(5)
    for numbered in (8, 16, 20):
        assert (subscription_id in turns.take(subscription_id=subscription_id)) == (numbered < 20)
        query = {"subscription_id": subscription_id, "sequence": {"$type": "long"}}
        assert collection(Delivery).count_documents(query) == numbered
    assert sequencing.place(subscription_id=subscription_id, limit=8) == 0
