"""Paths that a proxy reads otherwise are not found, whatever Django would make of them."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from django.test import Client

from payflow.api import raw_paths

PLAIN = [
    "/", "/wallets/me", "/transactions/txn_0a1b", "/admin/", "/admin/accounts/user/66f0_2D/change/",
    "/auth/api-keys",
    "/x/a:b", "/x/a%3Ab", "/x/%C3%A9", "/x/a%20b", "/.well-known/x", "/openapi.json", "/static/a.b.c.css",
    "/a..b", "/...",
]  # fmt: skip
ODD = [
    "/admin%2Flogin%2F", "/admin%2flogin/", "/wallets%2Fme", "/wallets%5Cme", "/wallets%5cme", "/wallets\\me",
    "/%61dmin/", "/adm%69n/login/", "/admin%2e", "/%2e%2e/admin/", "/x/%2E./admin/", "/x/../admin/",
    "/./admin/",
    "/x/..", "/x/.", "//admin/login/", "/admin//login/", "/wallets/me%00", "/wallets/me%0A", "/wallets/me%7F",
    "/wallets%252Fme", "/wallets%", "/wallets%2", "/wallets%zz", "/wallets%\uff12F", "/wallet\xe9",
    "/wallets me",
    "/%77allets/me", "/wallets%2D", "/wallets%7E",
]  # fmt: skip


@pytest.mark.parametrize("path", PLAIN)
def test_a_plain_path_has_one_reading(path: str) -> None:
    assert raw_paths.has_one_reading(path)


@pytest.mark.parametrize("path", ODD, ids=ascii)
def test_what_decoding_or_normalizing_changes_has_two(path: str) -> None:
    assert not raw_paths.has_one_reading(path)


@pytest.mark.parametrize("path", ["/admin%2Flogin%2F", "/health%2Flive", "/%77allets", "//health"])
@pytest.mark.parametrize("query", ["", "?next=/admin%2F", "?a=//"])
def test_such_a_path_is_not_found_in_words_for_programs(path: str, query: str) -> None:
    response = Client().generic("GET", unquote(path) + query, RAW_URI=path + query)
    assert (response.status_code, response["Content-Type"]) == (404, "application/problem+json")
    assert response.json()["code"] == "not_found"


def test_the_query_is_not_part_of_the_path() -> None:
    assert Client().get("/health/live", RAW_URI="/health/live?x=a%2Fb//..\\").status_code == 200
