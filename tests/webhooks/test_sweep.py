"""The sweep: what it finds and what it leaves alone, and what is removed in the end."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.conf import LazySettings

from payflow import clock, metrics
from payflow.celery import app
from payflow.errors import Transient
from payflow.mongodb import collection
from tests.webhooks import hooks
from tests.webhooks.hooks import LIFE, one_event, subscribe, subscription
from transfers import tasks
from transfers.documents import Notice
from webhooks import circuit, nudge, services, sweep
from webhooks.circuit import Failure
from webhooks.documents import Delivery, Subscription


@pytest.fixture(autouse=True)
def nudged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The endpoints that the sweep has had looked at."""
    seen: list[str] = []
    monkeypatch.setattr(nudge, "nudge", seen.extend)
    return seen


def test_finds_what_has_no_place_and_what_is_due_and_nothing_else(nudged: list[str]) -> None:
    unplaced, due, waiting, idle = (subscribe() for _ in range(4))
    for subscription_id in (unplaced, due, waiting):
        one_event(subscription_id)
    for subscription_id in (due, waiting):
        hooks.place(subscription_id)
    collection(Delivery).update_one(
        {"subscription_id": waiting}, {"$set": {"next_attempt_at": clock.after(clock.now(), 60)}}
    )
    nudged.clear()
    assert sweep.sweep() == 2
    assert sorted(nudged) == sorted([unplaced, due])
    assert idle not in nudged


def test_an_endpoint_with_a_long_queue_hides_no_other(nudged: list[str]) -> None:
    crowded, quiet = subscribe(), subscribe()
    for _ in range(400):
        one_event(crowded)
    hooks.place(crowded)
    one_event(quiet)
    hooks.place(quiet)
    nudged.clear()
    sweep.sweep()
    assert sorted(nudged) == sorted([crowded, quiet])


def test_goes_on_where_the_last_one_stopped(nudged: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "ENDPOINTS_MAX", 3)
    endpoints = [subscribe() for _ in range(7)]
    for subscription_id in endpoints:
        one_event(subscription_id)
        hooks.place(subscription_id)
    nudged.clear()
    for _ in range(3):
        sweep.sweep()
    assert sorted(nudged) == sorted(endpoints)
    sweep.sweep()
    assert sorted(nudged[7:]) == sorted(endpoints[:3])
    sweep._go_on_after.clear()


def test_leaves_paused_and_disabled_endpoints_alone_and_uses_up_no_tries(nudged: list[str]) -> None:
    paused = subscribe(paused_until=clock.after(clock.now(), 120))
    disabled = subscribe(is_active=False, disabled_because="FAILING")
    for subscription_id in (paused, disabled):
        one_event(subscription_id)
        hooks.place(subscription_id)
    nudged.clear()
    before = hooks.deliveries()
    assert sweep.sweep() == 0
    assert nudged == []
    assert hooks.deliveries() == before


def test_what_belongs_to_nobody_goes(nudged: list[str]) -> None:
    subscription_id = subscribe()
    one_event(subscription_id)
    hooks.place(subscription_id)
    collection(Subscription).delete_one({"_id": subscription_id})
    nudged.clear()
    assert sweep.sweep() == 1
    assert nudged == [subscription_id]
    hooks.work(subscription_id)
    assert hooks.deliveries() == []


def test_finds_who_has_a_new_chance_though_nothing_is_due(nudged: list[str]) -> None:
    subscription_id, disabled = subscribe(), subscribe()
    for each in (subscription_id, disabled):
        services.set_active(subscription_id=each, is_active=True)
    services.set_active(subscription_id=disabled, is_active=False)
    nudged.clear()
    sweep.sweep()
    assert nudged == [subscription_id]


def test_trouble_with_one_endpoint_keeps_nobody_waiting(
    nudged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> int:
        raise Transient("The database is not answering.")

    disabled, other = subscribe(is_active=False, disabled_because="FAILING"), subscribe()
    for each in (disabled, other):
        one_event(each)
        hooks.place(each)
    long_ago = clock.now() - timedelta(days=31)
    change = {"$set": {"next_attempt_at": long_ago}}
    collection(Delivery).update_one({"subscription_id": disabled}, change)
    nudged.clear()
    monkeypatch.setattr(sweep, "_remove", fail)
    with pytest.raises(Transient):
        sweep.sweep()
    assert nudged == [other]


def test_says_how_long_the_oldest_has_waited_and_when_it_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    subscription_id, disabled = subscribe(), subscribe(is_active=False)
    for each, seconds in ((subscription_id, 90), (disabled, 9_000)):
        one_event(each)
        hooks.place(each)
        past = clock.after(clock.now(), -seconds)
        collection(Delivery).update_one({"subscription_id": each}, {"$set": {"next_attempt_at": past}})
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now)
    sweep.sweep()
    assert metrics.WEBHOOK_OVERDUE._value.get() >= 90
    assert metrics.WEBHOOK_OVERDUE._value.get() < 9_000
    assert metrics.WEBHOOK_SWEEP_TIMESTAMP._value.get() == now.timestamp()
    one_event(disabled)
    unplaced = {"subscription_id": disabled, "sequence": None}
    change = {"$set": {"created_at": clock.after(now, -300)}}
    collection(Delivery).update_one(unplaced, change)
    sweep.sweep()
    assert metrics.WEBHOOK_OVERDUE._value.get() == 300


