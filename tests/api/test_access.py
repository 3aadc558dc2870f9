"""Who may do what: a row for every route and method there is. A new route without its row fails here."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
from django.conf import settings
from django.contrib.admindocs.views import simplify_regex
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from accounts import services as accounts
from accounts import sessions, tokens
from accounts.unsubscribing import unsubscribe_url
from tests.accounts.factories import PASSWORD
from tests.accounts.keys import mint
from tests.api.client import Api, Party, assert_problem, join, nothing_changes
from transfers import saga
from webhooks import fanout
from webhooks import services as webhooks
from webhooks.documents import Delivery

OWNERS_SESSION = "0" * 32
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
ACTORS = ("anonymous", "stranger", "owner", "staff")
# These answer people, in HTML, and have their own tests.
EXCLUDED_BELOW = ("/admin/", "/static/")
EXCLUDED = {"/docs", "/redoc"}

EVERYONE, CREATES = (200, 200, 200, 200), (401, 201, 201, 201)
PAYMENT = {"receiver_email": "receiver@example.com", "amount": "1.00"}
USERS, OWNERS, STAFF = (401, 200, 200, 200), (401, 404, 200, 200), (401, 403, 403, 200)
OWNER_ONLY, OWNER_SENDS = (401, 404, 200, 404), (401, 404, 202, 404)

# What an anonymous caller, a stranger, the owner and staff get for a good request.
ROWS = {
    "GET /": EVERYONE,
    "GET /health": EVERYONE,
    "GET /health/live": EVERYONE,
    "GET /health/ready": EVERYONE,
    "GET /metrics": EVERYONE,
    "GET /openapi.json": EVERYONE,
    "POST /auth/register": (201, 201, 201, 201),
    "POST /auth/login": EVERYONE,
    "POST /auth/refresh": EVERYONE,
    "POST /auth/logout": (204, 204, 204, 204),
    "POST /auth/password": (401, 204, 204, 204),
    "GET /auth/me": USERS,
    "GET /auth/sessions": USERS,
    "DELETE /auth/sessions": (401, 204, 204, 204),
    "DELETE /auth/sessions/<pk>": (401, 404, 204, 404),
    "GET /auth/api-keys": USERS,
    "POST /auth/api-keys": CREATES,
    "GET /auth/api-keys/<pk>": (401, 404, 200, 404),
    "DELETE /auth/api-keys/<pk>": (401, 404, 204, 404),
    "PATCH /auth/me": USERS,
    # Whose account it is the link says, not the caller.
    "GET /auth/unsubscribe": EVERYONE,
    "POST /auth/unsubscribe": EVERYONE,
    "GET /wallets": USERS,
    "POST /wallets": CREATES,
    "GET /wallets/me": USERS,
    "POST /wallets/me/deposit": CREATES,
    "POST /wallets/me/withdraw": CREATES,
    "GET /wallets/me/history": USERS,
    "GET /wallets/<pk>/balance": OWNERS,
    "GET /transactions": USERS,
    "POST /transactions": CREATES,
    "GET /transactions/<pk>": OWNERS,
    "POST /transactions/batch": CREATES,
    "GET /transactions/batch/<pk>": OWNERS,
    "GET /transactions/<pk>/receipt": OWNERS,
    "GET /webhooks": USERS,
    "POST /webhooks": CREATES,
    "GET /webhooks/<pk>": OWNER_ONLY,
    "PATCH /webhooks/<pk>": OWNER_ONLY,
    "DELETE /webhooks/<pk>": (401, 404, 204, 404),
    "POST /webhooks/<pk>/rotate-secret": OWNER_ONLY,
    "POST /webhooks/<pk>/test": OWNER_SENDS,
    "GET /webhooks/<pk>/logs": OWNER_ONLY,
    "POST /webhooks/<pk>/logs/<delivery>/redeliver": OWNER_SENDS,
    "GET /webhooks/<pk>/events": OWNER_ONLY,
    "GET /ledger/keys": EVERYONE,
    "GET /ledger/simulation": STAFF,
    "POST /ledger/simulation": STAFF,
    "POST /ledger/simulation/reset": STAFF,
    "GET /ledger/audit": STAFF,
}


def routes(patterns: list[Any], prefix: str = "") -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield every route below `patterns` with the methods it takes."""
    for pattern in patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from routes(pattern.url_patterns, path)
        elif isinstance(pattern, URLPattern):
            route = simplify_regex(path)
            if route not in EXCLUDED and not route.startswith(EXCLUDED_BELOW):
                yield route, _methods_of(pattern.callback)


