"""Fan-out: who hears of what, exactly once however often it is told, and what it costs without listeners."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError

from payflow import clock, events, redisdb
from payflow.errors import Transient
from payflow.events import EventType
from payflow.mongodb import collection
from tests.webhooks import hooks
from tests.webhooks.hooks import ALICE, BOB, LIFE, counted, events_of, subscribe
from webhooks import fanout, nudge, tasks, turns
from webhooks.documents import Delivery


def test_both_parties_hear_of_every_event_and_nobody_else_does() -> None:
    sender, receiver, other = subscribe(ALICE), subscribe(BOB), subscribe("c" * 24)
    fanout.fan_out(events_of("txn_1"))
    expected = [f"txn_1:{event.value}" for event in LIFE]
    for subscription_id in (sender, receiver):
        assert [row["event_id"] for row in hooks.deliveries(subscription_id)] == expected
    assert hooks.deliveries(other) == []


def test_a_body_is_the_message_that_the_bus_carries() -> None:
    subscription_id = subscribe()
    (event,) = events_of("txn_1", [EventType.DEBIT_SUCCESS])
    pubsub = redisdb.client().pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(events.CHANNEL)
    pubsub.get_message(timeout=5)
    fanout.fan_out([event])
    events.publish([event])
    heard = next(m for m in iter(lambda: pubsub.get_message(timeout=5), object()) if m)
    assert hooks.only_delivery(subscription_id)["payload"] == heard["data"]
    assert set(json.loads(heard["data"])) == {"id", "type", "created_at", "data"}


def test_a_subscription_hears_of_the_events_it_has_chosen() -> None:
    subscription_id = subscribe(events=["TRANSACTION_COMPLETED", "TRANSACTION_FAILED"])
    hooks.tell(3)
    assert {row["event_type"] for row in hooks.deliveries(subscription_id)} == {"TRANSACTION_COMPLETED"}
    assert len(hooks.deliveries(subscription_id)) == 3


def test_who_pays_themselves_hears_of_it_once() -> None:
    subscription_id = subscribe()
    fanout.fan_out(events_of("txn_1", receiver=ALICE))
    assert len(hooks.deliveries(subscription_id)) == len(LIFE)


def test_telling_again_writes_nothing_new_and_changes_nothing() -> None:
    subscribe(ALICE), subscribe(ALICE), subscribe(BOB)
    told = events_of("txn_1")
    fanout.fan_out(told[:2])
    before = hooks.deliveries()
    fanout.fan_out(told)
    fanout.fan_out(told)
    rows = hooks.deliveries()
    assert [row for row in rows if row["_id"] in {each["_id"] for each in before}] == before
    assert len(rows) == 3 * len(LIFE)


def test_a_failed_refund_that_is_told_again_later_is_one_delivery() -> None:
    subscription_id = subscribe()
    (event,) = events_of("txn_1", [EventType.REFUND_FAILED])
    later = events.Event(
        event.transaction_id, event.type, event.created_at + timedelta(minutes=1), event.data
    )
    fanout.fan_out([event])
    fanout.fan_out([later])
    assert hooks.only_delivery(subscription_id)["event_id"] == "txn_1:REFUND_FAILED"


def test_what_an_owner_has_disabled_hears_nothing_and_what_failed_goes_on_collecting() -> None:
    by_owner = subscribe(is_active=False, disabled_because="OWNER")
    gone = subscribe(is_active=False, disabled_because="GONE")
    failing = subscribe(is_active=False, disabled_because="FAILING")
    hooks.tell()
    assert hooks.deliveries(by_owner) == hooks.deliveries(gone) == []
    assert len(hooks.deliveries(failing)) == len(LIFE)


def test_ids_are_ordered_by_time_and_within_one_time_by_the_life_of_a_transaction() -> None:
    subscription_id = subscribe()
    fanout.fan_out(events_of("txn_2", at=clock.now()))
    fanout.fan_out(events_of("txn_1", at=clock.now() - timedelta(hours=1)))
    rows = sorted(hooks.deliveries(subscription_id), key=lambda row: row["_id"])
    assert [row["event_id"] for row in rows] == [
        f"{txn}:{e.value}" for txn in ("txn_1", "txn_2") for e in LIFE
    ]


def test_a_batch_larger_than_one_insert_arrives_whole() -> None:
    first, second = subscribe(ALICE), subscribe(BOB)
    told = [event for number in range(200) for event in events_of(f"txn_{number}")]
    fanout.fan_out(told)
    assert len(hooks.deliveries(first)) == len(hooks.deliveries(second)) == len(told) > fanout.INSERT_MAX


@pytest.mark.parametrize(
    "details",
    [
        {"writeErrors": [{"code": 11_000}], "writeConcernErrors": [{"code": 64}]},
        {"writeErrors": [], "writeConcernErrors": [{"code": 64}]},
        {"writeErrors": [{"code": 11_000}, {"code": 10_334}], "writeConcernErrors": []},
    ],
    ids=["beside a duplicate", "unconfirmed", "refused"],
)
def test_what_was_not_confirmed_is_told_again(details: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BulkWriteError(details)

    subscribe()
    monkeypatch.setattr(Collection, "insert_many", fail)
    with pytest.raises(Transient):
        hooks.tell()


def test_without_listeners_a_batch_of_500_costs_one_indexed_query(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        subscribe(f"{number:024x}")
    told = [
        event
        for number in range(500)
        for event in events_of(sender=f"{10_000 + number:024x}", receiver=f"{20_000 + number:024x}")
    ]
    with counted(monkeypatch, fanout) as commands:
        fanout.fan_out(told)
        assert commands == ["find"]
        fanout.fan_out([])
        assert commands == ["find"]


def test_the_query_for_listeners_reads_only_them() -> None:
    for number in range(300):
        subscribe(f"{number:024x}")
    query = {
        "user_id": {"$in": [f"{number:024x}" for number in range(299, 1_000)]},
        "$or": [{"is_active": True}, {"disabled_because": "FAILING"}],
    }
    plan = collection(fanout.Subscription).find(query, {"user_id": 1, "events": 1}).explain()
    assert plan["executionStats"]["totalDocsExamined"] == 1


def test_a_redis_that_is_away_delays_a_delivery_and_loses_none(redis_down: None) -> None:
    subscription_id = subscribe()
    hooks.tell()
    assert len(hooks.deliveries(subscription_id)) == len(LIFE)


def test_an_endpoint_whose_nudge_waits_gets_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, object]] = []
    monkeypatch.setattr(nudge, "_send", lambda task, argument: sent.append((task, argument)))
    first, second = subscribe(ALICE), subscribe(BOB, events=["TRANSACTION_COMPLETED"])
    hooks.tell(3)
    assert sent == [("webhooks.spread", [first, second])]
    nudge.taken(first)
    hooks.tell(3)
    assert sent[1:] == [("webhooks.deliver", first)]


def test_every_endpoint_is_nudged_in_the_order_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[object] = []
    monkeypatch.setattr(nudge, "_send", lambda task, argument: sent.append(argument))
    monkeypatch.setattr(nudge, "BATCH_MAX", 3)
    nudge.nudge(["wh_9", "wh_1", "wh_9", "wh_5", "wh_7", "wh_3"])
    assert sent == [["wh_9", "wh_1", "wh_5"], ["wh_7", "wh_3"]]


def test_a_turn_asks_for_an_endpoint_once_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[object] = []
    monkeypatch.setattr(nudge, "_send", lambda task, argument: sent.append((task, argument)))
    monkeypatch.setattr(turns, "take", lambda subscription_id: [subscription_id])
    for _ in range(3):
        tasks.deliver("wh_1")
    assert sent == [("webhooks.deliver", "wh_1")]


def test_a_test_event_is_a_delivery_like_any_other() -> None:
    subscription_id = subscribe(events=["TRANSACTION_FAILED"])
    delivery_id = fanout.send_test(subscription_id=subscription_id)
    row = hooks.only_delivery(subscription_id)
    assert (row["_id"], row["event_type"], row["status"]) == (delivery_id, "webhook.test", "PENDING")
    body = json.loads(row["payload"])
    assert (body["id"], body["type"]) == (row["event_id"], "webhook.test")
    assert collection(Delivery).count_documents({"transaction_id": {"$exists": True}}) == 0
