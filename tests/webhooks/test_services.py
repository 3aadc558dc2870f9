"""Subscriptions: their limit, their secrets, their failures; and what the indexes serve."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import mongoengine
import pytest
from cryptography.fernet import Fernet
from django.conf import LazySettings
from django.core.management import CommandError, call_command

from payflow import clock
from payflow.ids import new_id
from payflow.mongodb import collection
from tests.webhooks import hooks
from webhooks import secrets, selectors, services
from webhooks.documents import Delivery, DeliveryStatus, Subscription, WebhookEvent
from webhooks.errors import DeliveryNotFound, DisabledByStaff, UrlRefused, WebhookLimit, WebhookNotFound

URL = "http://127.0.0.1:9/hooks"
EVENTS = ["TRANSACTION_COMPLETED"]
SECRET = "whsec_" + "QUJD" * 10


def register(user_id: str = "anna", **changes: Any) -> Subscription:
    return services.create_subscription(**{"user_id": user_id, "url": URL, "events": EVENTS, **changes})[0]


def signing(subscription: Subscription, later: timedelta = timedelta()) -> list[str]:
    stored = selectors.get_subscription(user_id=subscription.user_id, webhook_id=subscription.id)
    return secrets.signing_secrets(stored.secrets, now=clock.now() + later)


def fail(subscription: Subscription) -> None:
    """Disable an endpoint as deliveries do."""
    trouble = {
        "is_active": False, "disabled_because": "FAILING", "consecutive_failures": 20,
        "owner_notice": "FAILING", "failing_since": clock.now(),
        "paused_until": clock.now(), "owner_notice_at": clock.now(),
    }  # fmt: skip
    collection(Subscription).update_one({"_id": subscription.id}, {"$set": trouble})


# --- The limit --------------------------------------------------------------------------------------------


def test_the_limit_holds_however_many_come_at_once(settings: LazySettings) -> None:
    settings.WEBHOOKS_PER_USER_MAX = 5

    def ask(_: int) -> bool:
        try:
            register()
        except WebhookLimit:
            return False
        return True

    with ThreadPoolExecutor(12) as pool:
        assert sum(pool.map(ask, range(24))) == 5
    rows = list(collection(Subscription).find({"user_id": "anna"}))
    assert sorted(row["slot"] for row in rows) == [1, 2, 3, 4, 5]
    register("bob")


def test_a_place_that_was_given_up_is_free_again(settings: LazySettings) -> None:
    settings.WEBHOOKS_PER_USER_MAX = 2
    first, _ = register(), register()
    with pytest.raises(WebhookLimit) as refused:
        register()
    assert (refused.value.status, refused.value.code) == (409, "webhook_limit")
    services.change_subscription(user_id="anna", webhook_id=first.id, is_active=False)
    with pytest.raises(WebhookLimit):
        register()
    services.delete_subscription(user_id="anna", webhook_id=first.id)
    register()
    settings.WEBHOOKS_PER_USER_MAX = 1
    with pytest.raises(WebhookLimit):
        register()


def test_no_host_is_looked_up_for_who_may_not_register(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.WEBHOOKS_PER_USER_MAX = 1
    register()
    looked_up: list[str] = []
    monkeypatch.setattr(services.addresses, "resolve", lambda host, port: looked_up.append(host) or [])
    with pytest.raises(WebhookLimit):
        register(url="https://hooks.example.com/")
    assert looked_up == []
    with pytest.raises(UrlRefused):
        register("bob", url="https://hooks.example.com/")
    assert looked_up == ["hooks.example.com"]


# --- Secrets ----------------------------------------------------------------------------------------------


def test_no_secret_is_in_the_database_or_in_a_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    subscription, made = services.create_subscription(user_id="anna", url=URL, events=EVENTS)
    chosen = register(secret=SECRET)
    rotated, fresh = services.rotate_secret(user_id="anna", webhook_id=subscription.id)
    assert signing(chosen) == [SECRET]
    stored = str(list(mongoengine.get_db()["webhook_subscriptions"].find()))
    shown = f"{subscription} {subscription!r} {rotated!r} {rotated}"
    for secret in (made, SECRET, fresh):
        assert secret.removeprefix("whsec_") not in stored + caplog.text + shown
    assert "gAAAA" not in caplog.text + shown


def test_a_rotation_lets_the_former_secret_sign_for_a_day() -> None:
    subscription = register(secret=SECRET)
    _, fresh = services.rotate_secret(user_id="anna", webhook_id=subscription.id)
    assert signing(subscription) == [fresh, SECRET]
    assert signing(subscription, timedelta(hours=23, minutes=59)) == [fresh, SECRET]
    assert signing(subscription, timedelta(hours=24)) == [fresh]


def test_rotations_never_prolong_a_secret_and_keep_few(settings: LazySettings) -> None:
    subscription = register(secret=SECRET)
    made = [services.rotate_secret(user_id="anna", webhook_id=subscription.id)[1]]
    ends = Subscription.objects.get(id=subscription.id).secrets[1]["expires_at"]
    settings.WEBHOOK_SECRET_OVERLAP_SECONDS = 10 * 86_400
    made.append(services.rotate_secret(user_id="anna", webhook_id=subscription.id)[1])
    stored = Subscription.objects.get(id=subscription.id).secrets
    assert [each.get("expires_at") is None for each in stored] == [True, False, False]
    assert stored[2]["expires_at"] == ends
    assert signing(subscription) == [made[1], made[0], SECRET]
    made.append(services.rotate_secret(user_id="anna", webhook_id=subscription.id)[1])
    assert signing(subscription) == [made[2], made[1], made[0]]
    settings.WEBHOOK_SECRET_OVERLAP_SECONDS = 0
    made.append(services.rotate_secret(user_id="anna", webhook_id=subscription.id)[1])
    assert signing(subscription)[0] == made[3]
    assert made[2] not in signing(subscription)


def test_a_rotation_drops_what_has_expired() -> None:
    subscription = register(secret=SECRET)
    services.rotate_secret(user_id="anna", webhook_id=subscription.id)
    past = clock.now() - timedelta(seconds=1)
    collection(Subscription).update_one({}, {"$set": {"secrets.1.expires_at": past}})
    services.rotate_secret(user_id="anna", webhook_id=subscription.id)
    assert len(Subscription.objects.get(id=subscription.id).secrets) == 2


def test_rotations_at_once_all_hold() -> None:
    subscription = register()
    with ThreadPoolExecutor(2) as pool:
        made = list(
            pool.map(
                lambda _: services.rotate_secret(user_id="anna", webhook_id=subscription.id)[1], range(2)
            )
        )
    assert set(made) <= set(signing(subscription))
    assert len(signing(subscription)) == 3


def test_seals_are_renewed_and_the_old_key_can_go(
    settings: LazySettings, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = settings.WEBHOOK_SECRET_KEYS[0], Fernet.generate_key().decode()
    subscriptions = [register(secret=SECRET) for _ in range(3)]
    services.rotate_secret(user_id="anna", webhook_id=subscriptions[0].id)
    settings.WEBHOOK_SECRET_KEYS = [new, old]
    call_command("webhook_keys")
    assert "0 of 3" in capsys.readouterr().out
    call_command("webhook_keys", "--reseal")
    assert "3 subscriptions sealed anew" in capsys.readouterr().out
    settings.WEBHOOK_SECRET_KEYS = [new]
    assert [SECRET in signing(subscription) for subscription in subscriptions] == [True] * 3
    call_command("webhook_keys", "--reseal")
    assert "0 subscriptions sealed anew" in capsys.readouterr().out
    call_command("webhook_keys")
    assert "3 of 3" in capsys.readouterr().out
    settings.WEBHOOK_SECRET_KEYS = [Fernet.generate_key().decode()]
    with pytest.raises(CommandError, match="No key opens the secrets of 3 of them"):
        call_command("webhook_keys", "--reseal")
    assert SECRET not in capsys.readouterr().out


def test_a_secret_that_no_key_opens_keeps_no_other_from_being_sealed_anew(
    settings: LazySettings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.WEBHOOK_SECRET_KEYS, keys = [Fernet.generate_key().decode()], settings.WEBHOOK_SECRET_KEYS
    lost = register().id
    settings.WEBHOOK_SECRET_KEYS = keys
    kept = register(secret=SECRET)
    new = Fernet.generate_key().decode()
    settings.WEBHOOK_SECRET_KEYS = [new, *keys]
    with pytest.raises(CommandError, match="No key opens the secrets of 1 of them"):
        call_command("webhook_keys", "--reseal")
    shown = capsys.readouterr()
    assert "1 subscriptions sealed anew" in shown.out
    assert "seals 1 of 2" in shown.out
    assert lost in shown.err
    settings.WEBHOOK_SECRET_KEYS = [new]
    assert signing(kept) == [SECRET]


def test_sealing_anew_goes_on_page_by_page(settings: LazySettings) -> None:
    ids = [register(secret=SECRET).id for _ in range(5)]
    settings.WEBHOOK_SECRET_KEYS = [Fernet.generate_key().decode(), *settings.WEBHOOK_SECRET_KEYS]
    assert services.reseal_secrets(after_id="", limit=2) == (ids[1], 2, [])
    assert services.reseal_secrets(after_id=ids[1], limit=2) == (ids[3], 2, [])
    assert services.reseal_secrets(after_id=ids[3], limit=2) == (None, 1, [])


# --- Changing and deleting --------------------------------------------------------------------------------


def test_enabling_forgets_what_went_wrong() -> None:
    subscription = register()
    fail(subscription)
    services.change_subscription(user_id="anna", webhook_id=subscription.id, is_active=True)
    row = collection(Subscription).find_one({"_id": subscription.id})
    gone = {"disabled_because", "failing_since", "paused_until", "owner_notice", "owner_notice_at"}
    assert (row["is_active"], row["consecutive_failures"], gone & set(row)) == (True, 0, set())


@pytest.mark.parametrize("change", [{"is_active": True}, {"url": "http://127.0.0.1:10/"}], ids=str)
def test_a_new_chance_has_what_waits_tried_at_once(change: dict[str, Any]) -> None:
    subscription = register()
    delivery_id = write_delivery(subscription, sequence=1)
    later = {"next_attempt_at": clock.now() + timedelta(hours=9), "tries": 7}
    collection(Delivery).update_one({"_id": delivery_id}, {"$set": later})
    services.change_subscription(user_id="anna", webhook_id=subscription.id, events=["DEBIT_FAILED"])
    assert collection(Delivery).find_one({"_id": delivery_id})["tries"] == 7
    services.change_subscription(user_id="anna", webhook_id=subscription.id, **change)
    hooks.work(subscription.id)
    row = collection(Delivery).find_one({"_id": delivery_id})
    assert (hooks.outcomes(row), row["tries"]) == (["connection_refused"], 1)


def test_a_new_url_gets_a_new_chance_but_does_not_enable() -> None:
    subscription = register()
    fail(subscription)
    changed = services.change_subscription(
        user_id="anna", webhook_id=subscription.id, url="http://127.0.0.1:10/"
    )
    assert (changed.url, changed.is_active, changed.consecutive_failures) == (
        "http://127.0.0.1:10/",
        False,
        0,
    )
    assert (changed.failing_since, changed.disabled_because) == (None, "FAILING")


def test_an_owner_who_disables_a_failing_endpoint_means_it() -> None:
    subscription = register()
    fail(subscription)
    changed = services.change_subscription(user_id="anna", webhook_id=subscription.id, is_active=False)
    assert (changed.is_active, changed.disabled_because, changed.owner_notice) == (False, "OWNER", None)


@pytest.mark.parametrize("is_active", [True, False])
def test_what_staff_have_disabled_only_staff_enable(is_active: bool) -> None:
    subscription = register()
    services.set_active(subscription_id=subscription.id, is_active=False)
    mine = {"user_id": "anna", "webhook_id": subscription.id}
    with pytest.raises(DisabledByStaff) as refused:
        services.change_subscription(**mine, is_active=is_active, events=["DEBIT_FAILED"])
    assert (refused.value.status, refused.value.code) == (409, "webhook_disabled_by_staff")
    changed = services.change_subscription(**mine, url="http://127.0.0.1:10/")
    assert (changed.is_active, changed.disabled_because, changed.events) == (False, "STAFF", EVENTS)
    assert services.set_active(subscription_id=subscription.id, is_active=True).is_active
    assert not services.change_subscription(**mine, is_active=False).is_active
    assert services.change_subscription(**mine, is_active=True).is_active


def test_deleting_removes_the_secrets_and_what_is_on_its_way() -> None:
    subscription, other = register(), register()
    kept = [write_delivery(subscription, status=status) for status in ("DELIVERED", "DEAD")]
    write_delivery(subscription)
    kept.append(write_delivery(other))
    services.delete_subscription(user_id="anna", webhook_id=subscription.id)
    hooks.work(subscription.id)
    assert sorted(row["_id"] for row in collection(Delivery).find()) == sorted(kept)
    assert [row["_id"] for row in collection(Subscription).find()] == [other.id]
    with pytest.raises(WebhookNotFound):
        services.delete_subscription(user_id="anna", webhook_id=subscription.id)


def test_somebody_elses_is_nowhere_to_be_found() -> None:
    subscription = register()
    before = collection(Subscription).find_one({"_id": subscription.id})
    mine = {"user_id": "bob", "webhook_id": subscription.id}
    for attempt in (selectors.get_subscription, services.rotate_secret, services.delete_subscription):
        with pytest.raises(WebhookNotFound):
            attempt(**mine)
    with pytest.raises(WebhookNotFound):
        services.change_subscription(**mine, is_active=False)
    assert selectors.list_subscriptions(user_id="bob", limit=10) == []
    assert collection(Subscription).find_one({"_id": subscription.id}) == before
    delivery_id = write_delivery(register("bob"))
    with pytest.raises(DeliveryNotFound):
        selectors.get_delivery(subscription_id=subscription.id, delivery_id=delivery_id)


# --- Reading ----------------------------------------------------------------------------------------------


def write_delivery(
    subscription: Subscription, *, status: str = "PENDING", sequence: int | None = None
) -> str:
    event = WebhookEvent(id=new_id("evt"), position="0" * 14, payload="{}", kept_until=clock.now())
    event.save(force_insert=True)
    delivery = Delivery(
        id=new_id("dlv"), subscription_id=subscription.id, event_id=event.id,
        created_at=clock.now(), status=status, sequence=sequence,
    )  # fmt: skip
    return delivery.save(force_insert=True).id


def test_the_log_is_newest_first_whatever_the_status() -> None:
    subscription = register()
    # Of those written within a millisecond any may be the newer.
    ids = sorted((write_delivery(subscription, status=s) for s in [*DeliveryStatus] * 3), reverse=True)
    listed = selectors.list_deliveries(subscription_id=subscription.id, limit=20)
    assert [row["_id"] for row in listed] == ids
    assert not any("payload" in row for row in listed)
    page = selectors.list_deliveries(subscription_id=subscription.id, limit=4, before_id=ids[3])
    assert [row["_id"] for row in page] == ids[4:8]
    dead = selectors.list_deliveries(subscription_id=subscription.id, limit=9, status=DeliveryStatus.DEAD)
    assert {row["status"] for row in dead} == {"DEAD"}
    assert len(dead) == 3


def test_a_page_reads_only_what_it_shows() -> None:
    subscription = register()
    for number in range(1, 61):
        write_delivery(subscription, status=[*DeliveryStatus][number % 3], sequence=number)
    deliveries = collection(Delivery)
    statuses = [status.value for status in DeliveryStatus]
    log = deliveries.find({"subscription_id": subscription.id, "status": {"$in": statuses}})
    events = deliveries.find({"subscription_id": subscription.id, "sequence": {"$gt": 40, "$type": "long"}})
    for cursor in (log.sort([("_id", -1)]).limit(5), events.sort("sequence", 1).limit(5)):
        plan = cursor.explain()
        assert plan["executionStats"]["totalDocsExamined"] == 5
        assert "'SORT'" not in str(plan["queryPlanner"]["winningPlan"])
    found = selectors.list_events(subscription_id=subscription.id, after=40, limit=5)
    assert [row["sequence"] for row in found] == [41, 42, 43, 44, 45]