def _methods_of(view: Any) -> tuple[str, ...]:
    view_class = getattr(view, "cls", None) or getattr(view, "view_class", None)
    taken = getattr(view, "actions", None) or [
        m for m in ("get", *view_class.http_method_names) if hasattr(view_class, m)
    ]
    return tuple(method for method in METHODS if method.lower() in taken)


ROUTES = dict(routes(get_resolver().url_patterns))
DOORS = [f"{method} {route}" for route, methods in ROUTES.items() for method in methods]
LOCKED = [door for door in DOORS if ROWS.get(door, USERS)[0] == 401]


@dataclass(frozen=True)
class World:
    """Everybody, with a transaction of the owner's that has ended, and a webhook that was told of it."""

    people: dict[str, Party]
    transaction_id: str
    batch_id: str
    api_key_id: str
    webhook_id: str
    delivery_id: str

    def client(self, actor: str) -> Api:
        return self.people[actor].api if actor in self.people else Api()

    def knock(self, client: Api, door: str) -> Any:
        """Make a good request."""
        method, route = door.split(" ")
        path = route.replace("<pk>", self.pk(route)).replace("<delivery>", self.delivery_id)
        if route == "/auth/unsubscribe":
            path = unsubscribe_url(user_id=self.people["owner"].id).removeprefix(settings.PUBLIC_URL)
        if method in {"GET", "HEAD", "DELETE"}:
            return client.generic(method, path)
        return client.send(method, path, json.dumps(self.body(route)).encode())

    def pk(self, route: str) -> str:
        """Return the id of what is the owner's at `route`."""
        ids = {
            "/auth/sessions": OWNERS_SESSION,
            "/auth/api-keys": self.api_key_id,
            "/transactions/batch": self.batch_id,
            "/transactions": self.transaction_id,
            "/webhooks": self.webhook_id,
        }
        return next((ids[start] for start in ids if route.startswith(start)), self.people["owner"].wallet.id)

    def body(self, route: str) -> dict[str, Any]:
        """Return a body that `route` takes."""
        if route in {"/auth/refresh", "/auth/logout"}:
            signed_in = accounts.sign_in(email="owner@example.com", password=PASSWORD)
            return {"refresh": signed_in.tokens.refresh}
        return {
            "/auth/register": {"name": "New", "email": "new@example.com", "password": PASSWORD},
            "/auth/login": {"email": "owner@example.com", "password": PASSWORD},
            "/auth/password": {"current_password": PASSWORD, "new_password": "a better password"},
            "/auth/api-keys": {"name": "Robot", "scopes": ["wallets:read"]},
            "/wallets": {"currency": "EUR"},
            "/wallets/me/deposit": {"amount": "1.00"},
            "/wallets/me/withdraw": {"amount": "1.00"},
            "/transactions": PAYMENT,
            "/transactions/batch": {"transfers": [PAYMENT]},
            "/webhooks": {"url": "http://127.0.0.1:9/", "events": ["TRANSACTION_COMPLETED"]},
            "/ledger/simulation": {"enabled": False},
        }.get(route, {})


@pytest.fixture
def world() -> World:
    people = {name: join(name.title(), cents=100_00, is_staff=name == "staff") for name in ACTORS[1:]}
    receiver = join("Receiver")
    body = {"transfers": [{"receiver_id": receiver.id, "amount": "1.00"}]}
    batch = people["owner"].api.post_json("/transactions/batch", body).json()
    started = batch["results"][0]["transaction"]
    saga.complete(saga.credit(saga.debit([started["id"]])).credited)
    sessions.open_family(
        user_id=people["owner"].id, family=OWNERS_SESSION, jti="x", expires_at=int(time.time()) + 60
    )
    webhook, _ = webhooks.create_subscription(
        user_id=people["owner"].id, url="http://127.0.0.1:9/", events=["TRANSACTION_COMPLETED"]
    )
    delivery_id = fanout.send_test(subscription_id=webhook.id)
    Delivery.objects(id=delivery_id).update(set__status="DEAD")
    key = mint(people["owner"].user).key
    return World(people, started["id"], batch["id"], key.id, webhook.id, delivery_id)


def test_every_route_and_method_has_a_row_and_every_row_its_route() -> None:
    assert sorted(DOORS) == sorted(ROWS)


