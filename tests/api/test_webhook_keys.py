"""Idempotency keys where no money moves: webhooks, their secrets, and how one is told of payments."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from django.conf import LazySettings

from payflow import clock, redisdb
from payflow.mongodb import collection
from tests.api.client import Api, Party, assert_problem, nothing_changes
from webhooks import fanout, secrets, services
from webhooks.documents import Delivery, Subscription

REPLAYED = "Idempotent-Replayed"
URL = "http://127.0.0.1:9/hooks"
NEW = {"url": URL, "events": ["TRANSACTION_COMPLETED"]}


@dataclass(frozen=True)
class Hook:
    """A webhook of Anna's with a delivery that has ended, and the secret it began with."""

    id: str
    delivery_id: str
    secret: str


@pytest.fixture
def hook(anna: Party) -> Hook:
    made, secret = services.create_subscription(user_id=anna.id, url=URL, events=NEW["events"])
    delivery_id = fanout.send_test(subscription_id=made.id)
    Delivery.objects(id=delivery_id).update(set__status="DEAD")
    return Hook(made.id, delivery_id, secret)


REQUESTS: dict[str, tuple[str, str, Any]] = {
    "create": ("POST", "/webhooks", NEW),
    "create with a secret": ("POST", "/webhooks", {**NEW, "secret": "whsec_" + "QUJD" * 10}),
    "change": ("PATCH", "/webhooks/{id}", {"events": ["DEBIT_FAILED"]}),
    "rotate": ("POST", "/webhooks/{id}/rotate-secret", {}),
    "test": ("POST", "/webhooks/{id}/test", {}),
    "redeliver": ("POST", "/webhooks/{id}/logs/{delivery_id}/redeliver", {}),
    "profile": ("PATCH", "/auth/me", {"email_notifications": False}),
}


def ask(api: Api, hook: Hook, name: str, **headers: str) -> Any:
    method, path, body = REQUESTS[name]
    path = path.format(id=hook.id, delivery_id=hook.delivery_id)
    return api.send(method, path, json.dumps(body).encode(), **headers)


def slots() -> list[dict[str, str]]:
    return [redisdb.client().hgetall(name) for name in redisdb.client().keys("payflow:idempotency:k:*")]


@pytest.mark.parametrize("name", REQUESTS)
def test_a_repeat_gets_every_byte_of_the_first_answer_and_does_nothing(
    anna: Party, hook: Hook, name: str
) -> None:
    first = ask(anna.api, hook, name, Idempotency_Key="k")
    assert (first.status_code // 100, REPLAYED in first) == (2, False), first.content
    with nothing_changes():
        again = ask(anna.api, hook, name, Idempotency_Key="k")
    assert (again.status_code, again.content, again[REPLAYED]) == (first.status_code, first.content, "true")
    assert again.get("Location") == first.get("Location")
    assert again["Cache-Control"] == "no-store"


@pytest.mark.parametrize("name", ["create", "create with a secret", "rotate"])
def test_a_secret_is_sealed_in_redis_and_is_the_one_that_signs(anna: Party, hook: Hook, name: str) -> None:
    ask(anna.api, hook, name, Idempotency_Key="k")
    body = ask(anna.api, hook, name, Idempotency_Key="k").json()
    stored = Subscription.objects.get(id=body["id"]).secrets
    assert secrets.signing_secrets(stored, now=clock.now())[0] == body["secret"] != hook.secret
    (slot,) = slots()
    assert {"answer", "status"} <= set(slot)
    assert body["secret"].removeprefix("whsec_") not in str(slot)
    assert body["id"] not in str(slot["answer"])


def test_a_key_used_for_another_webhook_is_refused(anna: Party, hook: Hook) -> None:
    ask(anna.api, hook, "create", Idempotency_Key="k")
    with nothing_changes():
        other = anna.api.post_json("/webhooks", {**NEW, "url": URL + "/2"}, Idempotency_Key="k")
        assert_problem(other, 422, "idempotency_key_reused")


def test_another_user_s_key_is_another_key(anna: Party, bob: Party, hook: Hook) -> None:
    hers, his = (ask(party.api, hook, "create", Idempotency_Key="k") for party in (anna, bob))
    assert (his.status_code, REPLAYED in his) == (201, False)
    assert his.json()["secret"] != hers.json()["secret"]


def test_of_twenty_requests_at_once_one_registers(anna: Party, hook: Hook) -> None:
    with ThreadPoolExecutor(20) as pool:
        clients = [anna.another_client() for _ in range(20)]
        answers = list(pool.map(lambda api: ask(api, hook, "create", Idempotency_Key="k"), clients))
    (acted,) = [a for a in answers if a.status_code == 201 and REPLAYED not in a]
    for answer in answers:
        if answer.status_code == 201:
            assert answer.content == acted.content
        else:
            assert_problem(answer, 409, "idempotency_in_progress")
    assert collection(Subscription).count_documents({"user_id": anna.id}) == 2


def test_a_refusal_is_repeated_too(anna: Party, hook: Hook, settings: LazySettings) -> None:
    settings.WEBHOOKS_PER_USER_MAX = 1
    first, again = (anna.api.post_json("/webhooks", NEW, Idempotency_Key="k") for _ in range(2))
    assert_problem(first, 409, "webhook_limit")
    assert (again.status_code, again.content, again[REPLAYED]) == (409, first.content, "true")
