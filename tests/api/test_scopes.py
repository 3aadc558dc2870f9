"""API keys against every route and method there is: a scope opens what its row says, and nothing else."""

from __future__ import annotations

import pytest

from accounts import services as accounts
from payflow.api.scopes import Scope
from tests.accounts.keys import mint
from tests.api.client import Api, assert_problem, nothing_changes
from tests.api.test_access import DOORS, LOCKED, ROWS, STAFF, World, world

__all__ = ["world"]

OPENS = {
    Scope.TRANSACTIONS_READ: {
        "GET /transactions",
        "GET /transactions/<pk>",
        "GET /transactions/<pk>/receipt",
        "GET /transactions/batch/<pk>",
    },
    Scope.TRANSACTIONS_WRITE: {"POST /transactions", "POST /transactions/batch"},
    Scope.WALLETS_READ: {
        "GET /wallets",
        "GET /wallets/me",
        "GET /wallets/me/history",
        "GET /wallets/<pk>/balance",
    },
    Scope.DEPOSITS_WRITE: {"POST /wallets/me/deposit"},
    Scope.WEBHOOKS_WRITE: {
        "GET /webhooks",
        "GET /webhooks/<pk>",
        "DELETE /webhooks/<pk>",
        "POST /webhooks/<pk>/rotate-secret",
        "POST /webhooks/<pk>/test",
    },
}
# What shows transactions, or says where they are sent, needs two scopes.
OPEN_TOGETHER = {
    "POST /webhooks",
    "PATCH /webhooks/<pk>",
    "GET /webhooks/<pk>/logs",
    "POST /webhooks/<pk>/logs/<delivery>/redeliver",
    "GET /webhooks/<pk>/events",
}
BOTH = (Scope.WEBHOOKS_WRITE, Scope.TRANSACTIONS_READ)
OWNER = 2


def key_of(world: World, actor: str, *scopes: str) -> Api:
    return Api(mint(world.people[actor].user, *scopes).encoded)


def assert_closed(world: World, key: Api, door: str) -> None:
    """The key does not open this door, and the answer says what would."""
    detail = assert_problem(world.knock(key, door), 403, "permission_denied")["detail"]
    if ROWS[door] == STAFF:
        return
    needed = next((scope for scope, doors in OPENS.items() if door in doors), None)
    if door in OPEN_TOGETHER:
        assert detail == f"This needs an API key with the scopes {' and '.join(BOTH)}."
    elif needed:
        assert detail == f"This needs an API key with the scope {needed}."
    else:
        assert detail == "API keys may not do this: sign in instead."


def test_the_table_names_routes_that_there_are_and_every_scope() -> None:
    assert set().union(OPEN_TOGETHER, *OPENS.values()) - set(DOORS) == set()
    assert set(OPENS) == set(Scope)


@pytest.mark.parametrize("scope", Scope)
def test_a_key_with_one_scope_opens_what_that_scope_opens(world: World, scope: Scope) -> None:
    key = key_of(world, "owner", scope)
    world.knock(key, "GET /wallets")  # notes the key's first use
    for door in sorted(LOCKED, key=lambda door: door.startswith("DELETE ")):
        if door in OPENS[scope]:
            response = world.knock(key, door)
            assert response.status_code == ROWS[door][OWNER], (door, response.content)
        else:
            with nothing_changes():
                assert_closed(world, key, door)


def test_all_scopes_together_open_no_more(world: World) -> None:
    key = key_of(world, "owner", *Scope)
    world.knock(key, "GET /wallets")
    with nothing_changes():
        for door in set(LOCKED) - set().union(OPEN_TOGETHER, *OPENS.values()):
            assert_closed(world, key, door)


def test_a_key_reads_deliveries_only_with_both_scopes(world: World) -> None:
    key = key_of(world, "owner", *BOTH)
    world.knock(key, "GET /wallets")
    for door in sorted(OPEN_TOGETHER):
        assert world.knock(key, door).status_code == ROWS[door][OWNER], door


def test_a_key_of_staff_is_not_staff(world: World) -> None:
    key = key_of(world, "staff", *Scope)
    for door in (door for door, row in ROWS.items() if row == STAFF):
        assert_problem(world.knock(key, door), 403, "permission_denied")
    for door in ("GET /transactions/<pk>", "GET /wallets/<pk>/balance", "GET /transactions/<pk>/receipt"):
        assert_problem(world.knock(key, door), 404, "not_found")


def test_a_key_does_nothing_to_what_is_open_to_everyone(world: World) -> None:
    for header in (mint(world.people["owner"].user).encoded, f"pk_{'0' * 32}_{'a' * 43}"):
        assert world.knock(Api(header), "POST /auth/login").status_code == 200
        assert world.knock(Api(header), "GET /ledger/keys").status_code == 200
        assert world.knock(Api(header), "GET /").status_code == 200


def test_another_owners_key_sees_and_moves_only_its_owners(world: World) -> None:
    key = key_of(world, "stranger", *Scope)
    for door in ("GET /transactions/<pk>", "GET /wallets/<pk>/balance"):
        assert_problem(world.knock(key, door), 404, "not_found")
    assert key.get("/transactions").json()["results"] == []
    before = world.people["owner"].cents
    assert world.knock(key, "POST /transactions").status_code == 201
    assert world.knock(key, "POST /wallets/me/deposit").status_code == 201
    assert world.people["owner"].cents == before


def test_a_deactivated_owners_key_opens_nothing_not_even_to_read(world: World) -> None:
    key = key_of(world, "owner", *Scope)
    accounts.deactivate_user(user_id=world.people["owner"].id)
    with nothing_changes():
        for door in LOCKED:
            assert_problem(world.knock(key, door), 401, "not_authenticated")