@pytest.mark.parametrize(("position", "actor"), list(enumerate(ACTORS)), ids=ACTORS)
@pytest.mark.parametrize("door", [door for door in DOORS if door in ROWS])
def test_a_good_request_gets_what_its_sender_may_have(
    world: World, door: str, actor: str, position: int
) -> None:
    response = world.knock(world.client(actor), door)
    expected = ROWS[door][position]
    assert response.status_code == expected, response.content
    if expected >= 400:
        code = {401: "not_authenticated", 403: "permission_denied", 404: "not_found"}[expected]
        assert_problem(response, expected, code)
    assert ("WWW-Authenticate" in response) == (expected == 401)


def test_staff_without_permissions_may_do_no_more_than_a_stranger(world: World) -> None:
    user = world.people["staff"].user
    user.user_permissions.clear()
    for door in DOORS:
        response = world.knock(world.people["staff"].api, door)
        assert response.status_code == ROWS[door][ACTORS.index("stranger")], (door, response.content)


def refusal_of_a_method(route: str, actor: str) -> tuple[int, str]:
    """Say how a method that `route` does not take is refused: who may not come in learns nothing of it."""
    rows = [ROWS[f"{method} {route}"] for method in ROUTES[route]]
    if actor == "anonymous" and all(row[0] == 401 for row in rows):
        return 401, "not_authenticated"
    if actor in {"stranger", "owner"} and all(row == STAFF for row in rows):
        return 403, "permission_denied"
    return 405, "method_not_allowed"


@pytest.mark.parametrize("route", ROUTES)
def test_a_method_that_a_route_does_not_take_is_refused(world: World, route: str) -> None:
    path = route.replace("<pk>", world.transaction_id).replace("<delivery>", world.delivery_id)
    taken = {*ROUTES[route], *(["HEAD"] if "GET" in ROUTES[route] else [])}
    with nothing_changes():
        for actor, method in product(ACTORS, sorted({*METHODS, "HEAD", "OPTIONS", "TRACE", "BREW"} - taken)):
            response = world.client(actor).send(method, path, b"{}")
            status, code = refusal_of_a_method(route, actor)
            assert response.status_code == status, (actor, method)
            if method == "HEAD":
                assert response.content == b""
            elif route != "/auth/unsubscribe":  # it tells people
                assert_problem(response, status, code)
            assert status != 405 or set(response["Allow"].split(", ")) == taken


@pytest.mark.parametrize("route", [route for route, methods in ROUTES.items() if "GET" in methods])
def test_head_opens_what_get_opens_and_says_no_more(world: World, route: str) -> None:
    with nothing_changes():
        for position, actor in enumerate(ACTORS):
            response = world.knock(world.client(actor), f"HEAD {route}")
            assert (response.status_code, response.content) == (ROWS[f"GET {route}"][position], b""), actor


@pytest.fixture
def bad_tokens(world: World) -> dict[str, str]:
    """Tokens that prove nothing about who is calling."""
    owner = world.people["owner"].id
    expired = tokens.AccessToken()
    expired["sub"], expired["fam"], expired["staff"] = owner, "tests", True
    expired.set_exp(from_time=timezone.now() - 2 * expired.lifetime)
    good = tokens.issue_access(user_id=owner, is_staff=True, family="tests")
    return {
        "none": "", "nonsense": "x", "three parts": "a.b.c", "not ASCII": "\u00e4", "long": "x" * 10_000,
        "refresh": tokens.issue_refresh(user_id=owner, family="tests")[0], "cut": good[:-3],
        "unsigned": good.rsplit(".", 1)[0] + ".", "expired": str(expired),
    }  # fmt: skip


@pytest.mark.parametrize("door", LOCKED)
def test_only_a_good_access_token_opens(world: World, bad_tokens: dict[str, str], door: str) -> None:
    with nothing_changes():
        for name, token in bad_tokens.items():
            code = "token_expired" if name == "expired" else "not_authenticated"
            assert_problem(world.knock(Api(token or " "), door), 401, code)


@pytest.mark.parametrize("door", [door for door in LOCKED if not door.startswith("GET ")])
@pytest.mark.parametrize("actor", ["owner", "staff"])
def test_a_deactivated_user_changes_nothing(world: World, door: str, actor: str) -> None:
    accounts.deactivate_user(user_id=world.people[actor].id)
    with nothing_changes():
        assert_problem(world.knock(world.client(actor), door), 401, "not_authenticated")


@pytest.mark.parametrize("door", LOCKED)
def test_the_body_is_not_looked_at_before_the_caller_is_known(world: World, door: str) -> None:
    method, route = door.split(" ")
    with nothing_changes():
        path = route.replace("<pk>", "x").replace("<delivery>", "x")
        response = Api().send(method, path, b"\xff{", "text/xml")
        assert_problem(response, 401, "not_authenticated")
