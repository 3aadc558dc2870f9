"""The sweep: what it finds and what it leaves alone, and what is removed in the end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings

from payflow import clock, metrics
from payflow.mongodb import collection
from tests.webhooks import hooks
from tests.webhooks.hooks import LIFE, one_event, subscribe, subscription
from transfers import tasks
from transfers.documents import Notice
from webhooks import circuit, nudge, sweep
from webhooks.circuit import Failure
from webhooks.documents import Delivery, Subscription


@pytest.fixture(autouse=True)
def nudged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The endpoints that the sweep has had looked at."""
    seen: list[str] = []
    monkeypatch.setattr(nudge, "nudge", seen.extend)
    return seen


def due_at(subscription_id: str) -> list[Any]:
    return [row.get("next_attempt_at") for row in hooks.deliveries(subscription_id)]


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
    sweep._go_on_after.update(due="", unplaced="")


def test_leaves_paused_and_disabled_endpoints_alone_and_uses_up_no_tries(nudged: list[str]) -> None:
    until = clock.after(clock.now(), 120)
    paused = subscribe(paused_until=until)
    disabled = subscribe(is_active=False, disabled_because="FAILING")
    for subscription_id in (paused, disabled):
        one_event(subscription_id)
        hooks.place(subscription_id)
    nudged.clear()
    assert sweep.sweep() == 0
    assert (nudged, due_at(paused)) == ([], [until])
    assert due_at(disabled)[0] > clock.after(clock.now(), 3_000)
    assert {row["tries"] for row in hooks.deliveries()} == {0}


def test_what_belongs_to_nobody_goes(nudged: list[str]) -> None:
    subscription_id = subscribe()
    one_event(subscription_id)
    hooks.place(subscription_id)
    collection(Subscription).delete_one({"_id": subscription_id})
    sweep.sweep()
    assert hooks.deliveries() == []


def test_says_how_long_the_oldest_has_waited() -> None:
    subscription_id, disabled = subscribe(), subscribe(is_active=False)
    for each, seconds in ((subscription_id, 90), (disabled, 9_000)):
        one_event(each)
        hooks.place(each)
        past = clock.after(clock.now(), -seconds)
        collection(Delivery).update_one({"subscription_id": each}, {"$set": {"next_attempt_at": past}})
    sweep.sweep()
    assert 90 <= metrics.WEBHOOK_OVERDUE._value.get() < 200


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
    monkeypatch.setattr(sweep, "ROUNDS_MAX", 2)
    subscription_id = subscribe()
    for _ in range(8):
        one_event(subscription_id)
    hooks.place(subscription_id)
    ended(subscription_id, days=31)
    assert [sweep.remove_old() for _ in range(3)] == [6, 2, 0]


def test_what_a_disabled_endpoint_never_got_is_kept_as_long() -> None:
    subscription_id = subscribe(is_active=False, disabled_because="FAILING")
    hooks.tell(at=clock.now() - timedelta(days=31))
    hooks.tell(at=clock.now() - timedelta(days=29))
    hooks.place(subscription_id)
    sweep.sweep()
    assert hooks.sequences(subscription_id) == [5, 6, 7, 8]
    assert subscription(subscription_id)["removed_sequence"] == 4
