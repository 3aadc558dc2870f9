"""Query strings: an unknown or repeated name is refused on every route, never ignored."""

from __future__ import annotations

import re

import pytest
from django.test import Client

from accounts.unsubscribing import unsubscribe_url
from tests.api.client import Party, assert_problem, nothing_changes
from tests.api.test_access import DOORS

ADDRESSES = [
    "/transactions",
    "/wallets/me",
    "/wallets/me/history",
    "/wallets/{wallet}/balance",
    "/auth/api-keys",
]
MISTYPED = ["batch_id=bat_00000000000000000000000000000000", "Limit=1", "cursor[]=x", "limit=1&page=2", "x"]
# For probes, scrapers, readers and people.
IGNORES_ITS_QUERY = {
    "GET /", "GET /health", "GET /health/live", "GET /health/ready", "GET /metrics", "GET /openapi.json",
}  # fmt: skip
PEOPLE = {"GET /auth/unsubscribe", "POST /auth/unsubscribe"}


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("query", MISTYPED)
def test_an_unknown_parameter_is_refused_and_named(anna: Party, address: str, query: str) -> None:
    path = address.format(wallet=anna.wallet.id)
    assert anna.api.get(path).status_code == 200
    problem = assert_problem(anna.api.get(f"{path}?{query}"), 400, "validation_error")
    named = {error["field"] for error in problem["errors"] if error["code"] == "unknown_field"}
    assert query.split("&")[-1].split("=")[0] in named


@pytest.mark.parametrize("door", [door for door in DOORS if door not in IGNORES_ITS_QUERY | PEOPLE])
@pytest.mark.parametrize(
    ("query", "name", "code"),
    [
        ("aftr=3", "aftr", "unknown_field"),
        ("a=1&a=1", "a", "repeated"),
        ("limit=1&limit=2", "limit", "repeated"),
    ],
)
def test_every_route_reads_its_query_strictly(
    staff: Party, door: str, query: str, name: str, code: str
) -> None:
    method, route = door.split(" ")
    path = re.sub(r"<\w+>", "x", route)
    with nothing_changes():
        response = staff.api.send(method, f"{path}?{query}", b"{}")
        problem = assert_problem(response, 400, "validation_error")
    assert [(error["field"], error["code"]) for error in problem["errors"]] == [(name, code)]


@pytest.mark.parametrize("door", sorted(IGNORES_ITS_QUERY))
def test_probes_may_be_called_with_cache_busters(staff: Party, door: str) -> None:
    assert staff.api.get(f"{door.split(' ')[1]}?_=1&_=2").status_code == 200


def test_head_reads_the_query_as_get_does(anna: Party) -> None:
    assert anna.api.head("/transactions?status=FAILED").status_code == 200
    assert anna.api.head("/transactions?status=FAILED&status=COMPLETED").status_code == 400


@pytest.mark.parametrize("more", ["&token=x", "&utm_source=mail", "&Token=x"])
def test_the_link_out_of_mails_is_read_in_one_way(anna: Party, more: str) -> None:
    link = unsubscribe_url(user_id=anna.id).removeprefix("http://localhost:8000")
    with nothing_changes():
        for ask in (Client().get, Client().post):
            assert ask(link + more).status_code == 400
    assert Client().post(link).status_code == 200


def test_credentials_come_before_the_query(anyone: Party) -> None:
    assert_problem(anyone.get("/transactions?aftr=3"), 401, "not_authenticated")