def test_a_disabled_endpoints_owner_gets_one_notice(
    monkeypatch: pytest.MonkeyPatch, settings: LazySettings
) -> None:
    settings.NOTIFICATIONS_ENABLED = True
    sent: list[tuple[str, tuple[str]]] = []
    monkeypatch.setattr(sweep.current_app, "send_task", lambda name, args: sent.append((name, args)))
    subscription_id = subscribe(url="https://example.com/hook")
    gone = Failure(is_gone=True, retry_after_seconds=0.0)
    circuit.note_failure(subscription_id=subscription_id, now=clock.now(), failure=gone)
    sweep.sweep()
    assert sent == [(tasks.webhook_disabled.name, (subscription_id,))]
    for _ in range(2):
        tasks.webhook_disabled(subscription_id)
    (notice,) = collection(Notice).find()
    assert (notice["kind"], notice["user_id"]) == ("WEBHOOK_DISABLED", hooks.ALICE)
    assert notice["facts"]["reason"] == "GONE"
    assert "owner_notice" not in subscription(subscription_id)


def ended(subscription_id: str, *, days: float) -> None:
    """Let all deliveries have ended so many days ago."""
    change = {
        "$set": {"status": "DELIVERED", "finished_at": clock.now() - timedelta(days=days)},
        "$unset": {"next_attempt_at": ""},
    }
    collection(Delivery).update_many({"subscription_id": subscription_id}, change)


def test_what_ended_long_ago_is_removed_and_its_places_are_not_given_again() -> None:
    old, recent, pending = subscribe(), subscribe(), subscribe()
    for subscription_id in (old, recent, pending):
        for _ in LIFE:
            one_event(subscription_id)
        hooks.place(subscription_id)
    ended(old, days=31)
    ended(recent, days=29)
    assert sweep.remove_old() == len(LIFE)
    assert hooks.deliveries(old) == []
    assert len(hooks.deliveries(recent)) == len(hooks.deliveries(pending)) == len(LIFE)
    one_event(old)
    hooks.place(old)
    assert hooks.sequences(old) == [5]


def test_removing_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "REMOVED_MAX", 3)
    monkeypatch.setattr(sweep, "REMOVING_ROUNDS_MAX", 2)
    subscription_id = subscribe()
    for _ in range(8):
        one_event(subscription_id)
    hooks.place(subscription_id)
    ended(subscription_id, days=31)
    assert [sweep.remove_old() for _ in range(3)] == [6, 2, 0]


def test_removing_ends_with_its_time_and_begins_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "REMOVED_MAX", 3)
    monkeypatch.setattr(sweep, "REMOVING_SECONDS_MAX", -1.0)
    subscription_id = subscribe()
    for _ in range(8):
        one_event(subscription_id)
    hooks.place(subscription_id)
    ended(subscription_id, days=31)
    assert [sweep.remove_old() for _ in range(4)] == [3, 3, 2, 0]


def test_what_a_disabled_endpoint_never_got_is_kept_as_long() -> None:
    subscription_id = subscribe(is_active=False, disabled_because="FAILING")
    hooks.tell(2)
    hooks.place(subscription_id)
    for days, places in ((31, {"$lte": 4}), (29, {"$gt": 4})):
        change = {"$set": {"next_attempt_at": clock.now() - timedelta(days=days)}}
        collection(Delivery).update_many({"sequence": places}, change)
    sweep.sweep()
    assert hooks.sequences(subscription_id) == [5, 6, 7, 8]
    assert subscription(subscription_id)["removed_sequence"] == 4


@pytest.mark.parametrize("task", ["webhooks.sweep", "webhooks.remove_old"])
def test_beats_tasks_wait_behind_no_delivery(task: str) -> None:
    assert app.amqp.router.route({}, task)["queue"].name == "payflow-notifications"
    assert app.amqp.router.route({}, nudge.DELIVER_TASK)["queue"].name == "payflow-webhooks"
