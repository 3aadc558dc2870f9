"""What stands behind the question mark: a name that an address does not know is refused, never ignored."""

from __future__ import annotations

import pytest

from tests.api.client import Party, assert_problem

ADDRESSES = [
    "/transactions",
    "/wallets/me",
    "/wallets/me/history",
    "/wallets/{wallet}/balance",
    "/auth/api-keys",
]
MISTYPED = ["batch_id=bat_00000000000000000000000000000000", "Limit=1", "cursor[]=x", "limit=1&page=2", "x"]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("query", MISTYPED)
def test_an_unknown_parameter_is_refused_and_named(anna: Party, address: str, query: str) -> None:
    path = address.format(wallet=anna.wallet.id)
    assert anna.api.get(path).status_code == 200
    problem = assert_problem(anna.api.get(f"{path}?{query}"), 400, "validation_error")
    named = {error["field"] for error in problem["errors"] if error["code"] == "unknown_field"}
    assert query.split("&")[-1].split("=")[0] in named
