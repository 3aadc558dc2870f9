"""Webhooks in the admin: found, told in full, without secrets, and changed only by its actions."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.test import Client

from payflow import admin as stored
from payflow import clock
from payflow.mongodb import collection
from tests.accounts.factories import UserFactory
from webhooks import fanout, services
from webhooks.documents import Delivery, Subscription

HOOKS, DELIVERIES = "/admin/webhooks/subscriptionrow/", "/admin/webhooks/deliveryrow/"
SECRET = "whsec_" + "QUJD" * 10


@pytest.fixture
def staff() -> Client:
    return browser(is_superuser=True)


def browser(**changes: Any) -> Client:
    client = Client()
    client.force_login(UserFactory(email="staff@example.com", is_staff=True, **changes))
    return client


@pytest.fixture
def hook() -> Subscription:
    return register(str(UserFactory(email="anna@example.com").pk))


def register(user_id: str) -> Subscription:
    return services.create_subscription(
        user_id=user_id, url="http://127.0.0.1:9/hook", events=["DEBIT_FAILED"], secret=SECRET
    )[0]


def dead_letter(hook: Subscription, minutes: int = 0) -> str:
    delivery_id = fanout.send_test(subscription_id=hook.id)
    attempt = {
        "at": clock.now(),
        "status_code": 503,
        "latency_ms": 41,
        "error": None,
        "answer": "<h1>No</h1>",
    }
    died = {"status": "DEAD", "attempts": [attempt], "attempt_count": 8, "tries": 8}
    died["finished_at"] = clock.now() + timedelta(minutes=minutes)
    collection(Delivery).update_one({"_id": delivery_id}, {"$set": died})
    return delivery_id


def quoted(key: str) -> str:
    return key.replace("_", "_5F")


def shown(client: Client, path: str) -> list[str]:
    response = client.get(path)
    assert response.status_code == 200, response
    return [row.pk for row in response.context["cl"].result_list]


def text_of(client: Client, path: str) -> str:
    response = client.get(path)
    assert response.status_code == 200, response
    return response.content.decode()


def act(client: Client, path: str, action: str, *keys: str) -> str:
    chosen = {"action": action, "_selected_action": keys, "select_across": "1"}
    return client.post(path, chosen, follow=True).content.decode()


def test_no_page_shows_a_secret(staff: Client, hook: Subscription) -> None:
    services.rotate_secret(user_id=hook.user_id, webhook_id=hook.id)
    sealed = Subscription.objects.get(id=hook.id).secrets[0]["sealed"]
    for path in (HOOKS, f"{HOOKS}{quoted(hook.id)}/change/"):
        text = text_of(staff, path)
        assert hook.url in text
        assert SECRET not in text
        assert sealed not in text
        assert "gAAAA" not in text
    assert "Signs until" in text
    assert "DEBIT_FAILED" in text


def test_lists_find_and_filter(staff: Client, hook: Subscription) -> None:
    other = register(str(UserFactory(email="bob@example.com").pk))
    assert shown(staff, HOOKS) == [other.id, hook.id]
    assert shown(staff, f"{HOOKS}?q={hook.id}") == shown(staff, f"{HOOKS}?q={hook.user_id}") == [hook.id]
    failing = {"consecutive_failures": 3, "failing_since": clock.now()}
    collection(Subscription).update_one({"_id": hook.id}, {"$set": failing})
    disabled = {"is_active": False, "disabled_because": "GONE"}
    collection(Subscription).update_one({"_id": other.id}, {"$set": disabled})
    found = {state: shown(staff, f"{HOOKS}?state={state}") for state in ("active", "failing", "disabled")}
    assert found == {"active": [hook.id], "failing": [hook.id], "disabled": [other.id]}
    assert shown(staff, f"{HOOKS}?state=disabled+as+gone") == [other.id]
    assert shown(staff, f"{HOOKS}?state=disabled+for+failing") == []


def test_dead_letters_are_listed_by_when_they_died(
    staff: Client, hook: Subscription, monkeypatch: pytest.MonkeyPatch
) -> None:
    early, late = dead_letter(hook, minutes=5), dead_letter(hook, minutes=1)
    waiting = fanout.send_test(subscription_id=hook.id)
    asked: list[tuple[Any, Any]] = []
    find_page = stored.NewestFirst._find_page

    def note(self: stored.NewestFirst) -> Any:
        wanted = self._mongo_filter()
        asked.append((wanted, self.model_admin.order_of(wanted)))
        return find_page(self)

    monkeypatch.setattr(stored.NewestFirst, "_find_page", note)
    assert shown(staff, f"{DELIVERIES}?status__exact=DEAD") == [early, late]
    assert shown(staff, f"{DELIVERIES}?status__exact=PENDING") == [waiting]
    assert shown(staff, f"{DELIVERIES}?q={hook.id}") == sorted([early, late, waiting], reverse=True)
    assert shown(staff, f"{DELIVERIES}?q={hook.id}&status__exact=DEAD") == sorted([early, late], reverse=True)
    assert shown(staff, f"{DELIVERIES}?q={waiting}") == [waiting]
    plans = [
        str(collection(Delivery).find(wanted).sort(order).explain()["queryPlanner"]["winningPlan"])
        for wanted, order in (asked[0], asked[2], asked[3])
    ]
    assert not any("'SORT'" in plan or "COLLSCAN" in plan for plan in plans), plans


def test_a_delivery_tells_of_each_attempt(staff: Client, hook: Subscription) -> None:
    text = text_of(staff, f"{DELIVERIES}{quoted(dead_letter(hook))}/change/")
    for word in ("503", "41", "&lt;h1&gt;No&lt;/h1&gt;", "webhook.test", "DEAD", quoted(hook.id)):
        assert word in text, word
    assert "<h1>No</h1>" not in text


def test_replays_what_is_marked_and_nothing_else(staff: Client, hook: Subscription) -> None:
    marked, other = dead_letter(hook), dead_letter(hook)
    waiting = fanout.send_test(subscription_id=hook.id)
    text = act(staff, DELIVERIES, "replay", marked, waiting, "dlv_nothing")
    assert "1 of 3 sent on their way again" in text
    status = {row["_id"]: row["status"] for row in collection(Delivery).find()}
    assert status == {marked: "PENDING", other: "DEAD", waiting: "PENDING"}
    assert [entry.object_id for entry in LogEntry.objects.all()] == [marked]


@pytest.mark.parametrize("how", ["disabled", "deleted"])
def test_replays_nothing_where_nobody_listens(staff: Client, hook: Subscription, how: str) -> None:
    letter = dead_letter(hook)
    if how == "disabled":
        services.set_active(subscription_id=hook.id, is_active=False)
    else:
        services.delete_subscription(user_id=hook.user_id, webhook_id=hook.id)
    assert "is disabled, or no more" in act(staff, DELIVERIES, "replay", letter)
    assert collection(Delivery).find_one({"_id": letter})["status"] == "DEAD"


def test_disables_and_enables(staff: Client, hook: Subscription) -> None:
    other = register(str(UserFactory(email="bob@example.com").pk))
    assert "1 of 1 disabled" in act(staff, HOOKS, "disable", hook.id)
    row = Subscription.objects.get(id=hook.id)
    assert (row.is_active, row.disabled_because) == (False, "STAFF")
    assert Subscription.objects.get(id=other.id).is_active
    collection(Subscription).update_one({"_id": hook.id}, {"$set": {"consecutive_failures": 20}})
    assert "1 of 1 enabled" in act(staff, HOOKS, "enable", hook.id)
    row = Subscription.objects.get(id=hook.id)
    assert (row.is_active, row.disabled_because, row.consecutive_failures) == (True, None, 0)


def test_without_mongodb_an_action_says_so(
    staff: Client, hook: Subscription, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> None:
        raise services.Transient("The database is not answering.")

    monkeypatch.setattr(services, "set_active", fail)
    assert "not answering" in act(staff, HOOKS, "disable", hook.id)
    assert Subscription.objects.get(id=hook.id).is_active


def test_forms_change_nothing(staff: Client, hook: Subscription) -> None:
    letter = dead_letter(hook)
    for base, key in ((HOOKS, hook.id), (DELIVERIES, letter)):
        for path in (f"{quoted(key)}/change/", f"{quoted(key)}/delete/", "add/"):
            assert (
                staff.post(base + path, {"post": "yes", "url": "x", "status": "DELIVERED"}).status_code == 403
            )
        act(staff, base, "delete_selected", key)
    assert Subscription.objects.get(id=hook.id).url == hook.url
    assert collection(Delivery).find_one({"_id": letter})["status"] == "DEAD"


def test_who_may_only_look_cannot_act(hook: Subscription) -> None:
    helper = browser()
    letter = dead_letter(hook)
    assert helper.get(HOOKS).status_code == 403
    allowed = Permission.objects.filter(codename__in=["view_subscriptionrow", "view_deliveryrow"])
    UserFactory._meta.model.objects.get(email="staff@example.com").user_permissions.set(allowed)
    assert shown(helper, HOOKS) == [hook.id]
    act(helper, HOOKS, "disable", hook.id)
    act(helper, DELIVERIES, "replay", letter)
    assert Subscription.objects.get(id=hook.id).is_active
    assert collection(Delivery).find_one({"_id": letter})["status"] == "DEAD"
