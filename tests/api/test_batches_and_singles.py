"""Whatever is sent: a transfer of a batch gets the verdict that it would have got alone."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts import services as accounts
from tests.api.client import Party, join
from wallets import services as wallets
from wallets.documents import Wallet

PEOPLE = ("self", "other", "frozen", "gone", "nobody", "unopened")
SHOWN = ("amount", "currency", "status", "description", "reference", "failure")

receivers = st.one_of(
    st.fixed_dictionaries({"receiver_id": st.sampled_from(PEOPLE)}),
    st.fixed_dictionaries({"receiver_email": st.sampled_from(PEOPLE)}),
    st.fixed_dictionaries({}, optional={"receiver_id": st.just("other"), "receiver_email": st.just("other")}),
)
terms = st.fixed_dictionaries(
    {"amount": st.sampled_from(["1.00", "0.01", "0", "1.001", "-1", 5, 1.5, None, "x", "99999999999999999"])},
    optional={
        "currency": st.sampled_from(["USD", "EUR", "JPY", "XXX", 1]),
        "description": st.sampled_from(["", "Lunch", "a\nb", "x" * 141, None]),
        "reference": st.sampled_from(["r1", "r2", "r3", "", "a b", 7]),
        "other": st.just(1),
    },
)
good = st.fixed_dictionaries(
    {"receiver_id": st.just("other"), "amount": st.just("1.00")},
    optional={"reference": st.sampled_from(["r1", "r2", "r3"])},
)
transfers = st.lists(
    good | st.builds(lambda a, b: {**a, **b}, receivers, terms) | st.just({}), min_size=1, max_size=8
)


_numbers = count()


@pytest.fixture
def others() -> dict[str, Party]:
    """Who may be named as a receiver."""
    found = {name: join(name.title()) for name in ("other", "frozen", "gone", "unopened")}
    wallets.open_wallet(user_id=found["other"].id, currency="EUR")
    wallets.freeze_wallets(user_id=found["frozen"].id)
    accounts.deactivate_user(user_id=found["gone"].id)
    return found


def addressed(transfer: dict[str, Any], sender: Party, others: dict[str, Party]) -> dict[str, Any]:
    """Return the transfer with ids and emails in place of names."""
    found = dict(transfer)
    everybody = {**others, "self": sender}
    if "receiver_id" in found:
        named = everybody.get(found["receiver_id"])
        found["receiver_id"] = named.id if named else "f" * 24
    if "receiver_email" in found:
        named = everybody.get(found["receiver_email"])
        found["receiver_email"] = named.user.email if named else "nobody@example.com"
    return found


def verdict(status: int, body: dict[str, Any]) -> dict[str, Any]:
    if status == 201:
        return {name: body[name] for name in SHOWN}
    return {name: value for name, value in body.items() if name != "correlation_id"}


@given(transfers=transfers)
@settings(max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_batch_and_its_transfers_one_by_one_get_the_same_verdicts(
    others: dict[str, Party], transfers: list[dict[str, Any]]
) -> None:
    number = next(_numbers)
    together, alone = (join(f"{name}{number}") for name in ("Together", "Alone"))
    verdicts = []
    for transfer in transfers:
        response = alone.api.post_json("/transactions", addressed(transfer, alone, others))
        verdicts.append(verdict(response.status_code, response.json()))
    Wallet.objects(user_id=others["unopened"].id).delete()
    response = together.api.post_json(
        "/transactions/batch", {"transfers": [addressed(t, together, others) for t in transfers]}
    )
    assert response.status_code == 201, response.content
    results = response.json()["results"]
    assert [
        verdict(201, result["transaction"]) if "transaction" in result else result["problem"]
        for result in results
    ] == verdicts
